# SPDX-License-Identifier: Apache-2.0
"""Upload of a folder to the Hub, with a model, an adapter or a dataset of this package."""

from __future__ import annotations

import os
from pathlib import Path

from hf_tripletclip.generation.plan import PLAN_FILE


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    base_model: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Upload a folder: a model or an adapter by [`push_model`], a dataset by [`push_dataset`].

    Args:
        folder (`str` or `os.PathLike`): The output of a training run, `tripletclip merge`, `convert` or `generate`.
        repo_id (`str`): The repository, such as `user/name`; it is made if it does not exist.
        base_model (`str`, *optional*): The Hub's id of the model that it was made from; needed for an adapter of a
            model in a directory.
        license (`str`, *optional*): The license of a model's weights for its card, an identifier of the Hub.
        private, revision, create_pr, commit_message, token: As in [`push_model`].

    Returns:
        `str`: The address of the repository, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is neither a model nor a dataset, or not finished.
        OSError: The Hub cannot be reached or refuses the upload.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if (folder / PLAN_FILE).is_file():
        from hf_tripletclip.generation.push import push_dataset

        if base_model is not None:
            raise ValueError(f"{folder} is a dataset, which has no base model: leave out `base_model`.")
        if license is not None:
            raise ValueError(f"{folder} is a dataset, whose license `tripletclip generate --license` sets.")
        return push_dataset(
            folder,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            token=token,
        )
    from hf_tripletclip.hub.model_push import push_model

    return push_model(
        folder,
        repo_id,
        base_model=base_model,
        license=license,
        private=private,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
        token=token,
    )
