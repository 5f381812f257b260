"""The options of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from excise.errors import SettingsError
from excise.judges.function import JudgeFunction
from excise.judges.named import JudgeName
from excise.judges.options import JudgeOptions
from excise.judges.text import normalise
from excise.judges.verdict import Judge
from excise.kinds import Centre, Kind
from excise.scorers.builtin import SEARCHED
from excise.scorers.scorer import Scorer
from excise.search.objective import MOST
from excise.validation import NonEmpty, check_fields

Quantile = Annotated[float, Field(gt=0.5, le=1)]


@dataclass(frozen=True)
class Options:
    """Options of an `Experiment`, with the defaults of the command line.

    kinds: kinds of operator that the search chooses from. directions: number of directions to remove, one
    after the other. The next three affect directions of the residual stream only. direction_from: how to
    average the residuals of a prompt set. winsorise: quantile to which residuals are clipped before
    averaging; 1 clips nothing. orthogonalise: make each direction orthogonal to the mean of the control
    prompts.

    markers: phrases that make an answer a refusal wherever they stand; case, kinds of apostrophes and
    white space do not matter. None for the built-in lists, see `KeywordJudge`.
    judge: the judge of reports, as a name, an object or a function, see `excise.judge`. None for "builtin",
    or for "keywords" with markers of one's own. The search itself counts refusals by keywords.
    judge_options: how a judge that is named is set up; `markers` replace its markers.
    max_new_tokens: longest answer.
    response_prefix: text that every answer begins with, skipped when scoring; None detects it.
    template_arguments: given to the chat template. system_prompt: for the prompts of `activations` and for
    the chat template's test; the prompts of the experiment have their own, see `Prompts.of`.

    objectives: scorers whose figures a search improves, two or three: names, or objects. report: further
    scorers for reports on held-out prompts. scorers: settings of scorers that are given by name.

    seed: of everything that is random. startup_trials: first trials, which do not depend on the results of
    others. batch_size: prompts that decode at a time; 0 chooses the number. candidates: edits scored side by
    side; 0 finds the number. rows: prompts of one forward pass without decoding; changes figures by rounding
    only. exhaustive: answer every prompt and run every layer; slower, with the same front.

    writers: further modules that write to the residual stream, as PATTERN=COMPONENT. allow_partial: continue
    although not every layer is covered. allow_absent: search although the model hardly shows the behaviour.
    """

    kinds: NonEmpty[Kind] = ("discriminant", "orthogonal")
    directions: PositiveInt = 1
    direction_from: Centre = "mean"
    winsorise: Quantile = 1.0
    orthogonalise: bool = False
    markers: NonEmpty[str] | None = None
    judge: str | Judge | JudgeFunction | None = None
    judge_options: JudgeOptions | None = None
    max_new_tokens: PositiveInt = 100
    response_prefix: str | None = None
    system_prompt: str | None = None
    template_arguments: Mapping[str, object] = field(default_factory=dict)
    objectives: Annotated[tuple[Scorer | str, ...], Field(min_length=2, max_length=MOST)] = SEARCHED
    report: tuple[Scorer | str, ...] = ()
    scorers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    seed: NonNegativeInt = 0
    startup_trials: NonNegativeInt = 12
    batch_size: NonNegativeInt = 0
    candidates: NonNegativeInt = 0
    rows: PositiveInt = 32
    exhaustive: bool = False
    writers: tuple[str, ...] = ()
    allow_partial: bool = False
    allow_absent: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError for a wrong value."""
        check_fields(self)
        if self.markers is not None:
            markers = tuple(map(normalise, self.markers))
            if not all(markers):
                raise SettingsError("none may be empty", setting="markers", value=self.markers)
            object.__setattr__(self, "markers", markers)
        if isinstance(self.judge, str):
            try:
                JudgeName.parse(self.judge)
            except ValueError as error:
                raise SettingsError(str(error), setting="judge", value=self.judge) from None

    @property
    def judge_chosen(self) -> str | Judge | JudgeFunction:
        """The judge of reports, or its name."""
        if self.judge is not None:
            return self.judge
        # Markers of one's own may name another behaviour than refusing.
        return "builtin" if self.markers is None else "keywords"
