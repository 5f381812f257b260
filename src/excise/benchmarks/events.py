"""Events of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

from excise.events import Event


@dataclass(frozen=True)
class BenchmarkProgress(Event):
    """The model has answered more requests; a question with four choices has four.

    requests: those known so far. The number grows if the benchmarks have several kinds of requests.
    """

    done: int
    requests: int
