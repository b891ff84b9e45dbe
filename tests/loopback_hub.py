# SPDX-License-Identifier: Apache-2.0
"""A Hub on 127.0.0.1, so that tests download and upload with the real client and no network.

It holds models and datasets in memory, with branches and commits, and answers what `huggingface_hub` asks for:
creating repositories, listing and downloading files, and commits of regular and LFS files.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".parquet", ".tar", ".arrow", ".png", ".jpg")
UNREACHABLE = "http://127.0.0.1:9"
ROOT = Path(__file__).parent.parent

RESOLVE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
    r"(/(?P<verb>revision|tree|paths-info|preupload|commit|branch)(/(?P<revision>[^/]+)(/(?P<path>.+))?)?)?"
)


class HubError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "", **headers: str):
        super().__init__(status, code, message)
        self.status, self.message = status, message or code
        self.headers = {"X-Error-Code": code, "X-Error-Message": self.message, **headers}


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as tree listings show it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    shown: dict[str, Any] = {"type": "file", "path": path, "oid": blob, "size": len(content)}
    if path.endswith(LFS_SUFFIXES):
        shown["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return shown


@dataclass
class Repo:
    """Snapshots by commit, commits by branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        listing = [len(self.commits), *(entry(path, content) for path, content in files.items())]
        sha = hashlib.sha1(json.dumps(listing).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound")
        return sha

    def entries(self, revision: str) -> dict[str, dict[str, Any]]:
        """Files and folders of a revision by path."""
        found: dict[str, dict[str, Any]] = {}
        for path, content in self.commits[self.resolve(revision)].items():
            for folder in map(str, list(PurePosixPath(path).parents)[:-1]):
                found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            found[path] = entry(path, content)
        return found


class LoopbackHub:
    """
    The server; a context manager.

    Args:
        token (`str`, *optional*): If given, every request must carry it, or is answered with 401.

    Attributes:
        accounts: Token -> the users and organisations that it may write to, and see the private repositories of.
            Where there is none, everyone may do everything; else those without a token may read what is public.
        endpoint: Its URL, the value of `HF_ENDPOINT`.
        fail_after: How many LFS files it takes before it refuses more; `None` takes all.
        log: `(method, path)` of all requests so far, paths without their query.
    """

    def __init__(self, token: str | None = None):
        self.token = token
        self.accounts: dict[str, set[str]] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS files by sha256
        self.fail_after: int | None = None
        self.log: list[tuple[str, str]] = []
        self.lock = Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LoopbackHub:
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, kind: str, name: str, files: Path | Mapping[str, bytes], revision: str = "main") -> str:
        """Set a repository ("model" or "dataset") to a folder's or mapping's files; returns the commit's id."""
        if isinstance(files, Path):
            paths = sorted(path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
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

    def answer(self) -> None:
        url, body = urlsplit(self.path), self.body()
        try:
            with self.hub.lock:
                self.hub.log.append((self.command, url.path))
                result = self.route(url.path, parse_qs(url.query), body)
            status, content, headers = result if isinstance(result, tuple) else (200, json.dumps(result).encode(), {})
        except HubError as error:
            status, content, headers = error.status, json.dumps({"error": error.message}).encode(), error.headers
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        if self.command == "PUT" and path.startswith("/lfs/"):  # signed URLs need no token
            if self.hub.fail_after is not None and len(self.hub.objects) >= self.hub.fail_after:
                raise HubError(403, message="Upload quota exceeded")
            self.hub.objects[path.removeprefix("/lfs/")] = body
            return {}
        sent = self.headers.get("Authorization")
        if self.hub.token is not None and sent != f"Bearer {self.hub.token}":
            raise HubError(401, "" if sent else "RepoNotFound", "Invalid credentials in Authorization header")
        token = (sent or "").removeprefix("Bearer ")
        if token and self.hub.accounts and token not in self.hub.accounts:
            raise HubError(401, message="Invalid credentials in Authorization header")
        if match := RESOLVE.fullmatch(path) or API.fullmatch(path):
            kind = "dataset" if (match["kind"] or "").startswith("datasets") else "model"
            repo = self.hub.repos.get((kind, match["repo"]))
            if repo is None or (repo.private and not self.may_write(token, match["repo"])):
                raise HubError(404 if token else 401, "RepoNotFound")
            revision, path = unquote(match["revision"] or "main"), unquote(match["path"] or "")
            if match.re is RESOLVE:
                return self.file(repo, revision, path)
            verb = match["verb"] or "revision"
            if verb in ("preupload", "commit", "branch"):
                # Whoever is somebody may open a pull request, and go on with it.
                anyone = query.get("create_pr") == ["1"] or revision.startswith("refs/pr/")
                self.check_rights(token, match["repo"], anyone and bool(token))
            if verb == "revision":
                sha = repo.resolve(revision)
                siblings = [{"rfilename": name} for name in repo.commits[sha]]
                return {"id": match["repo"], "sha": sha, "private": repo.private, "tags": [], "siblings": siblings}
            if verb == "tree":
                return self.tree(repo, revision, path, query.get("recursive", [""])[0].lower() == "true")
            if verb == "paths-info":
                entries = repo.entries(revision)
                return [entries[name] for name in parse_qs(body.decode()).get("paths", []) if name in entries]
            if verb == "preupload":
                files = [{"path": file["path"], "shouldIgnore": False} for file in json.loads(body)["files"]]
                for file in files:
                    file["uploadMode"] = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
                return {"files": files}
            if verb == "branch":
                if revision in repo.branches:
                    raise HubError(409, message=f"Reference {revision} already exists")
                repo.branches[revision] = repo.resolve(json.loads(body).get("startingPoint", "main"))
                return {}
            number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
            if opened := query.get("create_pr") == ["1"]:
                repo.branches[f"refs/pr/{number}"] = repo.resolve(revision)
                revision = f"refs/pr/{number}"
            sha = self.commit(repo, revision, [json.loads(line) for line in body.splitlines()])
            page = f"{self.hub.endpoint}/{'datasets/' * (kind == 'dataset')}{match['repo']}"
            answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}"}
            return answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if opened else {})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in json.loads(body)["objects"]]
            for shown in objects:
                if shown["oid"] not in self.hub.objects:
                    shown["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{shown['oid']}"}}
            return {"transfer": "basic", "objects": objects}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            kind, name = wanted.get("type") or "model", f"{wanted.get('organization') or 'user'}/{wanted['name']}"
            shown = {"url": f"{self.hub.endpoint}/{'datasets/' * (kind == 'dataset')}{name}", "name": name, "id": name}
            self.check_rights(token, name)
            if (kind, name) in self.hub.repos:
                return 409, json.dumps({**shown, "error": "You already created this repo"}).encode(), {}
            self.hub.add(kind, name, {})
            self.hub.repos[kind, name].private = wanted.get("visibility") == "private"
            return shown
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/whoami-v2":
            return {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        raise HubError(404)

    def may_write(self, token: str, name: str) -> bool:
        return not self.hub.accounts or name.partition("/")[0] in self.hub.accounts.get(token, ())

    def check_rights(self, token: str, name: str, granted: bool = False) -> None:
        if not granted and not self.may_write(token, name):
            message = f"You don't have the rights to write to {name}" if token else "Invalid username or password."
            raise HubError(403 if token else 401, message=message)

    def file(self, repo: Repo, revision: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        sha = repo.resolve(revision)
        if path not in repo.commits[sha]:
            raise HubError(404, "EntryNotFound", **{"X-Repo-Commit": sha})
        content = repo.commits[sha][path]
        shown = entry(path, content)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{shown["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in shown:
            headers |= {"X-Linked-Etag": f'"{shown["lfs"]["oid"]}"', "X-Linked-Size": str(len(content))}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return 206, content[start : end + 1], headers
        return 200, content, headers

    def tree(self, repo: Repo, revision: str, folder: str, recursive: bool) -> list[dict[str, Any]]:
        entries = repo.entries(revision)
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise HubError(404, "EntryNotFound")
        top = PurePosixPath(folder)
        return [
            shown
            for path, shown in entries.items()
            if PurePosixPath(path).parent == top or (recursive and top in PurePosixPath(path).parents)
        ]

    def commit(self, repo: Repo, revision: str, actions: list[dict[str, Any]]) -> str:
        parent = repo.resolve(revision)
        files = dict(repo.commits[parent])
        for key, value in ((action["key"], action["value"]) for action in actions):
            if key == "header" and value.get("parentCommit", parent) != parent:
                raise HubError(412, message="A commit has happened since.")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        return repo.commit(revision, files)


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
