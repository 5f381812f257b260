"""Switches off notices of libraries that are meant for developers."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

_TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes")


def quiet_libraries() -> None:
    """Log only errors of some libraries. Call it before transformers is imported, which imports torchao."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


class _Unheard(io.StringIO):
    """Takes what is printed, and forgets it.

    rich_proxied_file: the stream beneath, by which consoles of rich go on writing, a spinner's thread too.
    """

    def __init__(self, beneath: TextIO) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(beneath, "rich_proxied_file", beneath)

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def silenced() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A block in which libraries print nothing: neither output, progress bars nor log lines.

    Yields a context inside of which printing works again, for listeners of events.
    """
    streams = sys.stdout, sys.stderr

    @contextmanager
    def aloud() -> Iterator[None]:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            yield

    with redirect_stdout(_Unheard(streams[0])), redirect_stderr(_Unheard(streams[1])):
        yield aloud
