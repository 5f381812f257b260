"""The next candidates: the study's, or found by gradients. Both kinds of trial live in one study."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optuna.trial import Trial

from excise.edit.virtual import VirtualEdits
from excise.run.prepare import Prepared
from excise.run.stand_in import StandIn
from excise.scores.openings import Opening, merged
from excise.search.bank import edit_of
from excise.search.gradient import WEIGHTS, best_start, weight
from excise.search.space import (
    OF_THE_OPERATOR,
    STRENGTHS,
    WEIGHT,
    Candidate,
    candidate_of,
    propose,
    propose_operator,
)
from excise.search.study import Study

OPENINGS = "openings"
"""Under this name a complete trial keeps how the edited model began to refuse."""
_BATCH = "batch"
"""Under this name a trial keeps the number of the first trial of its batch, and the batch's size."""
_STEPS = 12


@dataclass(frozen=True)
class Batch:
    """Trials that are scored side by side. first: number of the first of them.

    told: candidates of the batch whose scores are stored already, because it was interrupted in between.
    They are scored again beside the others: rounding depends on what runs together, and the search follows
    every digit. trials: those to be told, all behind them.
    """

    first: int
    told: tuple[Candidate, ...]
    trials: tuple[Trial, ...]


class Proposals:
    """Asks the study for trials and makes candidates of them, in batches.

    Trials of a batch are proposed without knowing of each other; a study whose trials were asked for in two
    goes may therefore be cut into other batches than one that was asked for them at once.

    A gradient trial starts from the finished trial that is best at its weight, so that it is a function of
    (seed, trial number, finished trials) like any other, and a resumed study goes on as if it had never
    been interrupted.
    """

    def __init__(self, prepared: Prepared, study: Study, edits: VirtualEdits) -> None:
        self._prepared, self._study, self._edits = prepared, study, edits
        self._stand_in: StandIn | None = None

    def ask(self, size: int) -> Batch:
        """The trials in hand, or `size` new ones, none of which knows of the others' scores."""
        trials = self._study.in_hand() or [self._next()]
        first, size = trials[0].user_attrs.get(_BATCH) or (trials[0].number, size)
        if self._by_gradient:
            # Each descends from the best trial before it.
            size = 1
        while trials[-1].number + 1 < first + size:
            trials.append(self._study.new())
        for trial in trials:
            if _BATCH not in trial.user_attrs:
                self._study.keep(trial, _BATCH, [first, size])
        settings, anatomy = self._prepared.settings, self._prepared.anatomy
        told = tuple(
            candidate_of(self._study.finished(number), settings.kinds, anatomy)
            for number in range(first, trials[0].number)
        )
        return Batch(first, told, tuple(trials))

    @property
    def _by_gradient(self) -> bool:
        settings = self._prepared.settings
        return settings.search == "gradient" and self._study.done() >= max(
            1, settings.startup_trials
        )

    def _next(self) -> Trial:
        if not self._by_gradient:
            return self._study.new()
        points = self._study.points()
        records = self._study.records()
        now = weight(sum(WEIGHT in record.parameters for record in records))
        start = best_start(points, len(self._prepared.search_part.target), now)
        of_the_operator = {
            name: value
            for name, value in records[start.number].parameters.items()
            if name in OF_THE_OPERATOR
        }
        return self._study.plan({**of_the_operator, WEIGHT: now})

    def candidate(self, trial: Trial) -> Candidate:
        """What the trial stands for; worked out by descent if it is one of the gradient search."""
        kinds, anatomy = self._prepared.settings.kinds, self._prepared.anatomy
        if WEIGHT not in self._study.planned(trial):
            return propose(trial, kinds, anatomy)
        now = trial.suggest_float(WEIGHT, *WEIGHTS, log=True)
        operator = propose_operator(trial, kinds, anatomy)
        if STRENGTHS not in trial.user_attrs:
            points = [point for point in self._study.points() if point.number < trial.number]
            start = best_start(points, len(self._prepared.search_part.target), now)
            finished = candidate_of(self._study.finished(start.number), kinds, anatomy)
            self._study.keep(trial, STRENGTHS, self._descend(finished, now, trial.number))
        return replace(operator, free=tuple(trial.user_attrs[STRENGTHS]))

    def _descend(self, start: Candidate, now: float, number: int) -> tuple[float, ...]:
        prepared = self._prepared
        openings = self._openings(number)
        if not openings:
            # Nothing was ever refused: then there is nothing to descend from.
            return tuple(start.strengths(prepared.anatomy).tolist())
        if self._stand_in is None:
            chat, prompts = prepared.runner.chat, prepared.prompts
            self._stand_in = StandIn(
                prepared.runner,
                chat.encode(prompts.target.train.prompts),
                chat.encode(prompts.control.train.prompts),
            )
        edit = edit_of(start, prepared.bank, prepared.anatomy)
        seed = prepared.settings.seed + number
        return self._stand_in.refine(self._edits, edit, openings, now, _STEPS, seed)

    def _openings(self, before: int) -> list[Opening]:
        """The original model's, and behind them those that edited models were heard to use."""
        heard = list(self._prepared.search_part.openings)
        for kept in self._study.kept(OPENINGS, before):
            assert isinstance(kept, list)
            heard += [tuple(opening) for opening in kept]
        return merged(heard)
