"""excise's exceptions: each message says what is wrong, where, and what to do.

The command line prints `str(error)` as one line and exits with status 2. Tracebacks are for bugs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

_LONGEST = 800
"""Characters of a message, which may quote a damaged file."""


class ExciseError(Exception):
    """Base of all errors that a user can fix.

    reason: what is wrong. setting: the parameter whose value is wrong, as `Settings` and the options of the
    Python interface name it, or "". value: that value. The command line names the place of the value instead.
    """

    def __init__(self, reason: str = "", *, setting: str = "", value: object = None) -> None:
        self.reason, self.setting = reason, setting
        message = f"{setting}={value}: {reason}" if setting else reason
        super().__init__(shortened(message, _LONGEST))


class SettingsError(ExciseError):
    """An unknown key, a wrong value, or settings that contradict each other."""


class PromptError(ExciseError):
    """A prompt set that cannot be read or is too small."""


class ModelError(ExciseError):
    """A model that cannot be found, loaded, or covered, or that an edit does not fit."""


class HubError(ExciseError):
    """The hub is out of reach or refuses a request."""


class OutOfMemoryError(ExciseError):
    """Memory ran out, and smaller batches do not help."""


class RunError(ExciseError):
    """A run directory that is damaged, or belongs to another model or other settings."""


class SaveError(ExciseError):
    """A model, adapter or edit that could not be written. Nothing half-written is left behind."""


class ReproductionError(ExciseError):
    """A saved model that cannot be reproduced: damaged record, or missing or changed sources."""


class JudgeError(ExciseError):
    """A judge that cannot be asked, or that answers nonsense."""


class BenchmarkError(ExciseError):
    """A benchmark that is unknown, that cannot be loaded, or that fails."""


class TrialError(ExciseError):
    """A candidate that cannot be scored, for example because its logits are not numbers."""


class ScorerError(TrialError):
    """A scorer that fails, or whose figure is no finite number. scorer: its name."""

    def __init__(self, scorer: str, fault: str) -> None:
        super().__init__(f"scorer {scorer}: {fault}")
        self.scorer = scorer


def shortened(text: str, longest: int) -> str:
    """`text`, with its middle left out if it has more characters than `longest`."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names and the number of further names, as text."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: BaseException) -> str:
    """The message of a library's or the system's error in one line; its class if the message is empty."""
    if isinstance(error, OSError) and error.strerror:
        # Without errno and file name: the caller names the file.
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    count = 1
    # A line that ends in a colon continues in the next line.
    while lines[count - 1].endswith(":") and count < len(lines):
        count += 1
    return " ".join(lines[:count])


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
"""What reading a well-formed document with unexpected content raises."""


@contextmanager
def translated(
    to: type[ExciseError],
    what: str,
    *kinds: type[BaseException],
    setting: str = "",
    value: object = None,
) -> Iterator[None]:
    """Turn what a library raises in this block into `to`, with the line "what (the library's reason)".

    what: what is wrong and where, for example "config.json: not a JSON file". kinds: the exceptions that
    the library's calls raise for bad input. setting, value: the wrong setting, as in `ExciseError`. Errors of
    excise's own pass through unchanged.
    """
    try:
        yield
    except ExciseError:
        raise
    except kinds as error:
        raise to(f"{what} ({first_line(error)})", setting=setting, value=value) from error
