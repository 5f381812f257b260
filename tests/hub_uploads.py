"""The stand-in of `hub_stand_in.py` that takes uploads too: repositories, large files, commits, failures.

    with UploadStandIn(tmp_path / "hub", token="hf_…", owner="me") as hub:
        hub.fail("PUT", "/storage/", status=500, times=6)
        …
        assert hub.commits["me/model"] == [{"model.safetensors", …}]

It speaks what huggingface_hub 2.4 speaks with xet turned off: `repos/create`, `validate-yaml`, `preupload`,
the LFS batch with single and multipart transfers, `verify`, `commit`. What was committed is served.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from hub_stand_in import HubStandIn, Repository, _Handler

TOKEN = "hf_SecretOfTheTests"
NAME = "me/edited"
_LARGE_SUFFIXES = (".safetensors", ".bin", ".gguf")
ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Failure:
    """What happens to matching requests, `times` times.

    drop: close the connection; "before" the request is carried out, or "after" it.
    """

    method: str
    fragment: str
    status: int = 500
    message: str = ""
    times: int = 1
    drop: str = ""


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Uploaded:
    """A repository that was made here. large: names of its files in the large storage."""

    private: bool
    large: set[str] = field(default_factory=set)


class UploadStandIn(HubStandIn):
    """Takes uploads by the bearer of `token` into repositories of `owner`."""

    def __init__(self, folder: Path, *, token: str, owner: str) -> None:
        self.folder, self.token, self.owner = folder, token, owner
        self.made: dict[str, Uploaded] = {}
        self.storage: dict[str, bytes] = {}
        self.stored: list[str] = []
        """Hashes in the order in which they arrived: one that stands here twice was sent twice."""
        self.commits: dict[str, list[set[str]]] = {}
        self.received: list[Request] = []
        self.failures: list[Failure] = []
        self.part_size: int | None = None
        """Larger files are asked for in parts of so many bytes."""
        self.parts: dict[str, dict[int, bytes]] = {}
        self.full = False
        """No room is left for large files."""
        super().__init__()

    def fail(self, method: str, fragment: str, **how: Any) -> None:
        """Let the next requests of this method whose path holds `fragment` fail."""
        self.failures.append(Failure(method, fragment, **how))

    def files(self, name: str) -> dict[str, bytes]:
        """What a repository holds, but for .gitattributes."""
        found = self.repositories[f"models/{name}"].files()
        return {file: path.read_bytes() for file, path in found.items() if file != ".gitattributes"}

    def make(self, name: str, *, private: bool, files: dict[str, bytes] | None = None) -> None:
        """A repository with a first commit, and with `files` if there are any."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text(ATTRIBUTES)
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content)
        self.made[name] = Uploaded(private, {f for f in files or {} if f.endswith(_LARGE_SUFFIXES)})
        self.add_model(name, folder)


class _UploadHandler(_Handler):
    stand_in: UploadStandIn

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, url = self.stand_in, urlsplit(self.path)
        path = unquote(url.path)
        body = self._body()
        hub.received.append(
            Request(
                self.command,
                path,
                {name.lower(): value for name, value in self.headers.items()},
                body,
            )
        )
        failure = self._failure(path)
        if failure is not None and failure.drop != "after":
            if failure.drop:
                self._hang_up()
            else:
                self._refuse_saying(failure.status, failure.message)
            return
        route = self._route(path)
        if route is None:
            super()._answer()
        else:
            route(path, body, failure is not None)

    def _body(self) -> bytes:
        if self.command in ("GET", "HEAD"):
            return b""
        if self.headers.get("Transfer-Encoding") != "chunked":
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            del self.headers["Content-Length"]  # Read already.
            return body
        parts: list[bytes] = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _failure(self, path: str) -> Failure | None:
        for failure in self.stand_in.failures:
            if failure.method == self.command and failure.fragment in path:
                failure.times -= 1
                if failure.times == 0:
                    self.stand_in.failures.remove(failure)
                return failure
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _route(self, path: str) -> Any:
        parts = path.strip("/").split("/")
        if path.startswith("/storage/"):
            return self._store
        if path == "/api/repos/create":
            return self._create
        if path == "/api/validate-yaml":
            return self._validate
        if parts[1:2] and parts[1].endswith(".git"):
            return self._verify if parts[-1] == "verify" else self._batch
        if parts[:2] == ["api", "models"] and len(parts) > 4:
            return {"preupload": self._preupload, "commit": self._commit}.get(parts[4])
        if parts[:2] == ["api", "models"] and len(parts) == 4 and self.command == "GET":
            return self._look
        return None

    def _refuse_saying(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} if message else {}
        self._send(status, b"", headers | ({"X-Error-Code": code} if code else {}))

    def _admitted(self, owner: str | None = None) -> bool:
        """Refuses, and returns False, if the token is unknown or may not write to `owner`."""
        if self.headers.get("Authorization") != f"Bearer {self.stand_in.token}":
            self._refuse_saying(401, "Invalid credentials in Authorization header")
            return False
        if owner not in (None, self.stand_in.owner):
            self._refuse_saying(403, f"You don't have the rights to write to the namespace {owner}")
            return False
        return True

    # The hub's own interface.

    def _look(self, path: str, body: bytes, lose: bool) -> None:
        name = "/".join(path.strip("/").split("/")[2:4])
        if not self._admitted():
            return
        made = self.stand_in.made.get(name)
        if made is None:
            self._refuse_saying(404, "Repository not found", "RepoNotFound")
            return
        repository = self.stand_in.repositories[f"models/{name}"]
        self._send_json(
            {
                "id": name,
                "sha": repository.commit,
                "private": made.private,
                "tags": [],
                "siblings": [
                    _sibling(file, path.read_bytes(), file in made.large)
                    for file, path in repository.files().items()
                ],
            }
        )

    def _create(self, path: str, body: bytes, lose: bool) -> None:
        asked = json.loads(body)
        if not self._admitted(asked["organization"]):
            return
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.stand_in.made:
            self._refuse_saying(409, "You already created this model repo")
            return
        self.stand_in.make(name, private=asked.get("visibility") == "private")
        self._send_json({"url": f"{self.stand_in.endpoint}/{name}"})

    def _validate(self, path: str, body: bytes, lose: bool) -> None:
        content = json.loads(body)["content"]
        data = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
        if not isinstance(data.get("license", "mit"), str):
            answer = json.dumps({"errors": [{"message": '"license" must be a string'}]}).encode()
            self._send(400, answer, {"Content-Type": "application/json"})
            return
        warned = [] if "license" in data else [{"message": "no license in the metadata"}]
        self._send_json({"warnings": warned})

    def _preupload(self, path: str, body: bytes, lose: bool) -> None:
        name = "/".join(path.strip("/").split("/")[2:4])
        if not self._admitted(name.split("/")[0]):
            return
        made, repository = self.stand_in.made[name], self.stand_in.repositories[f"models/{name}"]
        there = repository.files()
        answers = []
        for asked in json.loads(body)["files"]:
            large = asked["path"].endswith(_LARGE_SUFFIXES)
            path_there = there.get(asked["path"])
            oid = None
            if path_there is not None:
                sibling = _sibling(
                    asked["path"], path_there.read_bytes(), asked["path"] in made.large
                )
                oid = sibling["lfs"]["sha256"] if "lfs" in sibling else sibling["blobId"]
            mode = "lfs" if large else "regular"
            answers.append(
                {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self._send_json({"files": answers})

    def _batch(self, path: str, body: bytes, lose: bool) -> None:
        hub = self.stand_in
        if not self._admitted(path.strip("/").split("/")[0]):
            return
        objects: list[dict[str, Any]] = []
        for asked in json.loads(body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if hub.full:
                entry["error"] = {"code": 413, "message": "Private storage limit reached"}
            elif oid not in hub.storage:
                upload: dict[str, Any] = {"href": f"{hub.endpoint}/storage/{oid}", "header": {}}
                if hub.part_size is not None and size > hub.part_size:
                    parts = -(-size // hub.part_size)
                    upload["header"] = {"chunk_size": str(hub.part_size)} | {
                        f"{number:05}": f"{hub.endpoint}/storage/{oid}/{number}"
                        for number in range(1, parts + 1)
                    }
                verify = f"{hub.endpoint}{path.removesuffix('/objects/batch')}/verify"
                entry["actions"] = {"upload": upload, "verify": {"href": verify}}
            objects.append(entry)
        self._send_json({"transfer": "basic", "objects": objects})

    def _verify(self, path: str, body: bytes, lose: bool) -> None:
        asked = json.loads(body)
        content = self.stand_in.storage.get(asked["oid"])
        self._send(200 if content is not None and len(content) == asked["size"] else 404, b"{}", {})

    def _store(self, path: str, body: bytes, lose: bool) -> None:
        hub = self.stand_in
        oid, *part = path.removeprefix("/storage/").split("/")
        if part:
            hub.parts.setdefault(oid, {})[int(part[0])] = body
            self._send(200, b"", {"ETag": f'"{len(body)}"'})
            return
        if self.command == "POST":
            pieces = hub.parts.pop(oid)
            body = b"".join(pieces[number] for number in sorted(pieces))
        if hashlib.sha256(body).hexdigest() != oid:
            self._send(400, b"hash differs", {})
            return
        hub.storage[oid] = body
        hub.stored.append(oid)
        self._send(200, b"{}", {"Content-Type": "application/json"})

    def _commit(self, path: str, body: bytes, lose: bool) -> None:
        hub = self.stand_in
        name = "/".join(path.strip("/").split("/")[2:4])
        if not self._admitted(name.split("/")[0]):
            return
        lines = [json.loads(line) for line in body.splitlines()]
        made, repository = hub.made[name], hub.repositories[f"models/{name}"]
        if lines[0]["value"].get("parentCommit", repository.commit) != repository.commit:
            self._refuse_saying(412, "A commit has happened since. Please refresh and try again.")
            return
        changed: set[str] = set()
        staged = repository.folder.with_name(f"{repository.folder.name}.staged")
        shutil.copytree(repository.folder, staged)
        for line in lines[1:]:
            value = line["value"]
            target = staged / value["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            changed.add(("-" if line["key"] == "deletedFile" else "") + value["path"])
            if line["key"] == "file":
                target.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                target.write_bytes(hub.storage[value["oid"]])
                made.large.add(value["path"])
            else:
                target.unlink()
        shutil.rmtree(repository.folder)
        staged.rename(repository.folder)
        content = b"".join(file.encode() for file in sorted(changed))
        oid = hashlib.sha1(repository.commit.encode() + content).hexdigest()
        hub.repositories[f"models/{name}"] = Repository(repository.folder, oid)
        hub.commits.setdefault(name, []).append(changed)
        if lose:
            self._hang_up()
        else:
            self._send_json({"commitUrl": f"{hub.endpoint}/{name}/commit/{oid}", "commitOid": oid})


UploadStandIn.handler = _UploadHandler


def _sibling(file: str, content: bytes, large: bool) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": blob}
    if large:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
    return entry
