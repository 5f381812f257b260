"""Turns exceptions of the hub's client into one line with cause and remedy, without secrets."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import ssl
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

from excise.errors import causes, shortened
from excise.hub_access.refusals import not_found, refusal
from excise.hub_access.request import RETRY_HINT, Cause, HubRequest

_CLIENT: Any = importlib.import_module(HTTPError.__module__.partition(".")[0])
"""httpx or httpx2; huggingface_hub exports only some of its exceptions."""
FAILURES = (HTTPError, _CLIENT.InvalidURL, OSError, RuntimeError, ValueError, ImportError)
"""What huggingface_hub and hf_xet raise for failed requests; OSError also for local files."""

_LONGEST = 300
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
_FULL_TEXT = re.compile(
    r"no space left on device|not enough (disk )?space|disk quota exceeded|os error (28|112|122)\b",
    re.IGNORECASE,
)
"""Messages of hf_xet and datasets for a full disk; their exceptions have no errno."""
_UNWRITABLE = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


@dataclass(frozen=True)
class Failure:
    """A cause, and one line that says what is wrong and what to do."""

    cause: Cause
    text: str


def failure(error: Exception, request: HubRequest) -> Failure:
    """Cause and message of an exception that a request raised."""
    cause, what = _classified(error, request)
    where = f"{request.name}: {request.stage}" if request.stage else request.name
    return Failure(cause, without_secrets(f"{where}: {what}", request.token))


def without_secrets(text: str, token: str = "") -> str:
    """`text` without tokens, proxy passwords and URL queries."""
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    for secret in (token, *(os.environ.get(name, "") for name in names)):
        if secret:
            text = text.replace(secret, "…")
    text = re.sub(r"\bhf_(oauth_)?[A-Za-z0-9]{8,}", "…", text)
    text = re.sub(r"://[^/\s@]+@", "://…@", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)


def free_bytes(place: Path) -> int:
    """Free bytes on the disk of `place`, which need not exist."""
    there = next(one for one in (place, *place.parents) if one.exists())
    return shutil.disk_usage(there).free


def disk_full(needed: int | None = None) -> str:
    """The message for a full disk. needed: bytes of the download, if known."""
    place = Path(constants.HF_HUB_CACHE)
    more = "" if needed is None else f", {needed:,} are needed"
    return (
        f"the disk is full: {place} has {free_bytes(place):,} bytes free{more}; make room, or set HF_HOME "
        f"to a folder on a larger disk; {RETRY_HINT}"
    )


def _classified(error: Exception, request: HubRequest) -> tuple[Cause, str]:
    if any(map(_is_full, causes(error, "all"))):
        return "disk", disk_full()
    chain = list(causes(error, "none"))
    cause = _deepest(chain)
    if any(type(one).__name__ == "OfflineModeIsEnabled" for one in chain):
        # huggingface_hub and datasets each have a class of this name.
        return "offline", "HF_HUB_OFFLINE forbids access to the hub; unset it"
    if isinstance(cause, HfHubHTTPError):
        return refusal(cause, request)
    if isinstance(cause, HFValidationError):
        if request.writes:
            return "repository", (
                f"not a repository name; write OWNER/NAME ({_in_one_line(cause)})"
            )
        return "repository", not_found(request)
    if connection := _connection(error, request):
        return "unreachable", connection
    if isinstance(cause, PermissionError) and cause.errno is None:
        right = "write" if request.writes else "read"
        return "token", (
            f"the hub's storage refuses the token ({_in_one_line(cause)}); it needs {right} permission"
        )
    if isinstance(cause, OSError) and cause.errno in _UNWRITABLE and not request.writes:
        place = cause.filename or constants.HF_HUB_CACHE
        return "other", (
            f"{place} cannot be written ({cause.strerror}); set HF_HOME to a writable folder"
        )
    if isinstance(cause, json.JSONDecodeError) and not request.writes:
        return "unreachable", (
            f"the answer is not from the hub ({_in_one_line(cause)}); a proxy or a login page may be in "
            "between"
        )
    if isinstance(cause, ValueError | ImportError):
        # The hub's result of a check: of the model card, or of space for large files.
        return "other", _in_one_line(cause)
    return "other", f"{_in_one_line(cause)}; {RETRY_HINT}"


def _connection(error: Exception, request: HubRequest) -> str | None:
    """The reason why no answer came; None for other failures."""
    failed = "the connection failed" if request.writes else "the hub is out of reach"
    for one in causes(error, "all"):
        if "CERTIFICATE_VERIFY_FAILED" in str(one):
            return (
                f"{failed}: its certificate is not trusted ({_in_one_line(one)}); behind a proxy that "
                "decrypts traffic, set SSL_CERT_FILE to the file with the proxy's certificate"
            )
        if isinstance(one, ssl.SSLError):
            return (
                f"{failed}: the server does not speak TLS ({_in_one_line(one)}); check HF_ENDPOINT and "
                "HTTPS_PROXY"
            )
    for one in causes(error, "none"):
        if isinstance(one, _CLIENT.ProxyError):
            return (
                f"{failed}: the proxy refuses ({_in_one_line(one)}); check HTTPS_PROXY and NO_PROXY"
            )
        if isinstance(one, _CLIENT.InvalidURL | _CLIENT.UnsupportedProtocol):
            return f"HF_ENDPOINT or a proxy is not a valid URL ({_in_one_line(one)})"
        if isinstance(one, HTTPError | ConnectionError | TimeoutError):
            return f"{failed} ({_in_one_line(one)}{_through()}); {RETRY_HINT}"
    return None


def _through() -> str:
    """Names the environment variable of the proxy in use, if any."""
    address = urlsplit(constants.ENDPOINT)
    if address.scheme not in getproxies() or proxy_bypass(address.hostname or ""):
        return ""
    return f", through the proxy of {address.scheme.upper()}_PROXY"


def _is_full(error: BaseException) -> bool:
    if isinstance(error, HTTPError):
        return False  # A server's message about its own disk.
    number = error.errno if isinstance(error, OSError) else None
    return number in _FULL or _FULL_TEXT.search(str(error)) is not None


def _deepest(chain: list[BaseException]) -> BaseException:
    """The original error: the client's threads wrap exceptions."""
    found = chain[0]
    for cause in chain:
        if isinstance(cause, HfHubHTTPError):
            return cause
        if isinstance(cause, HTTPError | OSError):
            found = cause
    return found


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return shortened(text, _LONGEST)
