"""What a command may do with a damaged file: end well, or say in one line what is wrong."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import psutil

from excise.cli.printable import printable
from excise.errors import ExciseError

SECONDS = 20
"""A case that takes longer hangs: undamaged files take well under a second."""
ROOM = 1 << 30
"""Bytes of address space that a case may take beside twice its file: buffers, stacks of threads."""
LONGEST = 1000
"""Characters of a message: longer ones carry the damaged file along."""


class Hang(BaseException):
    """Raised by the clock. No handler of exceptions in a program catches it by accident."""


@dataclass(frozen=True)
class Outcome:
    """status: 0 or 2, as the process's. said: the line of an error. result: what came of it otherwise."""

    status: int
    said: str
    result: object


def ran(call: Callable[[], object], size: int) -> Outcome:
    """Call a function that reads a file of `size` bytes. Only errors of excise's own are caught."""
    with _clock(), _memory(2 * size + ROOM):
        try:
            return Outcome(0, "", call())
        except ExciseError as error:
            return Outcome(2, printable(str(error)), None)


def called(argv: list[str], size: int) -> Outcome:
    """Run a command in this process. Raises whatever would have been a traceback."""
    from excise.cli.main import main

    out, errors = io.StringIO(), io.StringIO()
    with (
        _clock(),
        _memory(2 * size + ROOM),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        status = main(argv)
    said = errors.getvalue()
    if status == 2:
        assert said.startswith("excise: ")
        assert said.count("\n") == 1, said
    return Outcome(status, said.removeprefix("excise: ").rstrip("\n"), out.getvalue())


def check(outcome: Outcome) -> None:
    """Raise AssertionError for an answer that no user should get."""
    assert outcome.status in (0, 2), outcome
    if outcome.status == 2:
        assert outcome.said.strip(), "an error that says nothing"
        assert len(outcome.said) < LONGEST, f"{len(outcome.said)} characters: {outcome.said[:300]}"
        raw = [letter for letter in outcome.said if ord(letter) < 32 and letter != "\n"]
        assert not raw, f"control characters reach the terminal: {outcome.said[:300]!r}"


@contextlib.contextmanager
def _clock() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"not done after {SECONDS} s")

    former = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


@contextlib.contextmanager
def _memory(more: int) -> Iterator[None]:
    """Let the process take `more` bytes of address space, no more: what a file declares is not reserved."""
    former = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)
