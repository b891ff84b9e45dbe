# SPDX-License-Identifier: Apache-2.0
"""`ServedModel`: the settings of stages whose model runs on an inference server."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from hf_tripletclip.generation.client import AnswerCache, Outcome, Request, Requests, remember_response
from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.utils.redact import printable, redact

MAX_CONCURRENCY = 100  # connections of huggingface_hub's client
CONNECT_SECONDS = 10.0
INT32 = 0x7FFFFFFF  # some providers take no larger seeds
KEY_NAME = re.compile("key|token|secret|password|sig", re.IGNORECASE)  # of a parameter of an address
HUGGING_FACE = ("huggingface.co", "huggingface.cloud")  # hosts that get HF_TOKEN


@dataclasses.dataclass
class ServedModel(Stage):
    """The settings of a server, of which only the provider and `extra_body` change what comes out."""

    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = Stage.not_settings | {
        "base_url",
        "api_key_env",
        "bill_to",
        "concurrency",
        "timeout",
        "max_retries",
        "backoff",
        "cache_dir",
    }

    base_url: str | None = None
    provider: str | None = None
    api_key_env: str | None = None
    bill_to: str | None = None
    concurrency: int = 16
    timeout: float = 120.0
    max_retries: int = 5
    backoff: float = 1.0
    cache_dir: str | None = None
    extra_body: dict[str, Any] = dataclasses.field(default_factory=dict)

    _requests: Requests | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def _check_server_settings(self) -> None:
        if self.base_url is not None and self.provider is not None:
            raise ValueError("`base_url` and `provider` are both given; a server of one's own needs no provider.")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"`base_url` is {self.base_url!r}; give an address such as http://127.0.0.1:8000/v1.")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ValueError(
                f"`concurrency` is {self.concurrency}; give 1 to {MAX_CONCURRENCY}, or more workers if that is not "
                "enough."
            )
        if not self.timeout > 0:
            raise ValueError(f"`timeout` is {self.timeout}; give seconds, more than 0.")
        if self.max_retries < 0:
            raise ValueError(f"`max_retries` is {self.max_retries}; give 0 or more.")
        if not self.backoff >= 0:
            raise ValueError(f"`backoff` is {self.backoff}; give seconds, 0 or more.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_requests": None}  # locks and connections stay in their process

    def _connect(self, send: Callable[[Any, dict[str, Any]], Any], probe: dict[str, Any]) -> None:
        """Make the client, which `send` gets with the content of a request, once."""
        if self._requests is not None:
            return
        client = self._client()
        connecting = min(CONNECT_SECONDS, self.timeout)
        self._requests = Requests(
            lambda content: send(client, content),
            probe,
            server=self.base_url or f"Inference provider {self.provider or 'auto'}",
            concurrency=self.concurrency,
            max_retries=self.max_retries,
            backoff=self.backoff,
            deadline=connecting + self.timeout,
            secrets=self._secrets(),
        )

    def _client(self) -> Any:
        from huggingface_hub import InferenceClient, get_session, is_offline_mode

        if is_offline_mode():
            raise OSError(
                "HF_HUB_OFFLINE is set: huggingface_hub then reaches no server, not even one on this machine. Unset "
                "it for this command."
            )
        key = self._api_key()
        # No key for a server of one's own means none, not that of `hf auth login`: the client drops headers of `None`.
        headers: dict[str, Any] = {} if key or self.base_url is None else {"authorization": None}
        timeout: Any = (min(CONNECT_SECONDS, self.timeout), self.timeout, self.timeout, None)  # the last: of the pool
        session = get_session()  # the one that the client uses
        hooks = session.event_hooks
        if remember_response not in hooks["response"]:
            session.event_hooks = {**hooks, "response": [*hooks["response"], remember_response]}
        return InferenceClient(
            base_url=self.base_url,
            provider=self.provider,  # type: ignore[arg-type] # any that huggingface_hub knows
            api_key=key,
            timeout=timeout,
            headers=headers,
            bill_to=self.bill_to,
        )

    def _api_key(self) -> str | None:
        if self.api_key_env is not None:
            if not os.environ.get(self.api_key_env):
                raise ValueError(f"`api_key_env` names the environment variable {self.api_key_env}, which is not set.")
            return os.environ[self.api_key_env]
        host = "huggingface.co" if self.base_url is None else urlsplit(self.base_url).hostname or ""
        is_ours = any(host == domain or host.endswith(f".{domain}") for domain in HUGGING_FACE)
        return os.environ.get("HF_TOKEN") or None if is_ours else None

    def _secrets(self) -> list[str | None]:
        """What no message may hold: the key, the token of `hf auth login`, secrets in the address."""
        from huggingface_hub import get_token

        address = urlsplit(self.base_url or "")
        in_query = [value for name, value in parse_qsl(address.query) if KEY_NAME.search(name)]
        return [self._api_key(), get_token(), address.username, address.password, *in_query]

    def _send(self, requests: Sequence[Request], ids: Sequence[str]) -> list[Outcome]:
        """The outcomes of requests for some rows of the batch whose rows have these ids."""
        assert self._requests is not None
        return self._requests(requests, self._open_cache(ids))

    def _told(self, text: str) -> str:
        """The server's answer without keys and without characters that no file can hold."""
        assert self._requests is not None
        return printable(redact(text, *self._requests.secrets))

    def _open_cache(self, ids: Sequence[str]) -> AnswerCache:
        if self.cache_dir is None:
            return AnswerCache(None)
        folder = Path(self.cache_dir)
        folder.mkdir(parents=True, exist_ok=True)
        rows = hashlib.sha256("\x1f".join(ids).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return AnswerCache(folder / f"{self.fingerprint()}-{rows}.jsonl")
