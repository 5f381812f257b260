"""What goes wrong between here and the hub: one line for each cause, and no line ever holds a token."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx or httpx2, whichever this version is built on
)

from excise.errors import HubError
from excise.hub_access.refusals import not_found, refusal
from excise.hub_access.request import RETRY_HINT, Cause, Request

_CLIENT: Any = importlib.import_module(HTTPError.__module__.partition(".")[0])
"""httpx or httpx2: its other errors are not told by huggingface_hub."""
FAILURES = (HTTPError, _CLIENT.InvalidURL, OSError, RuntimeError, ValueError, ImportError)
"""What huggingface_hub and hf_xet raise while they talk to the hub; OSError also of files that are read."""

_LONGEST = 300
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_FULL_TEXT = re.compile(
    r"no space left on device|not enough (disk )?space|disk quota exceeded|os error (28|112|122)\b",
    re.IGNORECASE,
)
"""A full disk in the words of hf_xet and datasets, which pass on no number."""
_UNWRITABLE = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


@dataclass(frozen=True)
class Failure:
    """cause: which one. text: one line, what is wrong and what to do."""

    cause: Cause
    text: str

    @property
    def error(self) -> HubError:
        """The failure as an error of excise's own."""
        return HubError(self.text)


def failure(error: Exception, request: Request) -> Failure:
    """Which cause `error` has, and what to do about it."""
    cause, what = _progress(error, request)
    where = f"{request.name}: {request.stage}" if request.stage else request.name
    return Failure(cause, without_secrets(f"{where}: {what}", request.token))


def without_secrets(text: str, token: str = "") -> str:
    """`text` without tokens, passwords of proxies and signatures of addresses."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    for secret in (token, *(os.environ.get(name, "") for name in names)):
        if secret:
            text = text.replace(secret, "…")
    text = re.sub(r"\bhf_(oauth_)?[A-Za-z0-9]{8,}", "…", text)
    text = re.sub(r"://[^/\s@]+@", "://…@", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)


def free_bytes(place: Path) -> int:
    """Bytes that the disk of `place`, which need not exist yet, has for this user."""
    there = next(one for one in (place, *place.parents) if one.exists())
    return shutil.disk_usage(there).free


def disk_full(needed: int | None = None) -> str:
    """What to say of a disk that has no room for a download, of so many bytes if that is known."""
    place = Path(constants.HF_HUB_CACHE)
    more = "" if needed is None else f", {needed:,} are needed"
    return (
        f"the disk is full: {place} has {free_bytes(place):,} bytes free{more}; make room, or set HF_HOME "
        f"to a folder on a larger disk; {RETRY_HINT}"
    )


def _progress(error: Exception, request: Request) -> tuple[Cause, str]:
    if any(map(_is_full, _behind(error))):
        return "disk", disk_full()
    chain = list(_causes(error))
    cause = _deepest(chain)
    if any(type(one).__name__ == "OfflineModeIsEnabled" for one in chain):
        # datasets has a class of its own by this name.
        return "offline", "HF_HUB_OFFLINE forbids to reach the hub; unset it"
    if isinstance(cause, HfHubHTTPError):
        return refusal(cause, request)
    if isinstance(cause, HFValidationError):
        if request.writes:
            return "repository", (
                f"not the name of a repository; write OWNER/NAME ({_in_one_line(cause)})"
            )
        return "repository", not_found(request)
    if connection := _connection(error, request):
        return "unreachable", connection
    if isinstance(cause, PermissionError) and cause.errno is None:
        right = "write" if request.writes else "read"
        return "token", (
            f"the hub's storage refuses the token ({_in_one_line(cause)}); it needs the right to {right}"
        )
    if isinstance(cause, OSError) and cause.errno in _UNWRITABLE and not request.writes:
        place = cause.filename or constants.HF_HUB_CACHE
        return "other", (
            f"{place} cannot be written ({cause.strerror}); set HF_HOME to a folder that can"
        )
    if isinstance(cause, json.JSONDecodeError) and not request.writes:
        return "unreachable", (
            f"something else than the hub answers ({_in_one_line(cause)}); look whether a proxy or a page to "
            "log in stands between"
        )
    if isinstance(cause, ValueError | ImportError):
        # Of what the hub's answer to a check was: of the card, of large files' room.
        return "other", _in_one_line(cause)
    return "other", f"{_in_one_line(cause)}; {RETRY_HINT}"


def _connection(error: Exception, request: Request) -> str | None:
    """Why no answer came at all; None if one did, or nothing was asked."""
    failed = "the connection failed" if request.writes else "the hub is out of reach"
    for one in _behind(error):
        if "CERTIFICATE_VERIFY_FAILED" in str(one):
            return (
                f"{failed}: its certificate is not trusted ({_in_one_line(one)}); behind a proxy that reads "
                "what is encrypted, set SSL_CERT_FILE to the file with the proxy's certificate"
            )
        if isinstance(one, ssl.SSLError):
            return (
                f"{failed}: no TLS is spoken there ({_in_one_line(one)}); check HF_ENDPOINT and "
                "HTTPS_PROXY"
            )
    for one in _causes(error):
        if isinstance(one, _CLIENT.ProxyError):
            return (
                f"{failed}: the proxy refuses ({_in_one_line(one)}); check HTTPS_PROXY and NO_PROXY"
            )
        if isinstance(one, _CLIENT.InvalidURL | _CLIENT.UnsupportedProtocol):
            return f"HF_ENDPOINT or a proxy is no address ({_in_one_line(one)})"
        if isinstance(one, HTTPError | ConnectionError | TimeoutError):
            return f"{failed} ({_in_one_line(one)}{_through()}); {RETRY_HINT}"
    return None


def _through() -> str:
    """Names the variable of the proxy that leads to the hub, if there is one."""
    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in getproxies() or proxy_bypass(address.hostname or ""):
        return ""
    return f", through the proxy of {address.scheme.upper()}_PROXY"


def _is_full(error: BaseException) -> bool:
    if isinstance(error, HTTPError):
        return False  # What a server says of its own disk.
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or _FULL_TEXT.search(str(error)) is not None


def _deepest(chain: list[BaseException]) -> BaseException:
    """The error that others were raised from: threads of the client wrap what happened in them."""
    found = chain[0]
    for cause in chain:
        if isinstance(cause, HfHubHTTPError):
            return cause
        if isinstance(cause, HTTPError | OSError):
            found = cause
    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The causes, and what was being dealt with when they came up."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
