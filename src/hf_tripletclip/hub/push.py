# SPDX-License-Identifier: Apache-2.0
"""Upload of a generated dataset to the Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from hf_tripletclip.generation.publish import (
    ASSETS_FOLDER,
    CARD_FILE,
    DATA_FOLDER,
    LEFT_OUT_FILE,
    REPORT_FILE,
    public_name,
)
from hf_tripletclip.generation.run import PLAN_FILE
from hf_tripletclip.hub.model_card import TOKEN

UPLOADED = (CARD_FILE, REPORT_FILE, LEFT_OUT_FILE)


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
    Upload a dataset that [`~hf_tripletclip.generation.generate`] made: its card, its data and its report, and the plan
    without the paths of this machine. Parquet files of an older upload are removed.

    A large dataset is uploaded in several commits. An upload that was interrupted is continued by the same call: what
    the Hub has is not sent again.

    Args:
        folder (`str` or `os.PathLike`): The dataset's folder.
        repo_id (`str`): Such as `user/tripletdata`; made where it does not exist.
        private (`bool`, *optional*): Whether a repository that is made is private. An existing one stays as it is.
        revision (`str`, *optional*): The branch to upload to, made where it does not exist; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`. To continue one, name its
            `revision`, `refs/pr/N`.
        commit_message (`str`, *optional*): A message that says what was made by default.
        token (`str` or `bool`, *optional*): Of the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        `str`: Address of the dataset, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is no generated dataset, or not finished; `repo_id` is no id; a revision is named for a
            pull request.
        OSError: The Hub cannot be reached or refuses the upload.
    """
    folder = Path(folder)
    report = _check_finished(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of a repository, such as user/tripletdata: {error}") from error
    if create_pr and revision is not None:
        raise ValueError("A pull request is opened against `main`: leave `revision` out.")
    api = HfApi(token=token, library_name="hf_tripletclip")
    rows = sum(report["kept"].values())
    try:
        # A pull request may be for somebody else's dataset.
        if not (create_pr and api.repo_exists(repo_id, repo_type="dataset")):
            repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, repo_type="dataset", branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as staged:
            _stage(folder, Path(staged))
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=staged,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Upload {rows:,} triplets with hf_tripletclip",
                delete_patterns=[f"{DATA_FOLDER}/*.parquet", f"{ASSETS_FOLDER}/*.jpg"],
            )
    except HTTPError as error:  # also what the Hub answers
        what = "refuses" if isinstance(error, HfHubHTTPError) else "cannot be reached to take"
        raise OSError(TOKEN.sub("[token]", f"The Hub {what} {repo_id}: {error}")) from error
    except RuntimeError as error:  # of a single file
        detail = f"{error} {error.__cause__ or ''}".strip()
        raise OSError(TOKEN.sub("[token]", f"{detail} The same command continues the upload.")) from error
    if commit.pr_url:
        return commit.pr_url
    url = f"{api.endpoint}/datasets/{repo_id}"
    return url if revision is None else f"{url}/tree/{revision}"


def _check_finished(folder: Path) -> dict[str, Any]:
    """The report of a finished dataset."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not (folder / PLAN_FILE).is_file():
        raise ValueError(f"{folder} is no dataset that `tripletclip generate` made: it has no {PLAN_FILE}.")
    missing = [name for name in (REPORT_FILE, CARD_FILE, DATA_FOLDER) if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}: it is not finished. The command that began it continues it.")
    return json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))


def _stage(folder: Path, staged: Path) -> None:
    """Links to what is uploaded, and a plan that can be seen by everyone."""
    files = [folder / name for name in UPLOADED if (folder / name).is_file()]
    files += sorted((folder / DATA_FOLDER).glob("*.parquet"))
    files += sorted((folder / ASSETS_FOLDER).glob("*.jpg"))
    for path in files:
        link = staged / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path.resolve())
    plan = _public(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))
    text = TOKEN.sub("[token]", json.dumps(plan, indent=1, ensure_ascii=False))
    (staged / PLAN_FILE).write_text(text + "\n", encoding="utf-8")


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _public(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return public_name(value) if isinstance(value, str) and os.path.isabs(value) else value
