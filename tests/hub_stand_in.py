"""A hub on this machine, for tests: serves folders as model or data set repositories.

    with HubStandIn() as hub:
        commit = hub.add_model("owner/name", folder)
        run_python(code, hub.environment(home))     # or pass endpoint=hub.endpoint
        assert hub.requests == [("GET", "/api/models/owner/name"), …]

It knows the few endpoints that `snapshot_download`, `hf_hub_download`, `HfApi.repo_info` and
`load_dataset` need. After `stop()`, or outside the `with`, the port refuses connections: the hub is
down. `environment` shuts out the machine's own cache, token and proxies: nothing can reach the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Repository:
    """A folder, the commit it stands for, and whether only admitted users may read it."""

    folder: Path
    commit: str
    gated: bool = False

    def files(self) -> dict[str, Path]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}


class HubStandIn:
    """The server, in a thread of its own; a context manager."""

    handler: type[BaseHTTPRequestHandler]

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        """"models/owner/name" or "datasets/owner/name" to what is served."""
        self.serves_files = True
        """False forbids every file, while the hub still answers what it has."""
        self.refusals: dict[str, tuple[int, dict[str, str]]] = {}
        """Status and headers of the answer to every request whose path holds the key."""
        self.requests: list[tuple[str, str]] = []
        """Method and path (without the query) of every request so far."""
        hub = self

        class Handler(self.handler):  # type: ignore[name-defined,misc]
            stand_in = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def add_model(self, name: str, folder: Path, *, gated: bool = False) -> str:
        """Serve a folder as a model; returns the commit that `main` stands for."""
        return self._add(f"models/{name}", folder, gated)

    def add_dataset(self, name: str, folder: Path, *, gated: bool = False) -> str:
        """Serve a folder as a data set; returns the commit that `main` stands for."""
        return self._add(f"datasets/{name}", folder, gated)

    def environment(self, home: Path) -> dict[str, str]:
        """Environment for a process that has this hub, a cache in `home`, and no other settings."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGINGFACE_", "EXCISE_"))
            and "proxy" not in name.lower()
        }
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(REPOSITORY_ROOT / "src"),
        }

    def stop(self) -> None:
        """Go down. From now on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _add(self, key: str, folder: Path, gated: bool) -> str:
        files = Repository(folder, "").files()
        content = b"".join(name.encode() + path.read_bytes() for name, path in files.items())
        commit = hashlib.sha1(key.encode() + content).hexdigest()
        self.repositories[key] = Repository(folder, commit, gated)
        return commit


def run_python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, because huggingface_hub reads its environment on import."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: tests look at `requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.stand_in.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        form = parse_qs(url.query) | parse_qs(self.rfile.read(length).decode())
        for part, (status, headers) in self.stand_in.refusals.items():
            if part in path:
                self._send(status, b"", headers)
                return
        is_api = path.startswith("/api/")
        parts = path.removeprefix("/api").strip("/").split("/")
        if parts[0] not in ("models", "datasets"):
            parts = ["models", *parts]  # a model's files are at /owner/name/resolve/…
        key, rest = "/".join(parts[:3]), parts[3:]
        repository = self.stand_in.repositories.get(key)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif len(rest) > 1 and rest[1] not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            self._answer_api(repository, key, rest, form)
        elif not self.stand_in.serves_files:
            self._refuse(403, "Forbidden")
        else:
            self._send_file(repository, "/".join(rest[2:]))

    def _answer_api(
        self, repository: Repository, key: str, rest: list[str], form: dict[str, list[str]]
    ) -> None:
        files = repository.files()
        verb, below = (rest[0] if rest else "revision"), "/".join(rest[2:])
        if verb == "revision":
            self._send_json(_information(key, repository.commit, files))
        elif verb == "tree":
            inside = [name for name in files if not below or name.startswith(f"{below}/")]
            if below and not inside:
                self._refuse(404, "EntryNotFound", repository.commit)
            else:
                self._send_json(
                    _tree(inside, files, below, form.get("recursive") in (["true"], ["True"]))
                )
        elif verb == "paths-info":
            wanted = [name for name in form.get("paths", ()) if name in files]
            self._send_json([_entry(name, files[name]) for name in wanted])
        else:
            self._refuse(404, "EntryNotFound", repository.commit)

    def _send_file(self, repository: Repository, name: str) -> None:
        path = repository.files().get(name)
        if path is None:
            self._refuse(404, "EntryNotFound", repository.commit)
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": repository.commit}
        self._send(200, content, headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(status, b"", headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _information(key: str, commit: str, files: dict[str, Path]) -> dict[str, Any]:
    name = key.split("/", 1)[1]
    return {
        "id": name,
        "modelId": name,
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": [{"rfilename": file} for file in files],
    }


def _entry(name: str, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}


def _tree(
    names: list[str], files: dict[str, Path], below: str, recursive: bool
) -> list[dict[str, Any]]:
    """Files and folders under `below`: all of them, or those directly in it."""
    parents = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    folders = sorted(parent for parent in parents if parent.startswith(below) and parent != below)
    entries = [
        {"type": "directory", "path": folder, "oid": _digest(folder.encode())}
        for folder in folders
        if folder != "."
    ]
    entries += [_entry(name, files[name]) for name in names]
    return [
        entry
        for entry in entries
        if recursive or str(PurePosixPath(entry["path"]).parent) == (below or ".")
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


HubStandIn.handler = _Handler
