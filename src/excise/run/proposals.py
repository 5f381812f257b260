"""The next candidate: the study's, or one found by gradients. Both kinds of trial live in one study."""

from __future__ import annotations

from dataclasses import replace

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
"""Under this name a trial keeps how the edited model began to refuse."""
_STEPS = 12


class Proposals:
    """Asks the study for trials and makes candidates of them.

    A gradient trial starts from the finished trial that is best at its weight, so that it is a function of
    (seed, trial number, finished trials) like any other, and a resumed study goes on as if it had never
    been interrupted.
    """

    def __init__(self, prepared: Prepared, study: Study, edits: VirtualEdits) -> None:
        self._prepared, self._study, self._edits = prepared, study, edits
        self._stand_in: StandIn | None = None

    def ask(self) -> Trial:
        """The trial in hand, or a new one."""
        points, settings = self._study.points(), self._prepared.settings
        if settings.search == "tpe" or len(points) < max(1, settings.startup_trials):
            return self._study.ask()
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
        openings = self._openings()
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

    def _openings(self) -> list[Opening]:
        """The original model's, and behind them those that edited models were heard to use."""
        heard = list(self._prepared.search_part.openings)
        for kept in self._study.kept(OPENINGS):
            assert isinstance(kept, list)
            heard += [tuple(opening) for opening in kept]
        return merged(heard)
