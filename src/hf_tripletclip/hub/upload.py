# SPDX-License-Identifier: Apache-2.0
"""What all uploads to the Hub share: where to, with whose rights, and one message for whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from hf_tripletclip.hub.model_card import TOKEN

PULL_REQUESTS = "refs/pr/"


@dataclass
class Destination:
    """
    A repository that files are uploaded to, or the branch or pull request of one.

    Args:
        repo_id (`str`): Such as `user/name`; with a name alone the user is the token's.
        repo_type (`str`, defaults to `"model"`): `"model"` or `"dataset"`.
        private (`bool`, *optional*): Whether a repository that is made is private. An existing one stays as it is.
        revision (`str`, *optional*): The branch to upload to, made where it does not exist, or the `refs/pr/N` of a
            pull request; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`, of anybody's repository.
        token (`str` or `bool`, *optional*): Of the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Raises:
        ValueError: `repo_id` is no id; a revision is named for a pull request.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    token: str | bool | None = None

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(f"{self.repo_id!r} is no id of a repository, such as user/name: {error}") from error
        if self.create_pr and self.revision is not None:
            raise ValueError("A pull request is opened against `main`: leave `revision` out.")

    @cached_property
    def api(self) -> HfApi:
        return HfApi(token=self.token, library_name="hf_tripletclip")

    def prepare(self) -> None:
        """
        Make the repository and the branch where they do not exist.

        Raises:
            OSError: The Hub cannot be reached or refuses it.
        """
        with self._errors():
            # A pull request may be for somebody else's repository.
            if not (self.create_pr and self.api.repo_exists(self.repo_id, repo_type=self.repo_type)):
                made = self.api.create_repo(
                    self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True
                )
                self.repo_id = made.repo_id
            if self.revision is not None and not self.revision.startswith(PULL_REQUESTS):
                self.api.create_branch(self.repo_id, repo_type=self.repo_type, branch=self.revision, exist_ok=True)

    def has_model(self, repo_id: str) -> bool:
        """Whether the Hub has a model of this id that the token may see."""
        with self._errors():
            return self.api.repo_exists(repo_id, repo_type="model")

    def files(self) -> set[str]:
        """What the repository holds, at the revision."""
        with self._errors():
            return set(self.api.list_repo_files(self.repo_id, repo_type=self.repo_type, revision=self.revision))

    def download(self, name: str, folder: Path) -> Path:
        """A file of the repository, at the revision, written into a folder."""
        with self._errors():
            return Path(
                self.api.hf_hub_download(
                    self.repo_id, name, repo_type=self.repo_type, revision=self.revision, local_dir=folder
                )
            )

    def send(
        self,
        staged: Path,
        message: str,
        *,
        description: str | None = None,
        delete_patterns: Sequence[str] | None = None,
    ) -> CommitInfo:
        """
        Upload a folder. What the Hub has is not sent again.

        Args:
            staged (`Path`): The folder; all of it is uploaded.
            message (`str`): Of the commit.
            description (`str`, *optional*): Of the commit.
            delete_patterns (`Sequence[str]`, *optional*): Files of the repository that go, unless they are uploaded.

        Raises:
            OSError: The Hub cannot be reached or refuses it.
        """
        with self._errors():
            return self.api.upload_folder(
                repo_id=self.repo_id,
                repo_type=self.repo_type,
                folder_path=staged,
                revision=self.revision,
                create_pr=self.create_pr,
                commit_message=message,
                commit_description=description,
                delete_patterns=list(delete_patterns or ()),
            )

    def address(self, commit: CommitInfo) -> str:
        """Where people see what was uploaded: the pull request, the branch or the repository."""
        if commit.pr_url:
            return commit.pr_url
        url = f"{self.api.endpoint}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo_id}"
        if self.revision is None:
            return url
        if self.revision.startswith(PULL_REQUESTS):
            return f"{url}/discussions/{self.revision.removeprefix(PULL_REQUESTS)}"
        return f"{url}/tree/{self.revision}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            self._fail(f"The Hub refuses {self.repo_id}: {self._refusal(error)}", error)
        except (HTTPError, OfflineModeIsEnabled) as error:
            self._fail(f"The Hub cannot be reached to take {self.repo_id}: {error}", error)
        except RuntimeError as error:  # of a single file
            detail = f"{error} {error.__cause__ or ''}".strip()
            self._fail(f"{detail} The same command continues the upload.", error)

    def _fail(self, message: str, error: Exception) -> None:
        public = without_tokens(message, self.token)
        # A traceback shows the message of the cause, too.
        raise OSError(public) from (error if public == message else None)

    def _refusal(self, error: HfHubHTTPError) -> str:
        """What the answer of the Hub means, and what to do."""
        status = error.response.status_code
        said = f" ({error.server_message.rstrip('.')})" if error.server_message else ""
        if isinstance(error, RevisionNotFoundError):
            return f"it has no revision {self.revision or 'main'!r}. A branch is made, a pull request must exist."
        if status == 401 and not (isinstance(self.token, str) or (self.token is not False and get_token())):
            return "there is no token. Log in with `hf auth login`, or set HF_TOKEN."
        if status == 401:
            return f"it does not accept the token{said}. Make one at https://huggingface.co/settings/tokens."
        if status == 403:
            return (
                f"the token may not write there{said}. Use one with write access to it, or open a pull request with "
                "`create_pr` (`--create_pr`)."
            )
        if isinstance(error, RepositoryNotFoundError):
            return "there is no such repository, or the token may not see it."
        return str(error)


def without_tokens(text: str, token: str | bool | None = None) -> str:
    """A text in which what looks like a token of the Hub is blanked, and the one given whatever it looks like."""
    if isinstance(token, str) and token:
        for shown in (token, repr(token)[1:-1]):  # the second in messages about tokens that are no text
            text = text.replace(shown, "[token]")
    return TOKEN.sub("[token]", text)


def without_paths(value: Any) -> Any:
    """JSON values whose absolute paths are cut to their last part: where things lie here is nobody's business."""
    if isinstance(value, dict):
        return {name: without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
