# SPDX-License-Identifier: Apache-2.0
"""Repositories of the Hub: their ids, and uploads to them with one message for whatever goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from hf_tripletclip.utils.redact import clients_redacted, redact

logger = logging.get_logger(__name__)

PULL_REQUESTS = "refs/pr/"
# First parts of relative paths, which look like ids in a directory that does not have them.
FOLDERS = frozenset({"outputs", "output", "data", "datasets", "models", "runs", "checkpoints", "results"})
NO_TOKEN = "there is no token. Log in with `hf auth login`, or set HF_TOKEN."


class HubId(str):
    """The id of a repository that was given as an id: a folder of the same name does not make it a path."""


def has_id_form(name: str) -> bool:
    """Whether a name has the form of an id, `owner/name`; all that can be checked of a name that is given as an id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_repo_id(name: str) -> bool:
    """
    Whether a name, which may also be a path, is the id `owner/name` of a repository: it is no path that exists here,
    and does not start with a folder such as `outputs` or `data`, which may exist where the name was written.
    """
    if isinstance(name, HubId):
        return True
    return has_id_form(name) and name.partition("/")[0] not in FOLDERS and not Path(name).exists()


def public_name(name: str) -> str:
    """A repository by its id, a path by its last part: paths of this machine are private."""
    return name if is_repo_id(name) else Path(name).name


class Snapshot(NamedTuple):
    """The files of a repository at a commit; the commit is `None` if the repository does not exist yet."""

    files: frozenset[str]
    commit: str | None


@dataclass
class Destination:
    """
    A repository that files are uploaded to, or the branch or pull request of one.

    Args:
        repo_id (`str`): Such as `user/name`; a name alone gets the token's user.
        repo_type (`str`, defaults to `"model"`): `"model"` or `"dataset"`.
        private (`bool`, *optional*): Whether a new repository is private. An existing one stays as it is.
        revision (`str`, *optional*): The branch to upload to, which is made if it does not exist, or the
            `refs/pr/N` of a pull request; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`, of anybody's repository.
        token (`str` or `bool`, *optional*): The token for the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Raises:
        ValueError: `repo_id` is no id; a revision is named for a pull request.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    token: str | bool | None = field(default=None, repr=False)

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

    def look(self) -> Snapshot:
        """
        The files that the repository has; nothing is made. A name without a user gets the token's user.

        Raises:
            OSError: The Hub cannot be reached or refuses it, or there is no such pull request.
        """
        with self._errors():
            if "/" not in self.repo_id:
                self.repo_id = f"{self._user()}/{self.repo_id}"
            try:
                return self._snapshot(self.revision)
            except RevisionNotFoundError:
                if self._is_pull_request:
                    raise
                return self._snapshot(None)  # the branch will start there
            except RepositoryNotFoundError:
                if self._is_pull_request:
                    raise
                return Snapshot(frozenset(), None)

    def prepare(self) -> None:
        """
        Make the repository and the branch if they do not exist.

        Raises:
            OSError: The Hub cannot be reached or refuses it, or there is no such pull request.
        """
        with self._errors():
            if self._is_pull_request:
                self._snapshot(self.revision)
            # A pull request may be for somebody else's repository.
            elif not (self.create_pr and self.api.repo_exists(self.repo_id, repo_type=self.repo_type)):
                made = self.api.create_repo(
                    self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True
                )
                self.repo_id = made.repo_id
                if self.revision is not None:
                    self.api.create_branch(self.repo_id, repo_type=self.repo_type, branch=self.revision, exist_ok=True)
            if self.private and not self.api.repo_info(self.repo_id, repo_type=self.repo_type).private:
                logger.warning(
                    f"{self.repo_id} exists and is public: what is uploaded can be seen by everyone. A repository is "
                    f"made private in its settings, {self._url}/settings."
                )

    def model_at(self, repo_id: str, revision: str | None = None) -> Snapshot | None:
        """Another model of the Hub; `None` if the token sees none with this id and revision."""
        with self._errors(f"look for {repo_id}", repo_id):
            try:
                info = self.api.model_info(repo_id, revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            return Snapshot(frozenset(file.rfilename for file in info.siblings or ()), info.sha)

    def download(self, name: str, folder: Path, commit: str | None, repo_id: str | None = None) -> Path:
        """
        A file of the repository at a commit, written into a folder.

        Args:
            name (`str`): Of the file.
            folder (`Path`): Where to.
            commit (`str`, *optional*): Of a `Snapshot`.
            repo_id (`str`, *optional*): Of another model.
        """
        source, kind = repo_id or self.repo_id, "model" if repo_id else self.repo_type
        with self._errors(f"read {source}", source):
            path = self.api.hf_hub_download(source, name, repo_type=kind, revision=commit, local_dir=folder)
            return Path(path)

    def send(
        self,
        staged: Path,
        message: str,
        *,
        path_in_repo: str | None = None,
        description: str | None = None,
        delete_patterns: Sequence[str] | None = None,
    ) -> CommitInfo:
        """
        Upload a folder. What the Hub has is not sent again.

        Args:
            staged (`Path`): The folder; all of it is uploaded.
            message (`str`): Of the commit.
            path_in_repo (`str`, *optional*): Folder of the repository that it becomes; the whole of it by default.
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
                path_in_repo=path_in_repo,
                revision=self.revision,
                create_pr=self.create_pr,
                commit_message=message,
                commit_description=description,
                delete_patterns=list(delete_patterns or ()),
            )

    def address(self, commit: CommitInfo) -> str:
        """The address of what was uploaded: of the pull request, the branch or the repository."""
        if commit.pr_url:
            return commit.pr_url
        if self.revision is None:
            return self._url
        if self._is_pull_request:
            return f"{self._url}/discussions/{self.revision.removeprefix(PULL_REQUESTS)}"
        return f"{self._url}/tree/{quote(self.revision, safe='')}"

    @property
    def _url(self) -> str:
        return f"{self.api.endpoint}/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo_id}"

    @property
    def _is_pull_request(self) -> bool:
        return self.revision is not None and self.revision.startswith(PULL_REQUESTS)

    def _user(self) -> str:
        if not self._has_token:  # of which `whoami` has an error of its own
            raise OSError(f"The Hub refuses {self.repo_id}: {NO_TOKEN}")
        return self.api.whoami()["name"]

    @property
    def _has_token(self) -> bool:
        return isinstance(self.token, str) or (self.token is not False and get_token() is not None)

    def _snapshot(self, revision: str | None) -> Snapshot:
        info: Any = self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=revision)
        return Snapshot(frozenset(file.rfilename for file in info.siblings or ()), info.sha)

    @contextlib.contextmanager
    def _errors(self, purpose: str | None = None, repo_id: str | None = None) -> Iterator[None]:
        try:
            with clients_redacted(*self.tokens):
                yield
        except HfHubHTTPError as error:
            subject = repo_id or self.repo_id
            self._fail(f"The Hub refuses {subject}: {self._refusal(error)}", error)
        except (HTTPError, OfflineModeIsEnabled) as error:
            self._fail(f"The Hub cannot be reached to {purpose or f'take {self.repo_id}'}: {error}", error)
        except UnicodeEncodeError as error:
            if error.encoding != "ascii":
                raise
            # Of the header that the token stands in; the error holds it.
            raise OSError("The token holds characters that no token of the Hub has: copy it anew.") from None
        except ValueError as error:  # of a card that the Hub does not accept, in its words; or of an answer in no JSON
            public = redact(str(error), *self.tokens)
            raise ValueError(f"The Hub refuses {repo_id or self.repo_id}: {public}") from (
                error if public == str(error) else None
            )
        except RuntimeError as error:  # of a single file
            detail = f"{error} {error.__cause__ or ''}".strip()
            self._fail(f"{detail} The same command continues the upload.", error)

    def _fail(self, message: str, error: Exception) -> None:
        public = redact(message, *self.tokens)
        # A traceback shows the message of the cause, too.
        raise OSError(public) from (error if public == message else None)

    @property
    def tokens(self) -> tuple[str | bool | None, ...]:
        """The tokens, which no message may show."""
        return self.token, get_token()

    def _refusal(self, error: HfHubHTTPError) -> str:
        """What the Hub's answer means, and what to do."""
        status = error.response.status_code
        said = f" ({error.server_message.rstrip('.')})" if error.server_message else ""
        if isinstance(error, RevisionNotFoundError):
            return f"it has no revision {self.revision or 'main'!r}. A branch is made, a pull request must exist."
        if isinstance(error, GatedRepoError):
            return f"it is gated, and the token has no access to it{said}. Ask for it on its page."
        if status == 401 and not self._has_token:
            return NO_TOKEN
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
