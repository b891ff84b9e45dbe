# SPDX-License-Identifier: Apache-2.0
"""A folder of photographs with captions: the rows to train on, and the questions about held-out photographs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from safetensors.torch import load_file, save_file

from hf_tripletclip.data.schema import CAPTION, DENSE_CAPTION, ID, IMAGE, NEG_CAPTION, PARAPHRASE
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.generation.captions.rules import KINDS, RuleCaptions
from hf_tripletclip.generation.paraphrases.rules import RuleParaphrases

CAPTIONS_FILE, LABELS_FILE, SPLIT_FILE, SUGAR_CREPE = "captions.jsonl", "labels.tsv", "split.json", "sugar_crepe"
PARTS = ("train", "dev", "test")
# Training uses negatives of these kinds; `replace_rel`, of which there are many, only occurs in questions.
TRAINED_KINDS = ("replace_obj", "replace_att", "swap_obj", "swap_att")
NUM_NEGATIVES, NUM_PARAPHRASES = 16, 2  # of a row; a setting of the run says how many of them a batch holds
SHUFFLES = 5  # of the photographs, for the score with other photographs
PROMPT = "a photo of a {}."
# Metric -> its title in the table.
COLUMNS = {
    "rules_trained": "rules, kinds trained on",
    "rules_trained_blind": "... other photographs",
    "rules_trained_seen": "... difference",
    "rules_unseen": "rules, another kind",
    "rules_unseen_blind": "... other photographs",
    "rules_unseen_seen": "... difference",
    "sugar_crepe": "SugarCrepe",
    "sugar_crepe_blind": "... other photographs",
    "sugar_crepe_seen": "... difference",
    "image_to_text_recall@5": "I2T R@5",
    "text_to_image_recall@5": "T2I R@5",
    "zeroshot_top5": "zero-shot top-5",
}


@dataclass(frozen=True)
class Photo:
    """
    A photograph with its captions.

    Args:
        name (`str`): Path relative to the folder.
        captions (`tuple[str, ...]`): Its captions.
        part (`str`): `train`, `dev` or `test`.
    """

    name: str
    captions: tuple[str, ...]
    part: str


def read_photos(folder: Path, model: Path) -> list[Photo]:
    """
    Read the photographs of a folder.

    Args:
        folder (`Path`): Folder with `captions.jsonl`, which has a line `{"image": path, "captions": [...]}` for each
            photograph. If it or the model's folder has a `split.json` with a list `train`, these photographs are for
            training; otherwise six of ten. Half of the others, by a digest of their names, are for choosing settings
            (`dev`), half for the table (`test`).
        model (`Path`): Folder of the model.

    Raises:
        OSError: A file does not exist.
        ValueError: A line does not have that form, or a part has fewer than two photographs.
    """
    trained = _trained_on(folder, model)
    photos = []
    path = folder / CAPTIONS_FILE
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row["captions"], list):
                    raise TypeError(f"its captions are a {type(row['captions']).__name__}")
                name, captions = str(row["image"]), tuple(str(text) for text in row["captions"] if str(text).strip())
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f'{path}, line {number}: give {{"image": a path in the folder, "captions": [...]}} ({error}).'
                ) from error
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{path}, line {number}: there is no {folder / name}.")
            if captions:
                photos.append(Photo(name, captions, _part(name, trained)))
    for part in PARTS:
        if sum(photo.part == part for photo in photos) < 2:
            raise ValueError(f"{folder} has fewer than two photographs for the part {part!r}: add more.")
    return photos


def _trained_on(folder: Path, model: Path) -> set[str] | None:
    for path in (folder / SPLIT_FILE, model / SPLIT_FILE):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping) or not isinstance(content.get("train"), list):
                raise ValueError(f'{path}: give {{"train": [paths of the photographs that are trained on]}}.')
            return set(content["train"])
    return None


def _part(name: str, trained: set[str] | None) -> str:
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 10
    if (name in trained) if trained is not None else drawn < 6:
        return "train"
    return "dev" if drawn % 2 else "test"


def training_rows(photos: Sequence[Photo], folder: Path) -> Dataset:
    """
    A row for each caption of the training photographs, with negatives of `TRAINED_KINDS` and paraphrases by rules, and
    with the photograph's other captions as dense captions.
    """
    negatives = RuleCaptions(kinds=TRAINED_KINDS, num_negatives=NUM_NEGATIVES)
    paraphrases = RuleParaphrases(num_paraphrases=NUM_PARAPHRASES)
    negatives.setup()
    rows = []
    for photo in (photo for photo in photos if photo.part == "train"):
        for number, caption in enumerate(photo.captions):
            key = f"{photo.name}#{number}"
            rows.append(
                {
                    ID: key,
                    IMAGE: str((folder / photo.name).resolve()),
                    CAPTION: caption,
                    NEG_CAPTION: [text for text, _ in negatives.negatives(caption, key)],
                    PARAPHRASE: paraphrases.paraphrases(caption, key),
                    DENSE_CAPTION: [text for other, text in enumerate(photo.captions) if other != number],
                }
            )
    texts = List(Value("string"))
    features = Features(
        {
            ID: Value("string"),
            IMAGE: Image(),
            CAPTION: Value("string"),
            NEG_CAPTION: texts,
            PARAPHRASE: texts,
            DENSE_CAPTION: texts,
        }
    )
    return Dataset.from_list(rows, features=features)


@dataclass(frozen=True)
class Question:
    """
    The question which of two captions is true of a photograph.

    Args:
        group (`str`): `rules_trained`, `rules_unseen` or `sugar_crepe`.
        kind (`str`): The kind of change.
        image (`str`): Path of the photograph, relative to the folder.
        right, wrong (`str`): The true and the false caption.
    """

    group: str
    kind: str
    image: str
    right: str
    wrong: str


def questions_of(photos: Sequence[Photo], folder: Path, part: str) -> list[Question]:
    """The questions about a part: negatives of each kind that rules can make of a caption, and SugarCrepe's rows."""
    questions = []
    for kind in KINDS:
        rules = RuleCaptions(kinds=[kind], seed=1)
        rules.setup()
        group = "rules_trained" if kind in TRAINED_KINDS else "rules_unseen"
        for photo in (photo for photo in photos if photo.part == part):
            for number, caption in enumerate(photo.captions):
                for text, _ in rules.negatives(caption, f"{photo.name}#{number}"):
                    questions.append(Question(group, kind, photo.name, caption, text))
    return questions + list(_sugar_crepe(photos, folder, part))


def _sugar_crepe(photos: Sequence[Photo], folder: Path, part: str) -> Iterator[Question]:
    """Rows of SugarCrepe's files whose photograph is in the folder and not used for training."""
    if not (folder / SUGAR_CREPE).is_dir():
        return
    trained = {Path(photo.name).name for photo in photos if photo.part == "train"}
    there = {
        path.name: str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.name not in trained
    }
    for path in sorted((folder / SUGAR_CREPE).glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")).values():
            name = there.get(row["filename"])
            if name is not None and _part(name, set()) == part:
                yield Question("sugar_crepe", path.stem, name, row["caption"], row["negative_caption"])


def read_labels(folder: Path) -> list[tuple[str, str]]:
    """Labelled photographs and their classes, from `labels.tsv` with the columns `image` and `class_name`, if any."""
    path = folder / LABELS_FILE
    if not path.is_file():
        return []
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    names = head.split("\t")
    if not {"image", "class_name"} <= set(names):
        raise ValueError(f"{path} has the columns {', '.join(names)}; it needs image and class_name.")
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines if line.strip()]
    return [(row["image"], row["class_name"]) for row in rows]


class Pictures:
    """
    Embeddings of photographs, computed once, because the image tower is locked.

    Args:
        embeddings (`dict[str, torch.Tensor]`): Embeddings by path relative to the folder, `(dim,)`, L2-normalised.
    """

    def __init__(self, embeddings: Mapping[str, torch.Tensor]) -> None:
        self.place = {name: number for number, name in enumerate(embeddings)}
        self.matrix = torch.stack(list(embeddings.values()))

    def of(self, names: Sequence[str]) -> torch.Tensor:
        """The embeddings of some photographs, `(len(names), dim)`."""
        return self.matrix[[self.place[name] for name in names]]

    @classmethod
    def cached(cls, encoder: Encoder, folder: Path, names: Sequence[str], file: Path) -> Pictures:
        """Load the embeddings from `file`; if it does not exist, compute and save them first."""
        if not file.is_file():
            embeddings, reasons = encoder.images([ImageFile(str(folder / name)) for name in names])
            if reasons:
                number, reason = next(iter(reasons.items()))
                raise ValueError(f"{len(reasons)} photographs cannot be read, such as {names[number]}: {reason}")
            save_file(dict(zip(names, embeddings.unbind(), strict=True)), file)
        return cls(load_file(file))


def measure(
    encoder: Encoder,
    pictures: Pictures,
    photos: Sequence[Photo],
    questions: Sequence[Question],
    labels: Sequence[tuple[str, str]],
) -> dict[str, float]:
    """
    Measure a model on a part of the photographs.

    Args:
        encoder ([`Encoder`]): The model, with the image tower of `pictures`.
        pictures ([`Pictures`]): Embeddings of all photographs.
        photos (`Sequence[Photo]`): The photographs of the part.
        questions (`Sequence[Question]`): The questions about the part.
        labels (`Sequence[tuple[str, str]]`): Photographs and their classes.

    Returns:
        `dict[str, float]`: The share of right answers (a tie is wrong) for each group of questions and each kind; for
        each group also the share with other photographs instead of the right ones (`_blind`), which measures knowledge
        of captions alone, and the difference of the two (`_seen`); recall at 5; top-5 accuracy.
    """
    texts = list(
        dict.fromkeys(
            [
                *(text for question in questions for text in (question.right, question.wrong)),
                *(text for photo in photos for text in photo.captions),
                *(PROMPT.format(name) for _, name in labels),
            ]
        )
    )
    place = {text: number for number, text in enumerate(texts)}
    embedded = encoder.texts(texts)
    metrics: dict[str, float] = {}
    for group in dict.fromkeys(question.group for question in questions):
        asked = [question for question in questions if question.group == group]
        gaps = embedded[[place[q.right] for q in asked]] - embedded[[place[q.wrong] for q in asked]]
        images = pictures.of([question.image for question in asked])
        right = (images * gaps).sum(dim=1) > 0
        metrics[group] = _share(right)
        blind = []
        for seed in range(SHUFFLES):
            order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed))
            blind.append(_share((images[order] * gaps).sum(dim=1) > 0))
        metrics[f"{group}_blind"] = sum(blind) / SHUFFLES
        metrics[f"{group}_seen"] = metrics[group] - metrics[f"{group}_blind"]
        for kind in dict.fromkeys(question.kind for question in asked):
            metrics[f"{group}_{kind}"] = _share(right[[question.kind == kind for question in asked]])
    metrics |= _retrieval(embedded, place, pictures, photos)
    if labels:
        classes = list(dict.fromkeys(name for _, name in labels))
        scores = pictures.of([image for image, _ in labels]) @ embedded[[place[PROMPT.format(n)] for n in classes]].T
        wanted = torch.tensor([classes.index(name) for _, name in labels])
        metrics["zeroshot_top5"] = _share((scores.topk(min(5, len(classes))).indices == wanted[:, None]).any(dim=1))
    return metrics


def _retrieval(
    embedded: torch.Tensor, place: Mapping[str, int], pictures: Pictures, photos: Sequence[Photo]
) -> dict[str, float]:
    owners = torch.tensor([number for number, photo in enumerate(photos) for _ in photo.captions])
    captions = embedded[[place[text] for photo in photos for text in photo.captions]]
    scores = pictures.of([photo.name for photo in photos]) @ captions.T
    to_text = owners[scores.topk(min(5, scores.shape[1]), dim=1).indices] == torch.arange(len(photos))[:, None]
    to_image = scores.T.topk(min(5, len(photos)), dim=1).indices == owners[:, None]
    return {
        "image_to_text_recall@5": _share(to_text.any(dim=1)),
        "text_to_image_recall@5": _share(to_image.any(dim=1)),
    }


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def names_of(photos: Sequence[Photo], questions: Sequence[Question], labels: Sequence[Any]) -> list[str]:
    """The names of all photographs that are measured, each once."""
    asked = [photo.name for photo in photos if photo.part != "train"]
    return sorted({*asked, *(question.image for question in questions), *(image for image, _ in labels)})
