"""The original model on a part of the prompts, with which every edit is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from excise.engine.assignment import Assignment
from excise.engine.cached_layers import CachedPart
from excise.engine.prefill import Tokens
from excise.experiment.evidence import PartPrompts
from excise.experiment.runner import Runner
from excise.scorers.refusals import Refusals

_SHOWN = 0.05
"""Share of target prompts that must show the behaviour."""


@dataclass(frozen=True)
class Part:
    """Target and control prompts of a part, with the results of the original model.

    original: log-probabilities of the first answer token on control prompts [prompt, vocabulary], float32.
    answered: the original model's answers to target prompts. cached_layers: stored outputs of the first
    layers for both sets.
    """

    prompts: PartPrompts
    original: Tensor
    answered: Refusals
    cached_layers: CachedPart | None = None

    @property
    def target(self) -> tuple[Tokens, ...]:
        """The target prompts, as tokens."""
        return self.prompts["target"].tokens

    @property
    def control(self) -> tuple[Tokens, ...]:
        """The control prompts, as tokens."""
        return self.prompts["control"].tokens

    @property
    def refusals(self) -> int:
        """The number of target prompts that the original model refuses."""
        return self.answered.count

    def absence(self) -> str | None:
        """A message if the original model hardly shows the behaviour, else None."""
        if self.refusals >= _SHOWN * len(self.target):
            return None
        return (
            f"the model shows the behaviour on {self.refusals} of {len(self.target)} target prompts "
            f"(search prompts; at least {_SHOWN:.0%} are needed)"
        )

    def divergences(self, runner: Runner) -> list[float]:
        """KL(original ‖ present model) of the first answer token, for each control prompt, nats."""
        return runner.divergences(self.control, self.original)


def measure_original(
    runner: Runner,
    prompts: PartPrompts,
    room: Callable[[Sequence[Tokens], Sequence[Tokens]], CachedPart | None] = lambda *_: None,
) -> Part:
    """Measure the unedited model. room: makes empty caches for target and control prompts."""
    target_tokens, control_tokens = prompts["target"].tokens, prompts["control"].tokens
    cached_layers = room(target_tokens, control_tokens)
    part = Part(
        prompts=prompts,
        original=runner.log_probabilities(
            control_tokens, cached_layers.control.recording() if cached_layers else None
        ),
        answered=runner.refusals(
            target_tokens,
            assignment=Assignment(
                cached_layers=cached_layers.target.recording() if cached_layers else None
            ),
        ),
        cached_layers=cached_layers,
    )
    if cached_layers is not None:
        cached_layers.verify(runner.model, target_tokens, control_tokens)
    return part
