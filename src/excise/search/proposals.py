"""The next candidates: the study's, or found by gradients. Both kinds of trial live in one study."""

from __future__ import annotations

from dataclasses import replace

from optuna.trial import Trial

from excise.app.prepare import Prepared
from excise.app.stand_in import StandIn
from excise.edits.virtual import VirtualEdits
from excise.experiment.bank import edit_of
from excise.scorers.openings import Opening, merged
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
_STEPS = 12


class Proposals:
    """Asks the study for trials and makes candidates of them.

    Several are in hand at a time, `Prepared.candidates`: trial n is proposed when exactly the trials up to
    n − candidates are told, however long each of them takes, so that a search is the same whether it waits
    for every verdict or not. (Trials that a study is asked for later, in another go, know of all before.)
    A study that was interrupted has those in hand in its journal; they come first.

    A gradient trial starts from the finished trial that is best at its weight: so it is proposed when nothing
    else is in hand, and is a function of (seed, trial number, finished trials) like any other. A resumed
    study goes on as if it had never been interrupted.
    """

    def __init__(self, prepared: Prepared, study: Study, edits: VirtualEdits) -> None:
        self._prepared, self._study, self._edits = prepared, study, edits
        self._interrupted = study.in_hand()
        self._stand_in: StandIn | None = None

    def next(self, in_hand: int, budget: int) -> Trial | None:
        """The next trial, when so many others are in hand; None if some of them have to be told first.

        budget: trials that the study may hold in the end.
        """
        expected = self._study.done() + in_hand
        if expected >= budget or in_hand >= self._prepared.candidates:
            return None
        settings = self._prepared.settings
        by_gradient = settings.search == "gradient" and expected >= max(1, settings.startup_trials)
        if by_gradient and in_hand:
            return None
        if self._interrupted:
            return self._interrupted.pop(0)
        return self._descent() if by_gradient else self._study.new()

    def _descent(self) -> Trial:
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
            prompts = len(self._prepared.search_part.target)
            start = best_start(self._study.points(), prompts, now)
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
