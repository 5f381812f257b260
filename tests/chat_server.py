"""A local stand-in for a server of chat completions, which fails as its script says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Response:
    """What the server sends. cut: bytes of the content that are left out; drip: seconds between two bytes."""

    status: int = 200
    content: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    wait: float = 0
    drip: float = 0
    kind: str = "application/json"


def reply(text: str | None, **more: Any) -> Response:
    """A chat completion with this text."""
    message = {"role": "assistant", "content": text, **more}
    return Response(content=json.dumps({"choices": [{"index": 0, "message": message}]}))


def verdict(outcome: str, reason: str = "because") -> Response:
    """A chat completion with a verdict."""
    return reply(json.dumps({"verdict": outcome, "reason": reason}))


def failed(status: int, message: str = "no", **headers: str) -> Response:
    """An error response in the form of OpenAI's."""
    content = json.dumps({"error": {"message": message, "type": "x"}})
    return Response(status, content, {key.replace("_", "-"): one for key, one in headers.items()})


Answer = Callable[[int, dict[str, Any]], Response]
"""The number of the request, from 0, and its body → what the server sends."""


class ChatServerStandIn:
    """Serves on a free port while it is used as a context.

    bodies, headers: of the requests, in order. most_at_once: the largest number of requests in work together.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer, self._lock = answer, threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._working = self.most_at_once = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Of the API, without the path of chat completions."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServerStandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, body: dict[str, Any], headers: dict[str, str], path: str) -> Response:
        """Note a request, and choose the response to it."""
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self.paths.append(path)
            self._working += 1
            self.most_at_once = max(self.most_at_once, self._working)
        try:
            response = self._answer(number, body)
            time.sleep(response.wait)
            return response
        finally:
            with self._lock:
                self._working -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                response = stand_in.respond(body, dict(self.headers), self.path)
                content = response.content.encode()
                try:
                    self._send(response, content)
                except OSError:
                    # The client has given up.
                    self.close_connection = True

            def _send(self, response: Response, content: bytes) -> None:
                self.send_response(response.status)
                self.send_header("Content-Type", response.kind)
                self.send_header("Content-Length", str(len(content)))
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if response.drip:
                    for place in range(len(content)):
                        self.wfile.write(content[place : place + 1])
                        self.wfile.flush()
                        time.sleep(response.drip)
                    return
                self.wfile.write(content[: len(content) - response.cut])
                if response.cut:
                    self.close_connection = True

        return Handler
