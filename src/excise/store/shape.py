"""The required contents of the records of a run directory, checked when they are read.

A checksum detects damage, but runs of format 4 have no checksum, and anybody can compute one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from excise.errors import RunError
from excise.system.json_files import first_fault


class Shape(BaseModel):
    """Values are not converted, and further keys are allowed."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Estimate(Shape):
    model_config = ConfigDict(extra="forbid")

    mean: float
    low: float
    high: float


class _AnswerTokens(Shape):
    model_config = ConfigDict(extra="forbid")

    least: NonNegativeInt
    most: NonNegativeInt


class _Counts(Shape):
    refusals: NonNegativeInt
    prompts: PositiveInt


class _Answered(_Counts):
    control_refusals: NonNegativeInt
    control_prompts: PositiveInt
    empty: NonNegativeInt
    looping: NonNegativeInt


class _Share(Shape):
    count: NonNegativeInt
    of: PositiveInt

    @model_validator(mode="after")
    def _require_share(self) -> _Share:
        if self.count > self.of:
            raise ValueError(f"{self.count} of {self.of} is no share")
        return self


class _Group(Shape):
    model_config = ConfigDict(extra="forbid")

    name: str
    prompts: PositiveInt
    original: _Share | None
    edited: _Share | None
    kl: _Estimate | None
    answer_kl: _Estimate | None


class _Groups(Shape):
    model_config = ConfigDict(extra="forbid")

    target: list[_Group] = []
    control: list[_Group] = []


class _Value(Shape):
    model_config = ConfigDict(extra="forbid")

    value: float
    low: float
    high: float


class _Further(Shape):
    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    unit: str
    better: Literal["less", "more"]
    n: PositiveInt
    original: _Value | None
    edited: _Value


class _HeldOut(_Answered):
    kl: _Estimate
    answer_kl: _Estimate
    answer_tokens: _AnswerTokens | None = None
    groups: _Groups = _Groups()
    further: list[_Further] = []
    judge: str | None = None


class _Baseline(Shape):
    search: _Counts
    held_out: _Answered | None = None


class _Objective(Shape):
    name: str
    unit: str
    better: Literal["less", "more"]


class _Values(Shape):
    """Values of objectives; of others than these two under further names."""

    model_config = ConfigDict(extra="allow")

    refusals: NonNegativeInt | None = None
    kl: float | None = None

    def lacks(self, objectives: list[_Objective] | None) -> bool:
        """True if the value of an objective is missing or no number."""
        names = ("refusals", "kl") if objectives is None else [each.name for each in objectives]
        values = {"refusals": self.refusals, "kl": self.kl, **(self.model_extra or {})}
        return any(
            isinstance(values.get(name), bool) or not isinstance(values.get(name), int | float)
            for name in names
        )


class _Search(_Values):
    prompts: PositiveInt


class _Chosen(Shape):
    trial: NonNegativeInt
    search: _Search
    held_out: _HeldOut


class _Trial(_Values):
    # The number becomes part of a file name.
    number: NonNegativeInt
    state: str
    parameters: dict[str, Any]


class _Hardware(Shape):
    device: str
    memory: int


class _Circumstances(Shape):
    rows: PositiveInt
    response_prefix: str
    template_arguments: dict[str, Any] = {}
    hardware: _Hardware | None = None


class _Disagreement(Shape):
    model_config = ConfigDict(extra="forbid")

    prompt: str
    answer: str
    refused: bool
    outcome: Literal["refusal", "partial", "compliance"]
    reason: str


class _JudgedTrial(Shape):
    model_config = ConfigDict(extra="forbid")

    number: NonNegativeInt
    prompts: PositiveInt
    keywords: NonNegativeInt
    refusals: NonNegativeInt
    disagreements: NonNegativeInt
    examples: list[_Disagreement]

    @model_validator(mode="after")
    def _require_shares(self) -> _JudgedTrial:
        if max(self.keywords, self.refusals, self.disagreements) > self.prompts:
            raise ValueError("it judged more answers than there are")
        return self


class _Judged(Shape):
    judge: str
    trials: list[_JudgedTrial]


class ResultShape(Shape):
    """`result.json`."""

    dtype: str
    batch_size: PositiveInt
    candidates: PositiveInt
    device: str | None = None
    circumstances: _Circumstances | None = None
    coverage: list[float]
    prompts: dict[str, Any]
    baseline: _Baseline
    objectives: list[_Objective] | None = None
    trials: list[_Trial]
    front: list[int]
    chosen: _Chosen | None
    judged: _Judged | None = None
    seconds: dict[str, float]

    @model_validator(mode="after")
    def _require_figures(self) -> ResultShape:
        scored = {trial.number for trial in self.trials if not trial.lacks(self.objectives)}
        if not scored.issuperset(self.front):
            raise ValueError("its front names a trial without figures")
        if self.chosen is None:
            return self
        if self.chosen.search.lacks(self.objectives):
            raise ValueError("it lacks a figure of the chosen trial")
        if self.chosen.trial not in self.front:
            raise ValueError("the chosen trial is not on its front")
        if self.baseline.held_out is None or "held_out" not in self.seconds:
            raise ValueError("it lacks the held-out figures of the chosen trial")
        return self


class _Measured(Shape):
    original: _Answered
    edited: _HeldOut


class MeasuredFacts(_Search):
    """The facts of an edit file with held-out figures."""

    trial: NonNegativeInt
    objectives: list[_Objective] | None = None
    held_out: _Measured

    @model_validator(mode="after")
    def _require_values(self) -> MeasuredFacts:
        if self.lacks(self.objectives):
            raise ValueError("it lacks a figure of the trial")
        return self


Checked = TypeVar("Checked", bound=Shape)


def require_shape(what: object, content: Mapping[str, Any], shape: type[Checked]) -> Checked:
    """The content in a shape. what: its name. Raises RunError with the first fault."""
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        raise RunError(
            f"{what}: is damaged or of another version of excise: {first_fault(error)}"
        ) from error
