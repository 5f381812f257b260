"""What goes wrong between here and the hub, in one line each; no line ever holds the token."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub.errors import (  # type: ignore[attr-defined]
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx or httpx2, whichever this version is built on
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from excise.errors import HubError

FAILURES = (HTTPError, OSError, RuntimeError, ValueError)
"""What huggingface_hub and hf_xet raise while they talk to the hub; OSError also of files that are read."""

_TOKEN_PAGE = "https://huggingface.co/settings/tokens"
_LONGEST = 300
_AGAIN = "the same command goes on from there"


def explained(error: Exception, repository: str, token: str, stage: str) -> HubError:
    """`error` in one line. stage: what was being done, such as "while uploading model.safetensors"."""
    what = _what(error, repository)
    return HubError(f"{repository}: {stage}: {what}".replace(token, "…"))


def _what(error: Exception, repository: str) -> str:
    cause = _deepest(error)
    match cause:
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE forbids to reach the hub; unset it"
        case HFValidationError():
            return f"not the name of a repository; write OWNER/NAME ({_in_one_line(cause)})"
        case HfHubHTTPError():
            return _refusal(cause, repository)
        case HTTPError():
            return f"the connection failed ({_in_one_line(cause)}); {_AGAIN}"
        case ConnectionError() | TimeoutError():
            return f"the connection failed ({_in_one_line(cause)}); {_AGAIN}"
        case PermissionError() if cause.errno is None:
            return f"the hub's storage refuses the token ({_in_one_line(cause)}); it needs the right to write"
        case ValueError():
            # Of what the hub's answer to a check was: of the card, of large files' room.
            return _in_one_line(cause)
    return f"{_in_one_line(cause)}; {_AGAIN}"


def _refusal(error: HfHubHTTPError, repository: str) -> str:
    """What the hub answered in place of what was asked for."""
    owner = repository.partition("/")[0]
    status = error.response.status_code
    said = f" (the hub says: {_message(error)})" if _message(error) else ""
    match status:
        case 401 if not isinstance(error, RepositoryNotFoundError) or isinstance(
            error, GatedRepoError
        ):
            return f"the hub does not know this token; make one at {_TOKEN_PAGE} and set HF_TOKEN{said}"
        case 401 | 404:
            return (
                f"no such repository or owner, or the token may not see it; check {repository} and that "
                f"the token belongs to {owner} or a member of it{said}"
            )
        case 402 | 413 | 507:
            return f"the hub takes no more of this account's data{said}; make room, and {_AGAIN}"
        case 403:
            return f"the token may not write here; it needs the right to write to {owner}{said}"
        case 409 | 412:
            return f"the repository was changed by somebody else meanwhile{said}; look at it, and try again"
        case 429:
            return f"the hub has had too many requests; wait a little, and {_AGAIN}"
        case _ if status >= 500:
            return f"the hub fails (status {status}){said}; {_AGAIN} once it is up again"
        case _ if isinstance(error, BadRequestError):
            return f"the hub refuses what was sent{said}"
    return f"the hub refuses (status {status}){said}"


def _message(error: HfHubHTTPError) -> str:
    found = error.server_message or error.response.headers.get("X-Error-Message") or ""
    return " ".join(found.split()).rstrip(".")


def _deepest(error: Exception) -> Exception:
    """The error that others were raised from: threads of the client wrap what happened in them."""
    found = error
    for cause in _causes(error):
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


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
