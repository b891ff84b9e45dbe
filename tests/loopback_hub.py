# SPDX-License-Identifier: Apache-2.0
"""A Hub on 127.0.0.1, so that tests download and upload with the real client and no network.

It holds models and datasets in memory, with branches and commits, and answers what `huggingface_hub` asks for: creating
repositories, listing and downloading files, and commits of regular and LFS files.

```python
with LoopbackHub() as hub:
    hub.add("model", "someone/clip", folder)
    done = run_python("from transformers import AutoModel; AutoModel.from_pretrained('someone/clip')", hub, tmp_path)
    assert ("GET", "/someone/clip/resolve/main/config.json") in hub.log
```

The client reads `HF_ENDPOINT` when it is imported: what talks to this Hub runs in a process of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".ckpt", ".parquet", ".tar", ".arrow", ".png", ".jpg"}
UNREACHABLE = "http://127.0.0.1:9"
ROOT = Path(__file__).parent.parent

RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(/(?P<verb>revision|tree|paths-info|preupload|commit|branch|refs)(/(?P<revision>[^/]+)(/(?P<path>.+))?)?)?"
)
LFS = re.compile(r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch")


class HubError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str):
        super().__init__(status, code, message)
        self.status, self.message = status, message or code
        self.headers = {"X-Error-Code": code, "X-Error-Message": self.message, **headers}


def is_lfs(path: str) -> bool:
    return PurePosixPath(path).suffix in LFS_SUFFIXES


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as tree listings show it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    shown: dict[str, Any] = {"type": "file", "path": path, "oid": blob, "size": len(content)}
    if is_lfs(path):
        shown["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return shown


@dataclass
class Repo:
    """Snapshots by commit, commits by branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        names = [f"{len(self.commits)}", *(f"{path} {entry(path, content)['oid']}" for path, content in files.items())]
        sha = hashlib.sha1("\n".join(names).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound")
        return sha


class LoopbackHub:
    """
    The server; a context manager.

    Args:
        token (`str`, *optional*): If given, every request must carry it, or is answered with 401.

    Attributes:
        endpoint: Its URL, the value of `HF_ENDPOINT`.
        log: `(method, path)` of all requests so far, paths without their query.
    """

    def __init__(self, token: str | None = None):
        self.token = token
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS files by sha256
        self.log: list[tuple[str, str]] = []
        self.lock = Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LoopbackHub:
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, kind: str, name: str, files: str | Path | Mapping[str, bytes], revision: str = "main") -> str:
        """Set a repository ("model" or "dataset") to a folder's or mapping's files; returns the commit's id."""
        if not isinstance(files, Mapping):
            folder = Path(files)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return self.repos.setdefault((kind, name), Repo()).commit(revision, dict(files))

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a repository holds."""
        repo = self.repos[kind, name]
        return repo.commits[repo.resolve(revision)]

    def requests(self, method: str) -> list[str]:
        """Paths asked for with a method, in order."""
        return [path for used, path in self.log if used == method]

    def downloads(self) -> list[str]:
        """Files asked for with GET, as `repo/resolve/revision/path`."""
        return [path[1:] for path in self.requests("GET") if "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed; `hub.log` has it."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer(self) -> None:
        url, body = urlsplit(self.path), self._body()
        try:
            with self.hub.lock:
                self.hub.log.append((self.command, url.path))
                answer = self._route(url.path, parse_qs(url.query), body)
        except HubError as error:
            self._send(error.status, json.dumps({"error": error.message}).encode(), error.headers)
            return
        if isinstance(answer, tuple):
            self._send(*answer)
        else:
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        if self.command == "PUT" and path.startswith("/lfs/"):  # signed URLs need no token
            self.hub.objects[path.removeprefix("/lfs/")] = body
            return {}
        sent = self.headers.get("Authorization")
        if self.hub.token is not None and sent != f"Bearer {self.hub.token}":
            raise HubError(401, "" if sent else "RepoNotFound", "Invalid credentials in Authorization header")
        if match := RESOLVE.fullmatch(path):
            return self._resolve(match)
        if match := API.fullmatch(path):
            verb = match["verb"] or "revision"
            handle: Callable[..., Any] = getattr(self, "_" + verb.replace("-", "_"))
            kind, revision = match["kind"].removesuffix("s"), unquote(match["revision"] or "main")
            if (kind, match["repo"]) not in self.hub.repos:
                raise HubError(404, "RepoNotFound")
            repo = self.hub.repos[kind, match["repo"]]
            return handle(
                repo, revision, name=match["repo"], path=unquote(match["path"] or ""), query=query, body=body
            )
        if LFS.fullmatch(path):
            return self._lfs(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/whoami-v2":
            return {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        raise HubError(404)

    def _resolve(self, match: re.Match[str]) -> tuple[int, bytes, dict[str, str]]:
        repo = self.hub.repos.get(("dataset" if match["kind"] else "model", match["repo"]))
        if repo is None:
            raise HubError(404, "RepoNotFound")
        sha, path = repo.resolve(unquote(match["revision"])), unquote(match["path"])
        if path not in repo.commits[sha]:
            raise HubError(404, "EntryNotFound", **{"X-Repo-Commit": sha})
        content = repo.commits[sha][path]
        shown = entry(path, content)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{shown["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in shown:
            headers |= {"X-Linked-Etag": f'"{shown["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return 200, content, headers
        start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, content[start : end + 1], headers

    def _create(self, wanted: dict[str, Any]) -> dict[str, str]:
        kind, name = wanted.get("type") or "model", f"{wanted.get('organization') or 'user'}/{wanted['name']}"
        if (kind, name) in self.hub.repos:
            raise HubError(409, message="You already created this repo")
        self.hub.add(kind, name, {})
        prefix = "datasets/" if kind == "dataset" else ""
        return {"url": f"{self.hub.endpoint}/{prefix}{name}", "name": name, "id": name}

    def _revision(self, repo: Repo, revision: str, name: str, **_: Any) -> dict[str, Any]:
        sha = repo.resolve(revision)
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        return {"id": name, "sha": sha, "private": False, "tags": [], "siblings": siblings}

    def _refs(self, repo: Repo, revision: str, **_: Any) -> dict[str, Any]:
        names = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.branches.items()]
        return {"branches": names, "tags": [], "converts": []}

    def _branch(self, repo: Repo, revision: str, body: bytes, **_: Any) -> dict[str, Any]:
        if revision in repo.branches:
            raise HubError(409)
        repo.branches[revision] = repo.resolve(json.loads(body or b"{}").get("startingPoint", "main"))
        return {}

    def _entries(self, repo: Repo, revision: str) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for path, content in repo.commits[repo.resolve(revision)].items():
            for folder in list(PurePosixPath(path).parents)[:-1]:
                entries[str(folder)] = {"type": "directory", "path": str(folder), "oid": "0" * 40, "size": 0}
            entries[path] = entry(path, content)
        return entries

    def _tree(
        self, repo: Repo, revision: str, path: str, query: dict[str, list[str]], **_: Any
    ) -> list[dict[str, Any]]:
        entries = self._entries(repo, revision)
        if path and entries.get(path, {}).get("type") != "directory":
            raise HubError(404, "EntryNotFound")
        below = {name: shown for name, shown in entries.items() if not path or name.startswith(f"{path}/")}
        if query.get("recursive", [""])[0].lower() not in ("true", "1"):
            below = {name: shown for name, shown in below.items() if str(PurePosixPath(name).parent) == (path or ".")}
        return list(below.values())

    def _paths_info(self, repo: Repo, revision: str, body: bytes, **_: Any) -> list[dict[str, Any]]:
        entries = self._entries(repo, revision)
        return [entries[path] for path in parse_qs(body.decode()).get("paths", []) if path in entries]

    def _preupload(self, repo: Repo, revision: str, body: bytes, **_: Any) -> dict[str, Any]:
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_lfs(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def _lfs(self, batch: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for wanted in batch["objects"]:
            shown = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                shown["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}
            objects.append(shown)
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: Repo, revision: str, name: str, body: bytes, **_: Any) -> dict[str, Any]:
        parent = repo.resolve(revision)
        files = dict(repo.commits[parent])
        for line in body.splitlines():
            action = json.loads(line)
            value = action["value"]
            if action["key"] == "header":
                if value.get("parentCommit", parent) != parent:
                    raise HubError(412, message="A commit has happened since.")
            elif action["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif action["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif action["key"] == "deletedFile":
                del files[value["path"]]
            elif action["key"] == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
            else:
                raise HubError(400, message=f"unknown action {action['key']}")
        sha = repo.commit(revision, files)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}"}


def run_command(
    command: Sequence[str | os.PathLike[str]], hub: LoopbackHub | None, home: str | Path, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """
    Run a command that sees this Hub as the only one, and wait for it.

    Args:
        command: The command.
        hub: The Hub; with `None` there is none, and every connection fails.
        home: Its `HF_HOME`, where downloads are cached.
        env: Further environment variables; `None` unsets one.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    settings: dict[str, str | None] = {
        **inherited,
        "HF_ENDPOINT": hub.endpoint if hub else UNREACHABLE,
        "HF_HOME": str(home),
        "HF_TOKEN": hub.token if hub and hub.token else "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **env,
    }
    variables = {name: value for name, value in settings.items() if value is not None}
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300)


def run_python(
    code: str, hub: LoopbackHub | None, home: str | Path, *, check: bool = True, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run Python code as [`run_command`] runs commands; with `check` it must succeed."""
    done = run_command([sys.executable, "-c", code], hub, home, **env)
    assert not check or done.returncode == 0, done.stderr
    return done
