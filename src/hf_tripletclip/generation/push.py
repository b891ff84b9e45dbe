# SPDX-License-Identifier: Apache-2.0
"""Upload of a generated dataset to the Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hf_tripletclip.generation.plan import (
    ASSETS_FOLDER,
    DATA_FOLDER,
    LEFT_OUT_FILE,
    MINING_PAGE,
    NEIGHBOURS_FOLDER,
    PLAN_FILE,
    REPORT_FILE,
)
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.utils.files import CARD_FILE, read_json_object, without_paths, without_tokens

UPLOADED = (CARD_FILE, REPORT_FILE, LEFT_OUT_FILE, MINING_PAGE)


def push_dataset(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Upload a dataset that [`~hf_tripletclip.generation.generate`] made: its card, its data, its report, and its plan
    without the paths of this machine. Parquet files of an older upload are removed.

    A large dataset is uploaded in several commits. An upload that was interrupted is continued by the same call: what
    the Hub has is not sent again.

    Args:
        folder (`str` or `os.PathLike`): The dataset's folder.
        repo_id (`str`): Such as `user/tripletdata`. It is created if it does not exist.
        private (`bool`, *optional*): Whether a repository that is made is private. An existing one stays as it is.
        revision (`str`, *optional*): The branch to upload to; `main` by default. It is created if it does not exist.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`. To continue one, name its
            `revision`, `refs/pr/N`.
        commit_message (`str`, *optional*): The default says how many rows were made.
        token (`str` or `bool`, *optional*): Token of the Hub; by default that of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: Address of the dataset, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is no generated dataset, or not finished; `repo_id` is no id; or a revision is named for
            a pull request.
        OSError: The Hub cannot be reached or refuses the upload.
    """
    folder = Path(folder)
    report = _check_finished(folder)
    destination = Destination(repo_id, "dataset", private, revision, create_pr, token)
    rows = sum(report["kept"].values())
    with tempfile.TemporaryDirectory() as staged:
        _stage(folder, Path(staged))
        destination.prepare()
        commit = destination.send(
            Path(staged),
            commit_message or f"Upload {rows:,} triplets with hf_tripletclip",
            delete_patterns=[
                f"{DATA_FOLDER}/*.parquet",
                f"{NEIGHBOURS_FOLDER}/*.parquet",
                f"{ASSETS_FOLDER}/*.jpg",
            ],
        )
    return destination.address(commit)


def _check_finished(folder: Path) -> dict[str, Any]:
    """The report of a finished dataset."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not (folder / PLAN_FILE).is_file():
        raise ValueError(f"{folder} is no dataset that `tripletclip generate` made: it has no {PLAN_FILE}.")
    missing = [name for name in (REPORT_FILE, CARD_FILE, DATA_FOLDER) if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}: it is not finished. The command that began it continues it.")
    return read_json_object(folder / REPORT_FILE)


def _stage(folder: Path, staged: Path) -> None:
    """Links to what is uploaded, and a plan that can be seen by everyone."""
    files = [folder / name for name in UPLOADED if (folder / name).is_file()]
    files += [path for of in (DATA_FOLDER, NEIGHBOURS_FOLDER) for path in sorted((folder / of).glob("*.parquet"))]
    files += sorted((folder / ASSETS_FOLDER).glob("*.jpg"))
    for path in files:
        link = staged / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path.resolve())
    plan = without_paths(read_json_object(folder / PLAN_FILE))
    text = without_tokens(json.dumps(plan, indent=1, ensure_ascii=False))
    (staged / PLAN_FILE).write_text(text + "\n", encoding="utf-8")
