"""What a run tells while it works: frozen values, one class a kind. The command line renders them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from excise.run.record import Outcome
from excise.search.front import Point

if TYPE_CHECKING:
    from excise.run.seeds import SeedResult, Spread


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def as_json(self) -> dict[str, object]:
        """The event as a JSON object: its class's name under "event", and its fields."""
        return {"event": type(self).__name__, **asdict(self)}


Tell = Callable[[Event], None]


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage began. stage: load, baseline, directions, held_out or save; text: for people."""

    stage: str
    text: str


@dataclass(frozen=True)
class Note(Event):
    """Something worth knowing, in one sentence."""

    text: str


@dataclass(frozen=True)
class DeviceFound(Event):
    """A device that the model may come to lie on; one event for each.

    memory: its own, in bytes (the host's for a CPU). limit: bytes of weights that it may hold, None if any.
    """

    device: str
    memory: int
    limit: int | None = None


@dataclass(frozen=True)
class ModelLoaded(Event):
    """The model is in memory. attempts: data types that failed before, with the reason.

    places: bytes of its weights by place: "cuda:0", "cpu", …, "offloaded" for what is moved in for each pass.
    """

    name: str
    dtype: str
    bytes: int
    seconds: float
    attempts: tuple[str, ...]
    places: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined(Event):
    """Layers, matrices of each component, and coverage of each layer."""

    layers: int
    matrices: Mapping[str, int]
    coverage: tuple[float, ...]


@dataclass(frozen=True)
class PromptsLoaded(Event):
    """Prompt sets. counts: for example {"target": {"train": 400, "search": 100, "held_out": 100}, …}."""

    counts: Mapping[str, Mapping[str, int]]
    origins: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class BatchReduced(Event):
    """Memory ran out; so many prompts at a time from now on."""

    slots: int


@dataclass(frozen=True)
class BatchSizeFound(Event):
    """The number of prompts that decode at a time."""

    slots: int


@dataclass(frozen=True)
class ResponsePrefixFound(Event):
    """What every answer begins with and is given to the model; empty if nothing.

    template_arguments: those that were found to switch thinking off in the model's chat template.
    """

    text: str
    template_arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class BaselineMeasured(Event):
    """Refusals of the original model on target prompts of one part ("search" or "held_out")."""

    part: str
    refusals: int
    prompts: int


@dataclass(frozen=True)
class DirectionsFound(Event):
    """Directions and operators are ready. kinds: those that the search may choose from."""

    kinds: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class SearchStarted(Event):
    """The search begins or goes on. done: trials that the study already holds."""

    trials: int
    done: int


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial is being scored."""

    number: int
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial was scored, or failed (reason says why; refusals and kl are then None).

    dominated: an earlier trial equals or betters it in both; its refusals are then a lower bound. seconds:
    its share of what its batch took. elapsed, remaining: seconds of this search, remaining None while
    unknown. peak_memory: bytes, by device that the model uses. front: the best trade-offs so far.
    """

    number: int
    parameters: Mapping[str, object]
    refusals: int | None
    prompts: int
    kl: float | None
    dominated: bool
    seconds: float
    reason: str | None
    done: int
    trials: int
    elapsed: float
    remaining: float | None
    peak_memory: Mapping[str, int]
    front: tuple[Point, ...]


@dataclass(frozen=True)
class WorkDone(Event):
    """What a search did since the last event of this kind: every few seconds, and after every trial.

    tokens: those that went through the model, prompts and answers, without padding. seconds: wall time.
    candidates, prompts: how many of them are under way now.
    """

    tokens: int
    seconds: float
    candidates: int
    prompts: int


@dataclass(frozen=True)
class SearchEnded(Event):
    """The search is over. why: "done", "stopped" (by the user), "time" or "failing"."""

    why: str
    front: tuple[Point, ...]


@dataclass(frozen=True)
class Chosen(Event):
    """A trial was chosen and measured on held-out prompts. why: in one sentence."""

    outcome: Outcome
    why: str


@dataclass(frozen=True)
class SeedsCompared(Event):
    """The search was repeated with other seeds."""

    results: tuple[SeedResult, ...]
    spreads: Mapping[str, Spread]


@dataclass(frozen=True)
class Streamed(Event):
    """Weights were written, or read again. stage: "write" or "verify"; done, total: bytes."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Verified(Event):
    """What was written was read again. edited, untouched: tensors; the untouched are bit-identical.

    kept: share of the edit that packed writers keep after rounding; 1 where they are plain.
    """

    edited: int
    untouched: int
    kept: float


@dataclass(frozen=True)
class Saved(Event):
    """Something was written. what: "model" or "adapter"."""

    what: str
    path: str


@dataclass(frozen=True)
class UploadStarted(Event):
    """Files go to a repository of the hub. bytes: of all of them."""

    repository: str
    files: int
    bytes: int


@dataclass(frozen=True)
class FileUploaded(Event):
    """A large file is in the hub's storage, or was there already. done, total: bytes."""

    name: str
    bytes: int
    done: int
    total: int


@dataclass(frozen=True)
class Uploaded(Event):
    """A repository holds what was to be uploaded. unchanged: it did before."""

    url: str
    commit: str
    private: bool
    unchanged: bool


def ignore(event: Event) -> None:
    """The listener that does nothing."""
