"""The upload stand-in of `hub_uploads.py` with a storage that speaks xet, as hf_xet 1.8 uploads to it.

A file comes as a xorb, chunks one after the other with a header each: a grant is asked for, the xorb goes to
the address that it names, and is committed; then a shard says which chunks make up which file. The shard's
contents are not looked at: a xorb here is one file, because files come one by one, and random bytes are
chunks that are stored as they are. Protocol: spec/ of huggingface/xet-core.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hub_uploads import UploadStandIn, _UploadHandler

XET_TOKEN = "xet-for-an-hour"
_HEADER = 8


class XetStandIn(UploadStandIn):
    """Gives whoever has the hub's token one of its storage, and takes xorbs and shards with that."""

    def __init__(self, folder: Path, *, token: str, owner: str) -> None:
        self.xorbs: dict[str, bytes] = {}
        self.shards: list[bytes] = []
        super().__init__(folder, token=token, owner=owner)


class _XetHandler(_UploadHandler):
    stand_in: XetStandIn

    def _route(self, path: str) -> Any:
        if "/xet-write-token/" in path:
            return self._hand_out
        if path.startswith("/grants/"):
            return self._take
        if path.startswith("/cas/"):
            return self._cas
        return super()._route(path)

    def _hand_out(self, path: str, body: bytes, lose: bool) -> None:
        if self._admitted():
            place = f"{self.stand_in.endpoint}/cas"
            ends = int(time.time()) + 3600
            self._send_json({"accessToken": XET_TOKEN, "exp": ends, "casUrl": place})

    def _take(self, path: str, body: bytes, lose: bool) -> None:
        self.stand_in.xorbs[path.rpartition("/")[2]] = body
        self._send(200, b"", {})

    def _cas(self, path: str, body: bytes, lose: bool) -> None:
        hub = self.stand_in
        if self.headers.get("Authorization") != f"Bearer {XET_TOKEN}":
            self._send(401, b"", {})
            return
        what, *names = path.split("/")[3:]
        if what == "xorb-grants":
            self._grant(names[-1])
        elif what == "xorb-commits" and names[1] in hub.xorbs:
            content = b"".join(_chunks(hub.xorbs[names[1]]))
            oid = hashlib.sha256(content).hexdigest()
            hub.storage[oid] = content
            hub.stored.append(oid)
            self._send_json({"was_inserted": True})
        elif path == "/cas/v1/shards":
            hub.shards.append(body)
            self._send_json({"result": 1})
        else:  # Chunks that others have: none. Newer versions of the interface: not here.
            self._send(404, b"", {})

    def _grant(self, name: str) -> None:
        if name in self.stand_in.xorbs:
            self._send_json({"was_inserted": False})
            return
        url = f"{self.stand_in.endpoint}/grants/{name}"
        grant = {"id": "one", "method": "PUT", "url": url, "headers": {}}
        self._send(201, json.dumps(grant).encode(), {"Content-Type": "application/json"})


XetStandIn.handler = _XetHandler


def _chunks(xorb: bytes) -> Iterator[bytes]:
    """What each chunk of a xorb holds, if none is compressed."""
    place = 0
    while place < len(xorb):
        size = int.from_bytes(xorb[place + 1 : place + 4], "little")
        assert xorb[place + 4] == 0, "a chunk that is compressed: give random bytes"
        yield xorb[place + _HEADER : place + _HEADER + size]
        place += _HEADER + size
