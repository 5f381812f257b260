"""Judges the trials of the front again by the chosen judge, and records the verdicts."""

from __future__ import annotations

from excise.app.events import FrontJudged
from excise.events import StageStarted
from excise.experiment.experiment import Experiment
from excise.experiment.front import judge_trial
from excise.search.front import pareto_front
from excise.store.judged import JudgedFront, judged_in
from excise.store.stored_study import StoredStudy


def judge_front(experiment: Experiment, store: StoredStudy) -> JudgedFront | None:
    """The front, judged again; None if the search's own judge is the chosen one.

    Trials that a judge of this name has judged before are not judged again. Each trial is recorded at once.
    Raises JudgeError.
    """
    judge, front = experiment.judge, pareto_front(store.study.points())
    if judge is experiment.keywords or not front:
        return None
    judged = judged_in(store.directory.record()) or JudgedFront(judge.name)
    if judged.judge != judge.name:
        judged = JudgedFront(judge.name)
    judged = judged.of_front(front)
    if missing := [point.number for point in front if point.number not in judged.by_number]:
        experiment.emit(StageStarted("front", f"Judging the front by {judge.name}"))
        for number in missing:
            trial = judge_trial(experiment, number, store.directory.edit(number))
            judged = JudgedFront(judge.name, (*judged.trials, trial)).of_front(front)
            store.record_judged(experiment.describe(store), judged)
    experiment.emit(FrontJudged(judged))
    return judged
