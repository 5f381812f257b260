"""Errors of excise's own: each says what is wrong, where, and what to do.

The command line prints `str(error)` as one line and exits with status 2; a traceback is for faults of
ours, never for a user's mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_LONGEST = 800
"""Characters of a message. A damaged file may put a whole book where a name should stand."""


class ExciseError(Exception):
    """Base of every error that a user can mend."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, _LONGEST))


class SettingsError(ExciseError):
    """An unknown key, a wrong value, or settings that contradict each other."""


class PromptError(ExciseError):
    """A prompt set that cannot be read, or that is too small for what it is needed for."""


class ModelError(ExciseError):
    """A model that cannot be found, loaded, or covered, or that an edit does not fit."""


class HubError(ExciseError):
    """The hub is out of reach, or refuses; names what is cached instead."""


class OutOfMemoryError(ExciseError):
    """Memory ran out, and smaller batches do not help. Says what would."""


class RunError(ExciseError):
    """A run directory that belongs to another model or other settings, or is damaged."""


class SaveError(ExciseError):
    """A model, adapter or edit that could not be written. Nothing half-written is left behind."""


class ReproductionError(ExciseError):
    """A saved model that cannot be made again: its record is damaged, or what it was made from has moved."""


class TrialError(ExciseError):
    """A candidate that cannot be scored, for example because its logits are not numbers."""


def shortened(text: str, longest: int) -> str:
    """`text`, with its middle left out if it has more characters than `longest`."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def first_line(error: BaseException) -> str:
    """What an error of a library or of the system says, in one line; its class if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        # Without its number, and the file, which whoever reports it names as the user knows it.
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = 1
    # A line that ends in a colon announces the next one, which says it.
    while lines[said - 1].endswith(":") and said < len(lines):
        said += 1
    return " ".join(lines[:said])


def causes(
    error: BaseException, contexts: Literal["none", "shown", "all"] = "shown"
) -> Iterator[BaseException]:
    """An error, and those that it was raised from, each once.

    contexts: of errors that were being handled when the next one was raised, which count too: none of them,
    those that a traceback shows, or also those that `from None` hides.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        hidden = contexts == "none" or (contexts == "shown" and found.__suppress_context__)
        found = found.__cause__ or (None if hidden else found.__context__)


UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What taking apart a document raises that is well formed but holds other things than it should."""


@contextmanager
def translated(to: type[ExciseError], what: str, *kinds: type[BaseException]) -> Iterator[None]:
    """Turn what a library raises in this block into `to`, with the line "what (the library's reason)".

    what: what is wrong and where, for example "config.json: not a JSON file". kinds: the exceptions that
    the library's calls raise for bad input. Errors of excise's own pass through unchanged.
    """
    try:
        yield
    except ExciseError:
        raise
    except kinds as error:
        raise to(f"{what} ({first_line(error)})") from error
