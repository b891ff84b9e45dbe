# SPDX-License-Identifier: Apache-2.0
"""Data sets in the layout of CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark), such as
`clip-benchmark/wds_flickr30k` on the Hub:

```
test/0.tar, test/1.tar, ...                members KEY.jpg (webp, png) and KEY.cls (label) or KEY.txt (captions)
classnames.txt                             one class a line, in the order of the labels
zeroshot_classification_templates.txt      one prompt a line, {c} is the class name
```
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
)

from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.raw import check_local_path
from hf_tripletclip.data.schema import ERROR
from hf_tripletclip.data.tars import KEY, READER, URL, read_tars
from hf_tripletclip.evaluation.images import LISTED, ImageCell
from hf_tripletclip.utils.files import read_text

IMAGES = ("webp", "png", "jpg", "jpeg")  # in the order in which CLIP_benchmark looks for them
TEXTS = "*.txt"
SHARDS = "nshards.txt"  # beside the tars: how many there are

# The sets of CLIP_benchmark's collection `vtab` in their VTAB version (Zhai et al. 2019, arXiv 1910.04867): all but
# SUN397, which is not among them. The TripletCLIP paper averages over 18 sets.
VTAB18 = (
    "vtab/caltech101",
    "vtab/cifar100",
    "vtab/clevr_count_all",
    "vtab/clevr_closest_object_distance",
    "vtab/diabetic_retinopathy",
    "vtab/dmlab",
    "vtab/dsprites_label_orientation",
    "vtab/dsprites_label_x_position",
    "vtab/dtd",
    "vtab/eurosat",
    "vtab/kitti_closest_vehicle_distance",
    "vtab/flowers",
    "vtab/pets",
    "vtab/pcam",
    "vtab/resisc45",
    "vtab/smallnorb_label_azimuth",
    "vtab/smallnorb_label_elevation",
    "vtab/svhn",
)
COLLECTIONS = {"vtab18": VTAB18}
HUB = "clip-benchmark"


def find_tar_set(source: str | os.PathLike[str], split: str, revision: str | None = None) -> Path | None:
    """
    The folder of a set in this layout; from the Hub only the tars of the split and the text files are downloaded.

    Args:
        source (`str` or `os.PathLike`): A folder, or the id of a Hub dataset.
        split (`str`): The split, such as `test`.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.

    Returns:
        `Path`, or `None` if the set does not have this layout or cannot be reached.

    Raises:
        FileNotFoundError: The source can only be a local path, and it does not exist.
        PermissionError: The Hub asks to accept conditions first.
        ValueError: There are tars, but none of this split.
    """
    name = os.path.expanduser(os.fspath(source))
    if os.path.exists(name):
        splits = sorted({path.parent.name for path in Path(name).glob("*/*.tar")}) if os.path.isdir(name) else []
        _check(name, split, splits)
        return Path(name) if splits else None
    check_local_path(name)
    try:
        # Unlike a list of the files, this does not try again for half a minute if there is no network.
        files = [file.rfilename for file in HfApi().dataset_info(name, revision=revision).siblings or ()]
        splits = sorted({path.split("/")[0] for path in files if path.endswith(".tar") and path.count("/") == 1})
        _check(name, split, splits)
        if not splits:
            return None
        return _download(name, split, revision)
    except GatedRepoError as error:
        raise PermissionError(
            f"{name} is a gated dataset: open https://huggingface.co/datasets/{name}, accept its conditions, and log "
            "in with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except HFValidationError:
        return None
    except (HTTPError, ConnectionError):  # not there, or out of reach
        return _downloaded(name, split, revision)


def _check(name: str, split: str, splits: Sequence[str]) -> None:
    if splits and split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}")


def _download(name: str, split: str, revision: str | None, *, local: bool = False) -> Path:
    wanted = [f"{split}/*.tar", TEXTS]
    return Path(
        snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=local)
    )


def _downloaded(name: str, split: str, revision: str | None) -> Path | None:
    """The files that an earlier run has downloaded."""
    try:
        folder = _download(name, split, revision, local=True)
    except LocalEntryNotFoundError:
        return None
    return folder if any((folder / split).glob("*.tar")) else None


def read_lines(path: Path) -> list[str] | None:
    """
    The lines of a text file, without white space around them and without empty lines at the end. `None` if there is no
    such file.

    Raises:
        ValueError: The file is not UTF-8.
    """
    if not path.is_file():
        return None
    return [line.strip() for line in read_text(path).rstrip().split("\n")]


def read_tar_set(folder: Path, split: str, member: str) -> tuple[list[str], list[ImageCell], list[Any]]:
    """
    The rows of a split.

    Args:
        folder (`Path`): From `find_tar_set`.
        split (`str`): The split.
        member (`str`): The member beside the image: `cls` or `txt`.

    Returns:
        `tuple`: The keys, the images and the contents of the member, one of each per row.

    Raises:
        ValueError: Tars are missing or damaged, or they have no such member or no images.
    """
    where = f"{folder} (split {split!r})"
    tars = sorted((folder / split).glob("*.tar"))
    said = (read_lines(folder / split / SHARDS) or [""])[0]
    if said.isdecimal() and len(tars) < int(said):
        raise ValueError(f"{where} has {len(tars)} of {said} tars: download the others, or again")
    texts = Features(dict.fromkeys((member, KEY, URL, ERROR), Value("string")))
    table = Dataset.from_generator(
        read_tars,
        features=Features({**{name: Image() for name in IMAGES}, **texts}),
        gen_kwargs={
            "tars": [str(tar) for tar in tars],
            "names": [tar.name for tar in tars],
            "versions": [f"{READER} {tar.resolve()} {tar.stat().st_size} {tar.stat().st_mtime_ns}" for tar in tars],
            "columns": {name: name for name in (*IMAGES, member)},
        },
    )
    assert isinstance(table, Dataset)
    if problems := [f"{key}: {what}" for key, what in zip(table[KEY], table[ERROR], strict=True) if what]:
        raise ValueError(f"{where}: {'; '.join(problems[:LISTED])}")
    pictures = [name for name in IMAGES if _occurs(table, name)]
    if not pictures or not _occurs(table, member):
        raise ValueError(f"{where}: no sample has a member {member} and one of {', '.join(IMAGES)}: it is no such set")
    table = undecoded(table, pictures)
    return table[KEY][:], _images(table, pictures), table[member][:]


def _occurs(table: Dataset, column: str) -> bool:
    return table.data.column(column).null_count < len(table)


def _images(table: Dataset, columns: Sequence[str]) -> list[ImageCell]:
    if len(columns) == 1:
        return ImageCell.of_column(table, columns[0])
    used = [  # a set may have several formats
        next((column for column in columns if row[column] is not None), columns[0])
        for row in table.select_columns(list(columns))
    ]
    return [ImageCell.of(table, row, column) for row, column in enumerate(used)]


def short_name(source: str) -> str:
    """The name of a set in metrics: `dtd` for `clip-benchmark/wds_vtab-dtd`, `vtab/dtd` and `/data/dtd`."""
    return re.sub(r"^(wds_)?(vtab-)?", "", Path(source).name) or source


def locate(name: str, folder: str | None) -> str:
    """
    The path or Hub id of a set.

    Args:
        name (`str`): A path, a Hub id or CLIP_benchmark's name.
        folder (`str`, *optional*): The folder that holds sets.
    """
    if os.path.exists(os.path.expanduser(name)) or ("/" in name and not name.startswith("vtab/")):
        return name
    repository = f"wds_{name.replace('/', '-')}"
    if folder is not None:
        for candidate in (repository, name, repository.removeprefix("wds_"), short_name(name)):
            if (Path(folder).expanduser() / candidate).is_dir():
                return str(Path(folder) / candidate)
    return f"{HUB}/{repository}"
