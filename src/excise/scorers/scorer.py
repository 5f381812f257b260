"""The interface of scorers: what a scorer needs to know of an edited model, and the figure that it returns.

Needs are values. The experiment measures equal needs once, whichever scorers have them, and needs of answers
to the same prompts share one decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, get_args, runtime_checkable

from transformers import PreTrainedModel

from excise.judges.verdict import Exchange
from excise.models.chat import Chat
from excise.scorers.divergence import Reduce
from excise.scorers.statistics import Estimate, Share, bootstrap

Better = Literal["less", "more"]
"""The direction in which a figure gets better."""
BETTER: tuple[Better, ...] = get_args(Better)
PromptKind = Literal["target", "control"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
PROMPTS = "prompts"
"""The unit of a figure that counts prompts: the value is a number of the `n` prompts."""

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Need(Generic[T_co]):
    """Something that a scorer needs, as a value that can be compared and hashed."""


@dataclass(frozen=True)
class AnswerSet:
    """Greedy answers of a model to a set of prompts, one for each prompt, in order.

    prompts, texts: as text, without special tokens and chains of thought. tokens: of each answer, the
    end-of-turn token included. finished: whether each answer is complete; only `BoundedScorer.lower_bound`
    meets answers that are not.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    finished: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.finished:
            object.__setattr__(self, "finished", (True,) * len(self.texts))
        lengths = {len(self.prompts), len(self.texts), len(self.tokens), len(self.finished)}
        if len(lengths) > 1:
            raise ValueError("an answer set needs a text, tokens and a state for each prompt")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def exchanges(self) -> list[Exchange]:
        """Prompts and answers, for a judge."""
        return [Exchange(*pair) for pair in zip(self.prompts, self.texts, strict=True)]


@dataclass(frozen=True)
class Answers(Need[AnswerSet]):
    """Greedy answers of the edited model.

    tokens: length at which an answer is cut, None for `Options.max_new_tokens`, which is the limit in any
    case. stop_refusals_after: number of tokens after which an answer ends as soon as it is certain to be a
    refusal, so that less is decoded; None lets refusals go on.
    """

    prompts: PromptKind = "target"
    tokens: int | None = None
    stop_refusals_after: int | None = None


@dataclass(frozen=True)
class FirstToken(Need[tuple[float, ...]]):
    """A comparison of the distributions of the first answer token: one figure for each prompt."""

    reduce: Reduce
    prompts: PromptKind = "control"


@dataclass(frozen=True)
class AlongAnswers(Need[tuple[tuple[float, ...], ...]]):
    """A comparison of the distributions along the original model's answers, which both models are given.

    tokens: number of first tokens of each answer that are compared; answers may be shorter. The evidence has
    one figure for each token of each answer.
    """

    reduce: Reduce
    prompts: PromptKind = "control"
    tokens: int = 32


@dataclass(frozen=True)
class ModelInUse:
    """The edited model, for scorers that run it themselves. It is edited only while `Scorer.score` runs.

    chat: renders prompts and has the tokenizer. rows: number of prompts that fit into a forward pass.
    """

    model: PreTrainedModel
    chat: Chat
    rows: int


@dataclass(frozen=True)
class EditedModel(Need[ModelInUse]):
    """The edited model itself."""


@dataclass(frozen=True)
class Evidence:
    """What was measured, by need. seed: of everything that is random, such as bootstrap intervals."""

    found: Mapping[Need[Any], Any] = field(default_factory=dict)
    seed: int = 0

    def __getitem__(self, need: Need[T]) -> T:
        """The measurement of a need. Raises KeyError if the scorer did not declare it."""
        value: T = self.found[need]
        return value

    def __contains__(self, need: Need[Any]) -> bool:
        return need in self.found


@dataclass(frozen=True)
class Score:
    """A figure of an edit.

    value: the figure. low, high: its 95 % interval, in the unit of the value. n: number of prompts, texts or
    questions that it was measured on. unit: such as "nats"; "prompts" if the value counts some of the n
    prompts. details: one number for each of the n, empty if there are none. title: the name in reports.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    better: Better = "less"
    details: tuple[float, ...] = ()
    title: str = ""

    @classmethod
    def counted(cls, found: Sequence[bool], *, title: str, better: Better = "less") -> Self:
        """How many prompts have a property, with Wilson's interval. found: whether each prompt has it.

        Raises ValueError without prompts.
        """
        share = Share(sum(found), len(found))
        value = float(share.count)
        # Rounding may put the end of an interval on the wrong side of the count.
        low, high = min(share.low * share.of, value), max(share.high * share.of, value)
        details = tuple(map(float, found))
        return cls(value, low, high, share.of, PROMPTS, better, details, title)

    @classmethod
    def averaged(
        cls,
        values: Sequence[float],
        *,
        title: str,
        unit: str,
        seed: int = 0,
        better: Better = "less",
    ) -> Self:
        """The mean of a figure of each prompt, with its bootstrap interval. seed: `Evidence.seed`.

        Raises ValueError without prompts.
        """
        found, details = bootstrap(values, seed), tuple(map(float, values))
        # Rounding may put the end of an interval of equal values on the wrong side of their mean.
        low, high = min(found.low, found.mean), max(found.high, found.mean)
        return cls(found.mean, low, high, len(details), unit, better, details, title)

    @property
    def share(self) -> Share:
        """The value as a share of the prompts, if the unit is "prompts"."""
        return Share(round(self.value), self.n)

    @property
    def estimate(self) -> Estimate:
        """The value as a mean with its interval."""
        return Estimate(self.value, self.low, self.high)

    def __str__(self) -> str:
        return str(self.share if self.unit == PROMPTS else self.estimate)


@runtime_checkable
class Scorer(Protocol):
    """Measures one figure of an edited model, as a function of its evidence alone.

    Prompts are those of the search or held-out prompts; a scorer does not see which.
    """

    @property
    def name(self) -> str:
        """The name in settings, records and reports: lower-case letters, digits and underscores."""
        ...

    @property
    def unit(self) -> str:
        """The unit of the value, see `Score`."""
        ...

    @property
    def better(self) -> Better:
        """Whether less or more is better."""
        ...

    @property
    def needs(self) -> Sequence[Need[Any]]:
        """What the evidence has to hold."""
        ...

    def score(self, evidence: Evidence) -> Score:
        """The figure. It is deterministic: the same evidence gives the same score."""
        ...


@runtime_checkable
class BoundedScorer(Scorer, Protocol):
    """A scorer that bounds its figure before all evidence is known, so that a search can end trials early."""

    def lower_bound(self, known: Evidence) -> float:
        """The best figure that is still possible: a lower bound, or an upper one if more is better.

        known: evidence in which needs may be missing and answers unfinished. With all evidence, the bound is
        the value of `score`. Infinite (of the better sign) if nothing is known yet.
        """
        ...


def compares(scorer: Scorer) -> bool:
    """True if the scorer compares both models, so that it has no figure of the original model alone."""
    return any(isinstance(need, FirstToken | AlongAnswers) for need in scorer.needs)
