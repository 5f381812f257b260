"""Compares the next-token distributions of the original and the edited model, group by group of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

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
Owners = Mapping[FirstToken | AlongAnswers, Scorer]
"""Comparisons, each with a scorer that needs it."""


def owners_of(scorers: Sequence[Scorer], *kinds: type[FirstToken | AlongAnswers]) -> Owners:
    """The comparisons of these kinds that scorers need."""
    return {need: scorer for scorer in scorers for need in scorer.needs if isinstance(need, kinds)}


def compare(
    runner: Runner,
    switch: Switch,
    prompts: PartPrompts,
    answers: Answered,
    owners: Owners,
    assignment: Assignment = ONE_CANDIDATE,
) -> dict[Need[Any], Any]:
    """The comparisons that scorers need; all of one kind of prompts share the passes of both models.

    answers: of the original model, for needs along answers. owners: the scorer of each need. assignment: of
    the changed model. Afterwards the change is applied. Raises TrialError if a logit is not finite,
    ScorerError if a comparison fails.
    """
    found: dict[Need[Any], Any] = {}
    for kind in PROMPT_KINDS:
        own = {need: scorer for need, scorer in owners.items() if need.prompts == kind}
        if not own:
            continue
        most = max((n.tokens for n in own if isinstance(n, AlongAnswers)), default=None)
        given = None if most is None else [tokens[:most] for tokens in answers[kind]]
        work = _Work(runner, switch, prompts[kind].tokens, given, assignment)
        reduces = checked(own)
        figures = dict(zip(reduces, work.measure(list(reduces.values())), strict=True))
        switch(True)
        for need in own:
            by_prompt = figures[need.reduce]
            if isinstance(need, FirstToken):
                found[need] = tuple(float(each[0]) for each in by_prompt)
            else:
                found[need] = tuple(tuple(each[: need.tokens].tolist()) for each in by_prompt)
    return found


class _Work:
    """Passes of both models over the same prompts."""

    def __init__(
        self,
        runner: Runner,
        switch: Switch,
        prompts: Sequence[Tokens],
        answers: Sequence[Tokens] | None,
        assignment: Assignment,
    ) -> None:
        self._runner, self._switch, self._assignment = runner, switch, assignment
        self._prompts, self._answers = prompts, answers

    def measure(self, reduces: Sequence[Reduce]) -> list[list[Tensor]]:
        """Each comparison at each answer's tokens, one tensor [token] for each answer."""

        def work(rows: int) -> list[list[Tensor]]:
            both = zip(
                self._groups(rows, changed=False), self._groups(rows, changed=True), strict=True
            )
            pairs = ((before.log_probabilities, after) for before, after in both)
            return comparisons(pairs, reduces)

        if self._answers is None:
            return self._runner.in_rows(work)
        # Distributions along answers are large, so few prompts run at a time. If memory runs out here, other
        # passes keep their number of rows.
        rows = max(1, self._runner.rows // 8)
        found, _ = with_halving(rows, work, self._runner.emit_halved)
        return found

    def _groups(self, rows: int, *, changed: bool) -> Iterator[Distributions]:
        assignment = self._assignment if changed else ONE_CANDIDATE
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
