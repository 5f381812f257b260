"""What the records of a run directory must hold, checked once when they are read.

A checksum tells damage, but runs of format 4 have none, and anybody can make one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

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
    """Values are left as they are, and keys that are not looked at may be there."""

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


class _HeldOut(_Answered):
    kl: _Estimate
    answer_kl: _Estimate
    answer_tokens: _AnswerTokens | None = None


class _Baseline(Shape):
    search: _Counts
    held_out: _Answered | None = None


class _Search(_Counts):
    kl: float


class _Chosen(Shape):
    trial: NonNegativeInt
    search: _Search
    held_out: _HeldOut


class _Trial(Shape):
    # A number becomes part of a file name, so it has to be one.
    number: NonNegativeInt
    state: str
    parameters: dict[str, Any]
    refusals: NonNegativeInt | None
    kl: float | None


class _Hardware(Shape):
    device: str
    memory: int


class _Circumstances(Shape):
    rows: PositiveInt
    response_prefix: str
    template_arguments: dict[str, Any] = {}
    hardware: _Hardware | None = None


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
    trials: list[_Trial]
    front: list[int]
    chosen: _Chosen | None
    seconds: dict[str, float]

    @model_validator(mode="after")
    def _names_what_it_has(self) -> ResultShape:
        scored = {one.number for one in self.trials if None not in (one.refusals, one.kl)}
        if not scored.issuperset(self.front):
            raise ValueError("its front names a trial that it has no figures of")
        if self.chosen is None:
            return self
        if self.chosen.trial not in self.front:
            raise ValueError("the chosen trial is not on its front")
        if self.baseline.held_out is None or "held_out" not in self.seconds:
            raise ValueError("it lacks the held-out figures that go with the chosen trial")
        return self


class _Measured(Shape):
    original: _Answered
    edited: _HeldOut


class MeasuredFacts(_Search):
    """The facts of an edit file that was measured on held-out prompts."""

    trial: NonNegativeInt
    held_out: _Measured


Checked = TypeVar("Checked", bound=Shape)


def require_shape(what: object, content: Mapping[str, Any], shape: type[Checked]) -> Checked:
    """The content as that shape. Raises RunError, naming the first fault, if it is not. what: whose it is."""
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        raise RunError(
            f"{what}: damaged, or written by another excise: {first_fault(error)}"
        ) from error
