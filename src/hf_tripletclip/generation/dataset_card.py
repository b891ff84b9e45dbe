# SPDX-License-Identifier: Apache-2.0
"""The card of a generated dataset: what it is, where it comes from, how it was filtered, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from hf_tripletclip.data.blind import MAX_ROWS, blind_table
from hf_tripletclip.data.decoding import BrokenValue, decode_image
from hf_tripletclip.data.schema import (
    CAPTION,
    IMAGE,
    NEG_CAPTION,
    NEG_ID,
    NEG_IMAGE,
    NEGATIVE_TYPE,
    PARAPHRASE,
    SCORES,
)
from hf_tripletclip.hub.model_card import CITATION
from hf_tripletclip.utils.files import CARD_FILE, without_tokens
from hf_tripletclip.utils.markdown import Markdown, code, in_python, markdown_table, table, words
from hf_tripletclip.version import __version__

# What each pair has, and what it is worth, by whether there are negative images.
NEGATIVE = {
    True: "a *hard negative pair*: a caption that is almost the same and false of the image, and an image of that "
    "caption",
    False: "*hard negative captions*: almost the same, and false of the image",
}
LIMITS = {
    True: "Captions and images of the negatives were made by models or by rules and not checked by people: some "
    "negatives are true of their image after all, and drawn images can be told from photographs.",
    False: "The negative captions were made by a model or by rules and not checked by people: some are true of their "
    "image after all.",
}
# The same of pairs that were mined: other pairs of the same dataset.
MINED_NEGATIVE = {
    True: "a *hard negative pair*: another image of the same dataset that a model finds near, and its caption",
    False: "*hard negative captions*: captions of other images of the same dataset that a model finds near",
}
MINED_LIMITS = (
    "The negatives are other pairs of the dataset, chosen by a model's scores and not checked by people: some are "
    "true of their image after all, and most differ from the pair in more than one thing."
)
# Of two pairs joined.
JOINED = (
    "two pictures as one and two captions as one; *hard negative captions*, in which a word of the one has taken the "
    "place of one of the other; and *paraphrases*, which have the two in another order"
)
JOINED_LIMITS = (
    "The negative captions were made by rules and not checked by people: some are true of their picture after all."
)
TEMPLATE = Path(__file__).with_name("dataset_card_template.md")
SAMPLES = 4  # rows that the card shows
SAMPLE_SIDE = 192  # pixels
BINS = 24
BLOCKS = " ▁▂▃▄▅▆▇█"
MEANINGS = {
    "id": "names the row",
    "image": "the image",
    "caption": "its caption",
    "neg_image": "the hard negative image: alike, `neg_caption` is true and `caption` false of it",
    "neg_caption": "the hard negative caption: alike, and false of `image`",
    "negative_type": "what was changed, by SugarCrepe's names",
    "held_out": "shows a combination of concepts that the training split never shows",
    "generator": "what made the caption and the image",
    "seed": "the seed that `neg_image` was drawn from",
    **{name: score.words for name, score in SCORES.items()},
    "source": "the dataset that the pair comes from",
    "neg_id": "the row that the negative comes from",
    "paraphrase": "the same as `caption` in other words, or in another order",
    "dense_caption": "captions of parts of `image`",
    "part_ids": "the pairs that the row is made of",
}


def write_dataset_card(
    output: Path, *, plan: Mapping[str, Any], report: Any, features: Features, command: str = "generate"
) -> None:
    """
    Write `README.md`, and the pictures that it shows, beside the data of a generated dataset.

    Args:
        output (`Path`): The dataset's folder, with its `data/*.parquet`.
        plan (`Mapping`): `Plan.to_dict` of its generation.
        report ([`~hf_tripletclip.generation.GenerationReport`]): The counts.
        features (`datasets.Features`): Its columns.
        command (`str`, defaults to `"generate"`): What made it: `generate`, `mine` or `join`.
    """
    mined, joined = command == "mine", command == "join"
    data = DatasetCardData(
        license=plan["output"].get("license"),
        task_categories=["zero-shot-image-classification", "image-to-text"],
        tags=["clip", "tripletclip", "compositionality", "hard-negatives", *([] if mined else ["synthetic"])],
        size_categories=[_size_category(sum(report.kept.values()))],
        pretty_name=output.resolve().name,
    )
    splits = SplitDict()
    for split, rows in report.kept.items():
        files = list((output / "data").glob(f"{split}-*.parquet"))
        splits.add(SplitInfo(split, num_bytes=sum(path.stat().st_size for path in files), num_examples=rows))
    total = sum(info.num_bytes for info in splits.values())
    info = DatasetInfo(features=features, splits=splits, download_size=total, dataset_size=total)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    data_files = [{"split": split, "path": f"data/{split}-*"} for split in report.kept]
    MetadataConfigs({"default": {"data_files": data_files}}).to_dataset_card_data(data)

    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        heading=words(output.resolve().name),
        name=in_python(output.resolve().name),
        rows=f"{sum(report.kept.values()):,}",
        negative=JOINED if joined else _what(features, mined),
        limits=JOINED_LIMITS if joined else _limits(features, mined),
        command=f"tripletclip {command}",
        version=__version__,
        columns=table(["column", ""], [(code(name), Markdown(MEANINGS.get(name, ""))) for name in features]),
        splits=table(["split", "rows"], [(code(split), f"{rows:,}") for split, rows in report.kept.items()])
        + _shares(plan["output"]),
        source=_public_json(plan["source"]),
        stages="\n\n".join(
            f"**{words(step)}**\n\n{_public_json(settings)}" for step, settings in plan["stages"].items()
        ),
        filters=_filters(plan["output"]["filters"]),
        counts=_counts(report),
        histograms=_histograms(output, features, report.kept),
        blind=_blind(output, features, report.kept),
        samples=_samples(output, features, report.kept),
        citation=CITATION,
    )
    DatasetCard(without_tokens(f"{card.content}\n")).save(output / CARD_FILE)  # jinja takes the last newline


def _what(features: Features, mined: bool) -> str:
    parts = []
    if NEG_CAPTION in features:
        parts.append((MINED_NEGATIVE if mined and NEG_ID in features else NEGATIVE)[NEG_IMAGE in features])
    if PARAPHRASE in features:
        parts.append("*paraphrases*: the caption in other words")
    if mined and NEG_ID not in features:
        parts.append("*neighbours* (`neighbours/`): the rows that a model finds near, for batches of hard negatives")
    return "; and ".join(parts)


def _limits(features: Features, mined: bool) -> str:
    parts = []
    if NEG_CAPTION in features:
        parts.append(MINED_LIMITS if mined and NEG_ID in features else LIMITS[NEG_IMAGE in features])
    if PARAPHRASE in features:
        parts.append("Paraphrases were not checked by people either: some are awkward, a few say something else.")
    return " ".join(parts)


def _shares(output: Mapping[str, Any]) -> str:
    names = ("validation", "test")
    shares = [f"{split} {output[f'{split}_share']:.1%}" for split in names if output.get(f"{split}_share")]
    if not shares:
        return ""
    return (
        "\n\nRows were dealt to the splits by a hash of their image's pixels, so that all rows of a picture are in "
        f"the same one; asked for were {' and '.join(shares)} of the pictures."
    )


def _size_category(rows: int) -> str:
    limits = [(1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M")]
    return next((name for limit, name in limits if rows < limit), "10M<n<100M")


def _public_json(settings: Mapping[str, Any]) -> str:
    """Settings as a block of JSON; paths of this machine by their last part."""

    def public(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: public(part) for name, part in value.items()}
        if isinstance(value, str) and Path(value).is_absolute():
            return Path(value).name
        return value

    return f"```json\n{json.dumps(public(settings), indent=1, ensure_ascii=False)}\n```"


def _filters(filters: Mapping[str, Any]) -> str:
    used = {name: value for name, value in filters.items() if value is not None}
    return "\n".join(f"- {code(name)}: {words(value)}" for name, value in used.items()) or "None."


def _counts(report: Any) -> str:
    kept = sum(report.kept.values())
    rows = [("source", report.rows), ("kept", kept)]
    rows += [(f"left out: {reason}", number) for reason, number in report.left_out.items()]
    rows += [(f"near pairs refused: {reason}", number) for reason, number in getattr(report, "refused", {}).items()]
    return table(["", "rows"], [(reason, f"{number:,}") for reason, number in rows])


def _read(output: Path, columns: list[str], splits: Iterable[str], rows: int = 1_000) -> Iterator[dict[str, Any]]:
    for split in splits:
        for path in sorted((output / "data").glob(f"{split}-*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(columns=columns, batch_size=rows):
                yield from batch.to_pylist()


def _histograms(output: Path, features: Features, splits: Iterable[str]) -> str:
    names = [name for name in SCORES if name in features]
    if not names:
        return "The rows were not scored."
    rows = []
    files = [path for split in splits for path in sorted((output / "data").glob(f"{split}-*.parquet"))]
    for name in names:
        column = pa.chunked_array([chunk for path in files for chunk in pq.read_table(path, columns=[name])[0].chunks])
        values = column.drop_null().to_numpy()
        if len(values):
            counts, _ = np.histogram(values, bins=BINS)
            bars = "".join(BLOCKS[-(-int(count) * (len(BLOCKS) - 1) // int(counts.max()))] for count in counts)
            mean = values.mean(dtype=np.float64)
            rows.append([f"`{name}`", *(f"{value:.3f}" for value in (values.min(), mean, values.max())), f"`{bars}`"])
    return markdown_table(["score", "lowest", "mean", "highest", "from lowest to highest"], rows)


def _blind(output: Path, features: Features, splits: Iterable[str]) -> str:
    groups: dict[str, list[tuple[str, str]]] = {"all": []}
    columns = [name for name in (CAPTION, NEG_CAPTION, NEGATIVE_TYPE) if name in features]
    if NEG_CAPTION not in features:
        return "There are no hard negative captions."
    for row in _read(output, columns, splits):
        if row[CAPTION] is None or row[NEG_CAPTION] is None:
            continue
        negatives, kinds = row[NEG_CAPTION], row.get(NEGATIVE_TYPE)
        # One negative per row and group: a caption that is both fitted and tried would tell too much.
        met: set[str] = set()
        several = isinstance(negatives, list)
        for place, negative in enumerate(negatives if several else [negatives]):
            kind = kinds[place] if several and isinstance(kinds, list) else kinds
            names = {"all"} | ({_kind(kind)} if isinstance(kind, str) else set())
            for name in sorted(names - met):
                groups.setdefault(name, []).append((row[CAPTION], negative))
            met |= names
        if len(groups["all"]) >= 5 * MAX_ROWS:
            break
    return blind_table(groups)


def _kind(kind: str) -> str:
    return code(kind).replace("|", "\\|")  # a cell of a table


def _samples(output: Path, features: Features, splits: Iterable[str]) -> str:
    """The first rows of the first split, their pictures written beside the card."""
    columns = [name for name in (IMAGE, CAPTION, NEG_IMAGE, NEG_CAPTION, NEGATIVE_TYPE) if name in features]
    folder = output / "assets"
    folder.mkdir(exist_ok=True)
    shown = [name for name in columns if name != NEGATIVE_TYPE]
    rows = []
    for number, row in enumerate(_read(output, columns, splits, rows=SAMPLES)):
        if number == SAMPLES:
            break
        cells: list[str] = []
        for name in shown:
            if name in (IMAGE, NEG_IMAGE):
                path = folder / f"{number}-{name}.jpg"
                cells.append(Markdown(f"![{name}](assets/{path.name})" if _thumbnail(row[name], path) else ""))
            else:
                texts = row[name] if isinstance(row[name], list) else [row[name] or ""]
                cells.append(" / ".join(str(one).replace("|", "/") for one in texts))
        rows.append(cells)
    return table([code(name) for name in shown], rows)


def _thumbnail(value: Any, path: Path) -> bool:
    """Whether there is a picture to show; a row need not have a negative."""
    try:
        image = decode_image(value)
    except BrokenValue:
        return False
    image.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    image.save(path, quality=85)
    return True
