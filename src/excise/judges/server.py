"""`openai:URL#MODEL`: a chat model behind a server that judges.

The protocol is that of OpenAI's chat completions, which vLLM, llama.cpp's server and Ollama have too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from threading import Event

import httpx2

from excise.errors import JudgeError, first_line
from excise.judges.completions import (
    LONGEST_WAIT,
    Form,
    backoff,
    error_in,
    reply_in,
    seconds_asked,
)
from excise.judges.options import JudgeOptions
from excise.models.template import Message

TRIES = 7
"""Requests for one reply before the server is given up."""
_LARGEST = 1 << 20
"""Bytes of a response; a longer response is no verdict."""
_CONNECT_SECONDS = 10.0
_BUSY = frozenset((408, 409, 425, 429))
_WRONG_PARAMETER = frozenset((400, 422, 501))


@dataclass(frozen=True)
class ChatServer:
    """A chat model behind a server.

    url: without the path of the protocol, such as http://localhost:8000/v1. key: sent to this server only;
    empty without one. variable: the environment variable of the key. concurrency: requests at a time.
    timeout: seconds for one reply. first_wait: seconds before the second request for a reply.
    """

    url: str
    model: str
    key: str = field(repr=False)
    variable: str
    concurrency: int = 8
    timeout: float = 120.0
    first_wait: float = 1.0

    @classmethod
    def of(cls, url: str, model: str, options: JudgeOptions) -> ChatServer:
        """The server with the key from the environment, if there is one. Raises JudgeError for other text."""
        key = os.environ.get(options.key, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise JudgeError(f"{options.key}: holds characters that no key has")
        url = url.removesuffix("/chat/completions")
        return cls(url, model, key, options.key, options.concurrency, options.timeout)

    def replies(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, str]]:
        """See `ChatModel`."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        timeout = httpx2.Timeout(self.timeout, connect=_CONNECT_SECONDS, pool=None)
        stop = Event()
        with (
            # A redirect could send key and answers to another host, so none is followed.
            httpx2.Client(headers=headers, timeout=timeout, follow_redirects=False) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            session = _Session(self, client, stop)
            futures = {
                pool.submit(session.reply, messages): index
                for index, messages in enumerate(conversations)
            }
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                stop.set()
                for future in futures:
                    future.cancel()


class _TryAgain(Exception):  # noqa: N818 - no error yet
    """A request failed for a reason that may pass. wait: seconds that the server asks for, None if none."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _Session:
    """Requests to one server. Threads share it."""

    def __init__(self, server: ChatServer, client: httpx2.Client, stop: Event) -> None:
        self._server, self._client, self._stop = server, client, stop
        self._form, self._reached = Form(), False

    def reply(self, messages: Sequence[Message]) -> str:
        """The reply to a conversation. Raises JudgeError if the server refuses or stays out of reach."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(messages)
            except _TryAgain as failure:
                if tries == TRIES or self._stop.is_set():
                    raise self._error(f"no reply after {tries} requests ({failure})") from failure
                wait = backoff(tries, self._server.first_wait)
                self._stop.wait(wait if failure.wait is None else failure.wait + wait / 4)

    def _once(self, messages: Sequence[Message]) -> str:
        while True:
            sent = self._form.body(self._server.model, messages)
            status, headers, content = self._post(json.dumps(sent).encode())
            if status == httpx2.codes.OK:
                try:
                    return reply_in(content)
                except ValueError as error:
                    if "json" in headers.get("Content-Type", "json"):
                        raise _TryAgain(str(error)) from error
                    raise self._error(
                        f"{error}; check the URL, which usually ends in /v1"
                    ) from None
            refused = status in _WRONG_PARAMETER
            if refused and b"content_filter" in content:
                # The server's filter keeps the model from replying, so there is no verdict.
                return ""
            # llama-cpp-python fails with status 500 over a parameter that it does not know.
            if (refused or status == httpx2.codes.INTERNAL_SERVER_ERROR) and self._form.adapt(
                sent, content.decode("utf-8", "replace"), unnamed=refused
            ):
                continue
            raise self._refusal(status, headers, content)

    def _post(self, body: bytes) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and content of the response to one request."""
        deadline = time.monotonic() + self._server.timeout
        content = bytearray()
        try:
            with self._client.stream(
                "POST",
                f"{self._server.url}/chat/completions",
                content=body,
                headers={"Content-Type": "application/json"},
            ) as response:
                self._reached = True
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _LARGEST:
                        raise self._error(f"a response of more than {_LARGEST:,} bytes")
                    # The client's own limit is for each piece.
                    if time.monotonic() > deadline or self._stop.is_set():
                        raise _TryAgain(f"no whole response in {self._server.timeout:g} seconds")
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if self._reached:
                raise _TryAgain(f"the connection fails: {first_line(error)}") from error
            raise self._error(f"cannot be reached ({first_line(error)}); does it run?") from error
        except httpx2.TimeoutException as error:
            raise _TryAgain(f"no response in {self._server.timeout:g} seconds") from error
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise self._error(f"not a valid URL ({first_line(error)})") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _TryAgain(f"the connection was cut off: {first_line(error)}") from error
        return response.status_code, response.headers, bytes(content)

    def _refusal(self, status: int, headers: httpx2.Headers, content: bytes) -> Exception:
        """The failure that an error response stands for."""
        said = f"status {status}: {error_in(content)}"
        if status in _BUSY or (status >= 500 and status not in _WRONG_PARAMETER):
            wait = seconds_asked(headers.get("Retry-After"))
            if wait is not None and wait > LONGEST_WAIT:
                return self._error(f"asks to wait {wait:.0f} seconds ({said}); try again then")
            if b"insufficient_quota" in content:
                return self._error(f"the account has no credit left ({said})")
            return _TryAgain(said, wait)
        variable = self._server.variable
        match status:
            case 401 | 403 if self._server.key:
                return self._error(f"refuses the key in {variable} ({said})")
            case 401 | 403:
                return self._error(f"wants a key; set {variable} ({said})")
            case 404:
                return self._error(
                    f"knows no model {self._server.model}, or has no chat completions here; the URL usually "
                    f"ends in /v1 ({said})"
                )
            case _ if 300 <= status < 400:
                place = headers.get("Location", "another place")
                return self._error(
                    f"redirects to {place}, which gets neither key nor answers; give that URL if it is right"
                )
        return self._error(f"refuses the request ({said})")

    def _error(self, what: str) -> JudgeError:
        text = f"judge openai:{self._server.url}#{self._server.model}: {what}"
        # Some servers repeat the key in their message.
        return JudgeError(text.replace(self._server.key, "…") if self._server.key else text)
