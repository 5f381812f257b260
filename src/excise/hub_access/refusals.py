"""Messages for the hub's error responses, by status and error class."""

from __future__ import annotations

import re

from huggingface_hub.errors import (
    BadRequestError,
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from excise.hub_access.request import RETRY_HINT, Cause, HubRequest

_TOKEN_PAGE = "https://huggingface.co/settings/tokens"


def refusal(error: HfHubHTTPError, request: HubRequest) -> tuple[Cause, str]:
    """Cause and message for an error response of the hub."""
    detail = f" (the hub says: {_message(error)})" if _message(error) else ""
    status = error.response.status_code
    match status:
        case 407:
            return (
                "unreachable",
                f"the proxy requires a user name and a password; see HTTPS_PROXY{detail}",
            )
        case 429:
            return "limit", (
                f"too many requests from here{detail}; {_when(error)}"
                + ("" if _has_token(error) else ", or set HF_TOKEN, which raises the limit")
            )
        case _ if status >= 500 and status != 507:
            return "unreachable", (
                f"the hub fails (status {status}){detail}; {RETRY_HINT} once it is up again"
            )
    return _write_refusal(error, request, detail) if request.writes else _read_refusal(
        error, request, detail
    )  # fmt: skip


def _read_refusal(error: HfHubHTTPError, request: HubRequest, detail: str) -> tuple[Cause, str]:
    status = error.response.status_code
    match error:
        case GatedRepoError():
            return "gated", (
                f"it is gated: accept its terms on {request.page}, and "
                + ("use a token of that account" if _has_token(error) else "set HF_TOKEN")
                + f" (or: hf auth login){detail}"
            )
        case DisabledRepoError():
            return "other", f"the hub has disabled it{detail}"
        case RevisionNotFoundError():
            return "revision", f"no revision {request.revision} on the hub"
        case RepositoryNotFoundError():
            return "repository", not_found(request)
    match status:
        case 401 if _has_token(error):
            return "token", (
                f"the hub refuses the token{detail}; make one at {_TOKEN_PAGE} and set HF_TOKEN, or unset it "
                "if no token is needed"
            )
        case 401:
            return "token", f"the hub requires a token{detail}; set HF_TOKEN, or: hf auth login"
        case 403:
            return "token", (
                f"the token has no read permission{detail}; see its permissions at {_TOKEN_PAGE}"
                if _has_token(error)
                else f"the hub requires a token{detail}; set HF_TOKEN, or: hf auth login"
            )
    return "other", f"the hub refuses (status {status}){detail}"


def _write_refusal(error: HfHubHTTPError, request: HubRequest, detail: str) -> tuple[Cause, str]:
    owner = request.name.partition("/")[0]
    status = error.response.status_code
    match status:
        case 401 if not isinstance(error, RepositoryNotFoundError) or isinstance(
            error, GatedRepoError
        ):
            return "token", (
                f"the hub does not know this token; make one at {_TOKEN_PAGE} and set HF_TOKEN{detail}"
            )
        case 401 | 404:
            return "repository", (
                f"no such repository or owner, or the token may not see it; check {request.name} and that "
                f"the token belongs to {owner} or a member of it{detail}"
            )
        case 402 | 413 | 507:
            return "other", (
                f"the account has no storage left{detail}; make room, and {RETRY_HINT}"
            )
        case 403:
            return "token", (f"the token has no write permission for {owner}{detail}")
        case 409 | 412:
            return "other", (
                f"somebody else has changed the repository meanwhile{detail}; check it, and try again"
            )
        case _ if isinstance(error, BadRequestError):
            return "other", f"the hub refuses what was sent{detail}"
    return "other", f"the hub refuses (status {status}){detail}"


def not_found(request: HubRequest) -> str:
    """The message for an unknown repository, or a private repository that the user may not see."""
    here = "folder" if request.kind == "model" else "file or folder"
    return (
        f"no such {here} here and no such {request.kind} on the hub; check the spelling, or log in if it is "
        "private (hf auth login)"
    )


def _when(error: HfHubHTTPError) -> str:
    """When to try again, from the response's headers."""
    headers = error.response.headers
    after = (headers.get("Retry-After") or "").strip()
    if not after and (left := re.search(r";\s*t=(\d+)", headers.get("ratelimit") or "")):
        after = left.group(1)
    if after.isdigit():
        return f"try again in {after} second{'' if after == '1' else 's'}"
    return f"try again after {after}" if after else "wait a little, and try again"


def _has_token(error: HfHubHTTPError) -> bool:
    request = error.response.request
    return request is not None and "authorization" in request.headers


def _message(error: HfHubHTTPError) -> str:
    found = error.server_message or error.response.headers.get("X-Error-Message") or ""
    return " ".join(found.split()).rstrip(".")
