"""Compares the next-token distributions of the original and the edited model, group by group of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from excise.devices.memory import device_memory
from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.batch_size import with_halving
from excise.engine.distributions import Distributions, distributions
from excise.engine.prefill import Tokens
from excise.errors import ScorerError
from excise.experiment.evidence import PartPrompts
from excise.experiment.runner import Runner
from excise.scorers.asking import named_failures
from excise.scorers.divergence import Reduce, comparisons
from excise.scorers.scorer import PROMPT_KINDS, AlongAnswers, FirstToken, Need, PromptKind, Scorer

Switch = Callable[[bool], None]
"""Applies a change of the model (True), or removes it (False)."""
Answered = Mapping[PromptKind, Sequence[Tokens]]
"""The original model's answers, by kind of prompts."""
_KEPT_SHARE = 0.1
"""Share of a device's free memory that kept distributions may take."""
Owners = Mapping[FirstToken | AlongAnswers, Scorer]
"""Comparisons, each with a scorer that needs it."""


def owners_of(scorers: Sequence[Scorer], *kinds: type[FirstToken | AlongAnswers]) -> Owners:
    """The comparisons of these kinds that scorers need."""
    return {need: scorer for scorer in scorers for need in scorer.needs if isinstance(need, kinds)}


class Comparisons:
    """Compares edited models with the original model, as scorers need.

    All needs of one kind of prompts share the passes of both models.
    """

    def __init__(
        self,
        runner: Runner,
        switch: Switch,
        prompts: PartPrompts,
        answers: Answered,
        owners: Owners,
        *,
        several: bool = False,
    ) -> None:
        """answers: of the original model, for needs along answers. owners: the scorer of each need.

        several: whether several edited models are compared, so that the original model's distributions are
        kept if memory has room.
        """
        self._switch = switch
        self._work: list[tuple[Owners, _Passes]] = []
        for kind in PROMPT_KINDS:
            own = {need: scorer for need, scorer in owners.items() if need.prompts == kind}
            most = max((n.tokens for n in own if isinstance(n, AlongAnswers)), default=None)
            given = None if most is None else [tokens[:most] for tokens in answers[kind]]
            if own:
                kept = _Kept() if several else None
                passes = _Passes(runner, switch, prompts[kind].tokens, given, kept)
                self._work.append((own, passes))

    def measure(self, assignment: Assignment = ONE_CANDIDATE) -> dict[Need[Any], Any]:
        """The comparisons with one edited model, whose change is applied afterwards.

        assignment: of the changed model. Raises TrialError if a logit is not finite, ScorerError if a
        comparison fails.
        """
        found: dict[Need[Any], Any] = {}
        for own, passes in self._work:
            reduces = checked(own)
            try:
                measured = passes.compare(list(reduces.values()), assignment)
            finally:
                self._switch(True)
            figures = dict(zip(reduces, measured, strict=True))
            for need in own:
                by_prompt = figures[need.reduce]
                if isinstance(need, FirstToken):
                    found[need] = tuple(float(each[0]) for each in by_prompt)
                else:
                    found[need] = tuple(tuple(each[: need.tokens].tolist()) for each in by_prompt)
        return found


class _Kept:
    """The original model's distributions, kept between comparisons if they take little of the free memory."""

    def __init__(self) -> None:
        self._rows = 0
        self._groups: list[Distributions] | None = None

    def groups(self, rows: int, fresh: Iterator[Distributions]) -> Iterator[Distributions]:
        """The distributions, in groups of at most `rows` prompts. fresh: runs the model."""
        if self._groups is not None and self._rows == rows:
            yield from self._groups
            return
        # Other groups are dropped first: fewer rows mean that memory ran out.
        self._rows, self._groups = rows, None
        found: list[Distributions] = []
        size, room = 0, True
        for group in fresh:
            values = group.log_probabilities
            size += values.numel() * values.element_size()
            room = room and size <= _KEPT_SHARE * device_memory(values.device).free
            found = [*found, group] if room else []
            yield group
        self._groups = found if room else None


class _Passes:
    """Passes of both models over the same prompts."""

    def __init__(
        self,
        runner: Runner,
        switch: Switch,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens] | None,
        kept: _Kept | None,
    ) -> None:
        self._runner, self._switch, self._kept = runner, switch, kept
        self._prompts, self._answers = prompts, answers

    def compare(self, reduces: Sequence[Reduce], assignment: Assignment) -> list[list[Tensor]]:
        """Each comparison at each answer's tokens, one tensor [token] for each answer."""

        def work(rows: int) -> list[list[Tensor]]:
            original = self._groups(rows, ONE_CANDIDATE, changed=False)
            if self._kept is not None:
                original = self._kept.groups(rows, original)
            both = zip(original, self._groups(rows, assignment, changed=True), strict=True)
            pairs = ((before.log_probabilities, after) for before, after in both)
            return comparisons(pairs, reduces)

        if self._answers is None:
            return self._runner.in_rows(work)
        # Distributions along answers are large, so few prompts run at a time. If memory runs out here, other
        # passes keep their number of rows.
        rows = max(1, self._runner.rows // 8)
        found, _ = with_halving(rows, work, self._runner.emit_halved)
        return found

    def _groups(
        self, rows: int, assignment: Assignment, *, changed: bool
    ) -> Iterator[Distributions]:
        found = distributions(
            self._runner.model,
            self._prompts,
            rows,
            answers=self._answers,
            assignment=assignment,
            checked=False,
        )
        while True:
            # The generator runs a group, and before the first group the common prefix, in `next`.
            self._switch(changed)
            group = next(found, None)
            if group is None:
                return
            yield group


def checked(owners: Owners) -> dict[Reduce, Reduce]:
    """The comparisons of needs, each once, as functions whose failures name a scorer."""
    return {need.reduce: _checked(need.reduce, owner) for need, owner in owners.items()}


def _checked(reduce: Reduce, owner: Scorer) -> Reduce:
    def compared(original: Tensor, edited: Tensor) -> Tensor:
        with named_failures(owner):
            found = reduce(original, edited)
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != [len(edited)]:
            fault = f"its comparison of {len(edited)} tokens returned {shape} instead of [{len(edited)}]"
            raise ScorerError(owner.name, fault)
        return found

    return compared
