# SPDX-License-Identifier: Apache-2.0
"""Makes the splits of `scenes` and caches them as parquet."""

from __future__ import annotations

import functools
import io
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import multiprocess
from datasets import Dataset, DatasetDict, load_dataset
from datasets.naming import filenames_for_dataset_split

from hf_tripletclip.data.scenes.captions import describe, paraphrases, parts
from hf_tripletclip.data.scenes.drawing import draw_scene, require_fonts
from hf_tripletclip.data.scenes.negatives import CHANGES, EXCLUSIVE, can_change
from hf_tripletclip.data.scenes.scene import Scene, describes, is_held_out, sample_scene, stable_hash
from hf_tripletclip.data.scenes.vocabulary import Nouns, choose_nouns
from hf_tripletclip.data.schema import (
    CAPTION,
    DENSE_CAPTION,
    HELD_OUT,
    ID,
    IMAGE,
    NEG_CAPTION,
    NEG_IMAGE,
    NEGATIVE_TYPE,
    NEGATIVE_TYPES,
    PARAPHRASE,
    SOURCE,
)

VERSION = "1.1.0"  # raise it if a seed gives other rows than before
DRAWING = "2"  # raise it if equal rows are drawn differently than before, so that caches are made again
DEFAULT_SIZES = {"train": 20_000, "validation": 1_000, "test": 2_100}  # split -> rows
SPLITS = tuple(DEFAULT_SIZES)
PARAPHRASES = 2  # the most paraphrases of a row
MAX_SHARDS = 64  # of a split; the rows do not depend on it


def caption_split(caption: str) -> str:
    """The split of a caption. A hash assigns each caption to one split, so splits share none."""
    return {0: "test", 1: "validation"}.get(stable_hash("split", caption) % 5, "train")


def make_row(split: str, index: int, seed: int, nouns: Sequence[str]) -> tuple[Scene, Scene, str]:
    """
    Row `index` of a split: the positive scene, the negative scene and the kind of change. Kinds alternate. Training
    and validation use only mutually exclusive kinds, and training has no held-out combination.
    """
    rng = random.Random(stable_hash("row", VERSION, seed, split, index))
    kinds = NEGATIVE_TYPES if split == "test" else EXCLUSIVE
    kind = kinds[index % len(kinds)]
    while True:
        positive = sample_scene(rng, nouns, objects=2 if rng.random() < 0.7 or kind == "add_obj" else 3)
        if caption_split(describe(positive)) != split or not can_change(kind, positive):
            continue
        negative = CHANGES[kind](rng, positive, nouns)
        if caption_split(describe(negative)) != split:
            continue
        if split == "train" and (is_held_out(positive) or is_held_out(negative)):
            continue
        # SugarCrepe's negative is always the longer caption. A random direction keeps length from telling the answer.
        if kind not in EXCLUSIVE and rng.random() < 0.5:
            positive, negative = negative, positive
        assert describes(positive, positive)
        assert describes(negative, negative)
        return positive, negative, kind


@functools.lru_cache(maxsize=1 << 15)  # 32 MB: the steps of a generation go over all rows, one step after the other
def _kept_row(split: str, index: int, seed: int, nouns: tuple[str, ...]) -> tuple[Scene, Scene, str]:
    return make_row(split, index, seed, nouns)


def shards_of(rows: int) -> list[tuple[int, int]]:
    """The first row and the end (exclusive) of each shard of a split."""
    count = min(rows, MAX_SHARDS)
    return [(rows * part // count, rows * (part + 1) // count) for part in range(count)]


def png_bytes(image: Any) -> bytes:
    """The picture as PNG, as this package's datasets hold it."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def make_example(
    split: str, index: int, seed: int, nouns: Sequence[str], image_size: int, columns: Sequence[str] | None = None
) -> dict[str, Any]:
    """Row `index` of a split as the dataset holds it. `columns` limits it to what is needed: drawing takes time."""
    key = f"scenes-{split}-{index:06d}"
    if columns is not None and set(columns) <= {ID}:
        return dict.fromkeys(columns, key)
    positive, negative, kind = _kept_row(split, index, seed, tuple(nouns))

    def drawn(scene: Scene, column: str) -> dict[str, Any]:
        return {"bytes": png_bytes(draw_scene(scene, image_size, stable_hash(key, column))), "path": None}

    values: dict[str, Callable[[], Any]] = {
        ID: lambda: key,
        IMAGE: lambda: drawn(positive, IMAGE),
        CAPTION: lambda: describe(positive),
        NEG_IMAGE: lambda: drawn(negative, NEG_IMAGE),
        NEG_CAPTION: lambda: describe(negative),
        NEGATIVE_TYPE: lambda: kind,
        HELD_OUT: lambda: is_held_out(positive) or is_held_out(negative),
        SOURCE: lambda: "scenes",
    }
    further: dict[str, Callable[[], Any]] = {
        # Only captions of the same split, because splits share none.
        PARAPHRASE: lambda: [text for text in paraphrases(positive) if caption_split(text) == split][:PARAPHRASES],
        DENSE_CAPTION: lambda: parts(positive),
    }
    wanted = values if columns is None else columns
    return {name: (values | further)[name]() for name in wanted}


def row_of(key: str) -> tuple[str, int] | None:
    """The split and the index of the row with this id; `None` if it is not an id of `scenes`."""
    match = re.fullmatch(rf"scenes-({'|'.join(SPLITS)})-(\d{{6}}|[1-9]\d{{6,11}})", key, re.ASCII)
    return None if match is None else (match[1], int(match[2]))


@dataclass
class ScenesConfig(datasets.BuilderConfig):
    """The settings that determine the rows."""

    nouns: Nouns = 24
    seed: int = 0
    image_size: int = 64
    sizes: dict[str, int] = field(default_factory=dict)
    further_texts: bool = False


class Scenes(datasets.GeneratorBasedBuilder):
    """The builder of `load_scenes`. `datasets` provides workers, progress bars and a cache that is never partial."""

    VERSION = datasets.Version(VERSION)
    BUILDER_CONFIG_CLASS = ScenesConfig
    config: ScenesConfig

    def _info(self) -> datasets.DatasetInfo:
        features = {
            ID: datasets.Value("string"),
            IMAGE: datasets.Image(),
            CAPTION: datasets.Value("string"),
            NEG_IMAGE: datasets.Image(),
            NEG_CAPTION: datasets.Value("string"),
            NEGATIVE_TYPE: datasets.Value("string"),
            HELD_OUT: datasets.Value("bool"),
            SOURCE: datasets.Value("string"),
        }
        if self.config.further_texts:
            features |= dict.fromkeys((PARAPHRASE, DENSE_CAPTION), datasets.List(datasets.Value("string")))
        return datasets.DatasetInfo(
            description="Drawn scenes with hard negatives.", features=datasets.Features(features)
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "split": split,
                    "shards": shards_of(rows),
                },
            )
            for split, rows in self.config.sizes.items()
        ]

    def _generate_examples(self, split: str, shards: list[tuple[int, int]]) -> Iterator[tuple[Any, dict[str, Any]]]:
        nouns = choose_nouns(self.config.nouns)
        for start, stop in shards:
            for index in range(start, stop):
                columns = list(self.info.features or {})
                row = make_example(split, index, self.config.seed, nouns, self.config.image_size, columns)
                yield (start, index), row


def default_workers() -> int:
    """
    The number of cores that this process may use. It is 1 if new processes do not fork (macOS, Windows): there each
    would run the caller's script again, which fails in scripts without an `if __name__ == "__main__"`.
    """
    method = multiprocess.get_start_method(allow_none=True) or multiprocess.get_all_start_methods()[0]
    if method != "fork":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_options(nouns: Nouns, sizes: Mapping[str, int], image_size: int) -> None:
    """Raise `ValueError` if an option of `scenes` is out of range, `ImportError` if its fonts are not installed."""
    choose_nouns(nouns)
    if bad := [name for name, rows in sizes.items() if rows < 1]:
        raise ValueError(f"`{bad[0]}_size` is {sizes[bad[0]]}; give at least 1.")
    if image_size < 16:
        raise ValueError(f"`image_size` is {image_size}; give at least 16, below which nothing can be recognised.")
    require_fonts()


def load_scenes(
    split: str | None = None,
    *,
    nouns: Nouns = 24,
    seed: int = 0,
    image_size: int = 64,
    train_size: int = DEFAULT_SIZES["train"],
    validation_size: int = DEFAULT_SIZES["validation"],
    test_size: int = DEFAULT_SIZES["test"],
    further_texts: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> DatasetDict | Dataset:
    """
    Load the built-in dataset: drawn scenes with hard negatives of SugarCrepe's seven kinds. It serves development,
    tests and first steps without a network; its results do not carry over to photographs.

    The first call makes the dataset, in parallel; later calls read the cache of `datasets`. Equal arguments give equal
    captions on every machine, and equal pictures with the same version of Pillow.

    Args:
        split (`str`, *optional*): `train`, `validation` or `test`; all of them by default.
        nouns (`int` or `"all"`, defaults to 24): Number of different nouns, the most recognisable first.
        seed (`int`, defaults to 0): Another seed gives other rows.
        image_size (`int`, defaults to 64): Side of the images in pixels.
        train_size, validation_size, test_size (`int`, default to 20,000, 1,000 and 2,100): Numbers of rows.
        further_texts (`bool`, defaults to `False`):
            Whether rows also have the columns `paraphrase`, up to two captions that say the same in other words, and
            `dense_caption`, a caption of each object.
        num_proc (`int`, *optional*): Processes. Defaults to the number of cores if processes fork, else to 1.
        cache_dir (`str` or `os.PathLike`, *optional*): Defaults to `datasets`' cache.

    Returns:
        `DatasetDict` or `Dataset` with the columns `id`, `image`, `caption`, `neg_image`, `neg_caption`,
        `negative_type`, `held_out` (whether one of the two scenes has a combination of noun and colour that `train`
        never shows) and `source`.

    Raises:
        ImportError: The icon fonts are not installed.
        ValueError: An argument is out of range.
    """
    sizes = {"train": train_size, "validation": validation_size, "test": test_size}
    check_options(nouns, sizes, image_size)
    if split is not None and split not in sizes:
        raise ValueError(f"`scenes` has no split {split!r}; it has {', '.join(sizes)}.")

    builder = Scenes(
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        dataset_name="scenes",
        hash=f"{VERSION}-{DRAWING}",
        nouns=nouns,
        seed=seed,
        image_size=image_size,
        sizes=sizes,
        **({"further_texts": True} if further_texts else {}),  # without them the cache keeps its old name
    )
    if num_proc is not None and num_proc < 1:
        raise ValueError(f"`num_proc` is {num_proc}; give at least 1.")
    # `datasets` warns if a split has fewer shards than there are workers.
    workers = min(num_proc or default_workers(), *(len(shards_of(rows)) for rows in sizes.values()))
    builder.download_and_prepare(
        file_format="parquet", num_proc=workers if workers > 1 else None, verification_mode="no_checks"
    )
    # The shards that the finished cache lists, not all files in its folder: a killed run may have left others.
    files = {
        name: filenames_for_dataset_split(
            builder.cache_dir, "scenes", name, filetype_suffix="parquet", shard_lengths=info.shard_lengths
        )
        for name, info in (builder.info.splits or {}).items()
    }
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()  # making the rows showed one already
    try:
        return load_dataset(
            "parquet", data_files=files, split=split, cache_dir=None if cache_dir is None else os.fspath(cache_dir)
        )
    finally:
        if shown:
            datasets.enable_progress_bars()
