"""The protocol of chat completions: what a request says, and what a response means."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

from excise.errors import shortened
from excise.judges.rubric import MAX_NEW_TOKENS, SCHEMA
from excise.models.template import Message

LONGEST_WAIT = 120.0
"""Seconds. A server that asks for a longer wait is given up."""
_LONGEST_BACKOFF = 30.0
_SHOWN = 200


class Form:
    """The parameters of all requests to one server: those that the server accepts. Threads share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._optional: Mapping[str, Any] = {
            "temperature": 0,
            "max_tokens": MAX_NEW_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA},
            },
        }

    def body(self, model: str, messages: Sequence[Message]) -> dict[str, Any]:
        """The body of a request."""
        with self._lock:
            return {"model": model, "messages": list(messages), **self._optional}

    def adapt(self, sent: Mapping[str, Any], message: str, *, unnamed: bool) -> bool:
        """Leave out what a server has refused in `sent`; False if nothing is left to leave out.

        message: the server's, which names the parameter. unnamed: whether to leave out the structured answer
        if it names none.
        """
        optional = [name for name in sent if name not in ("model", "messages")]
        named = [name for name in optional if name in message]
        refused = next(iter(named), "response_format" if unnamed else "")
        if refused not in optional:
            return False
        with self._lock:
            rest = {name: value for name, value in self._optional.items() if name != refused}
            if refused == "max_tokens" and "max_completion_tokens" in message:
                # The name that OpenAI's newer models want.
                rest["max_completion_tokens"] = MAX_NEW_TOKENS
            self._optional = rest
        return True


def reply_in(content: bytes) -> str:
    """The text of a response; empty without text. Raises ValueError if it is no chat completion."""
    try:
        value = json.loads(content)
        message = value["choices"][0]["message"]
        text = message.get("content") or message.get("refusal") or ""
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f"not a chat completion: {error_in(content)!r}") from None
    if not isinstance(text, str):
        raise ValueError(f"not a chat completion of text: {shortened(str(text), _SHOWN)!r}")
    return text


def error_in(content: bytes) -> str:
    """The message of an error response, or its beginning, in one line."""
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    while isinstance(value, dict) and (keys := [key for key in _MESSAGES if value.get(key)]):
        value = value[keys[0]]
    return shortened(" ".join(str(value).split()), _SHOWN)


_MESSAGES = ("error", "message", "detail")
"""Keys of messages in the error responses of OpenAI, vLLM, llama.cpp and Ollama."""


def backoff(tries: int, first: float) -> float:
    """Seconds before the next request: twice as many each time, between half and all of them at random.

    Chance keeps requests that failed together from coming back together.
    """
    most = min(_LONGEST_BACKOFF, first * 2 ** (tries - 1))
    return random.SystemRandom().uniform(most / 2, most)


def seconds_asked(header: str | None) -> float | None:
    """The wait that a Retry-After header asks for: seconds or a date; None without a valid one."""
    text = (header or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
