"""The options of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from excise.errors import SettingsError
from excise.judges.text import normalise
from excise.kinds import KINDS, Centre, Kind

_LEAST = {
    **dict.fromkeys(("directions", "max_new_tokens", "rows"), 1),
    **dict.fromkeys(("seed", "startup_trials", "batch_size", "candidates"), 0),
}


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
    max_new_tokens: longest answer.
    response_prefix: text that every answer begins with, skipped when scoring; None detects it.
    template_arguments: given to the chat template. system_prompt: for the prompts of `activations` and for
    the chat template's test; the prompts of the experiment have their own, see `Prompts.of`.

    seed: of everything that is random. startup_trials: first trials, which do not depend on the results of
    others. batch_size: prompts that decode at a time; 0 finds the number. candidates: edits scored side by
    side; 0 finds the number. rows: prompts of one forward pass without decoding; changes figures by rounding
    only. exhaustive: answer every prompt and run every layer; slower, with the same front.

    writers: further modules that write to the residual stream, as PATTERN=COMPONENT. allow_partial: go on
    although not every layer is covered. allow_absent: search although the model hardly shows the behaviour.
    """

    kinds: tuple[Kind, ...] = ("discriminant", "orthogonal")
    directions: int = 1
    direction_from: Centre = "mean"
    winsorise: float = 1.0
    orthogonalise: bool = False
    markers: tuple[str, ...] | None = None
    max_new_tokens: int = 100
    response_prefix: str | None = None
    system_prompt: str | None = None
    template_arguments: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    startup_trials: int = 12
    batch_size: int = 0
    candidates: int = 0
    rows: int = 32
    exhaustive: bool = False
    writers: tuple[str, ...] = ()
    allow_partial: bool = False
    allow_absent: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError for a wrong value."""
        if isinstance(self.kinds, str) or not self.kinds or set(self.kinds) - set(KINDS):
            raise SettingsError(f"kinds {self.kinds!r}: give a tuple of {', '.join(KINDS)}")
        if isinstance(self.writers, str):
            raise SettingsError(f"writers {self.writers!r}: give a tuple of PATTERN=COMPONENT")
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise SettingsError(f"{name} {value}: must be at least {least}")
        markers = None if self.markers is None else tuple(map(normalise, self.markers))
        if markers is not None and (isinstance(self.markers, str) or not all(markers)):
            raise SettingsError(
                f"markers {self.markers!r}: give a tuple of phrases, none of them empty"
            )
        object.__setattr__(self, "markers", markers)
        for name, values in (("kinds", self.kinds), ("writers", self.writers)):
            object.__setattr__(self, name, tuple(values))
