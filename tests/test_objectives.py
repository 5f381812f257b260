"""Searches for other objectives than refusals and KL: early ends are exact, and everything names them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from excise import Experiment, Study
from excise.edits.edit import Edit
from excise.errors import TrialError
from excise.experiment import comparisons
from excise.experiment.trial import score_all
from excise.scorers.scorer import (
    AlongAnswers,
    Answers,
    Better,
    EditedModel,
    Evidence,
    FirstToken,
    Need,
    Score,
)
from excise.search.front import Point
from excise.search.objective import Objective
from excise.search.scoring import Bound, Scored
from test_experiment import experiment
from test_scorers import total_variation

LETTERS = Answers("target", tokens=4)


@dataclass(frozen=True)
class Letters:
    """How often answers say "a": more is better, and only the answers tell."""

    name: str = "letters"
    unit: str = "letters"
    better: Better = "more"
    needs: tuple[Need[Any], ...] = (LETTERS,)

    def score(self, evidence: Evidence) -> Score:
        counts = [float(text.count("a")) for text in evidence[LETTERS].texts]
        return Score.averaged(counts, title="letters", unit=self.unit, better=self.better)


@dataclass(frozen=True)
class Tokens:
    """The tokens of all answers to control prompts: every ended answer raises the bound."""

    name: str = "tokens"
    unit: str = "tokens"
    better: Better = "less"
    needs: tuple[Need[Any], ...] = (Answers("control", stop_refusals_after=2),)

    def score(self, evidence: Evidence) -> Score:
        lengths = [len(each) for each in evidence[self.needs[0]].tokens]
        total = float(sum(lengths))
        return Score(total, total, total, len(lengths), self.unit)

    def lower_bound(self, known: Evidence) -> float:
        if self.needs[0] not in known:
            return 0.0
        answers = known[self.needs[0]]
        pairs = zip(answers.tokens, answers.finished, strict=True)
        return float(sum(len(tokens) for tokens, finished in pairs if finished))


@dataclass(frozen=True)
class Variation:
    """Total variation of the first token of target answers."""

    need: Need[Any] = field(default_factory=lambda: FirstToken(total_variation, "target"))
    name: str = "variation"
    unit: str = "share"
    better: Better = "less"

    @property
    def needs(self) -> tuple[Need[Any], ...]:
        return (self.need,)

    def score(self, evidence: Evidence) -> Score:
        found = evidence[self.need]
        values = [each if isinstance(each, float) else max(each) for each in found]
        return Score.averaged(values, title="variation", unit=self.unit, seed=evidence.seed)


@dataclass(frozen=True)
class Norm:
    """A number that the model itself gives."""

    name: str = "norm"
    unit: str = "logits"
    better: Better = "less"
    needs: tuple[Need[Any], ...] = (EditedModel(),)

    def score(self, evidence: Evidence) -> Score:
        with torch.no_grad():
            logits = evidence[EditedModel()].model(torch.arange(4)[None]).logits[0, -1]
        value = float(logits.norm())
        return Score(value, value, value, 1, self.unit)


OBJECTIVES: dict[str, tuple[Any, ...]] = {
    "default": ("refusals", "kl"),
    "three, by answers": ("refusals", "kl", Letters()),
    "three, by passes": ("refusals", "kl", "answer_kl"),
    "one kind of refusals": ("refusals", "control_refusals"),
    "other order": ("kl", "refusals", Tokens()),
    "no refusals": ("kl", Tokens()),
    "only answers": (Letters(), Tokens()),
    "the model": (Norm(), "refusals", Variation()),
    "along answers": (Variation(AlongAnswers(total_variation, "target", 3)), "refusals"),
}


@pytest.fixture(scope="module")
def whole() -> Experiment:
    return experiment(max_new_tokens=8)


def edits_of(whole: Experiment) -> list[Edit]:
    strengths = (0.1, 0.4, 0.8, 1.2)
    return [whole.edit(kind, strength) for strength in strengths for kind in whole.options.kinds]


def measured(whole: Experiment, objectives: tuple[Any, ...], bound: Bound) -> list[Scored]:
    other = whole.with_seed(0)
    other.options = replace(whole.options, objectives=objectives)
    other.__dict__.pop("objectives", None)
    with other.scoring(3) as scoring:
        found = score_all(scoring, edits_of(whole), bound)
    assert not any(isinstance(each, TrialError) for each in found)
    return found  # type: ignore[return-value]


def better(axis: Objective, column: list[float], chance: random.Random) -> float:
    """A value of the column, or one that is better by chance."""
    cost = axis.cost(chance.choice(column))
    return axis.value(cost - chance.choice((0.0, 0.5, 1.0)) * chance.random() * abs(cost))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_early_end_says_what_waiting_says(whole: Experiment, name: str) -> None:
    objectives = OBJECTIVES[name]
    waited = measured(whole, objectives, Bound(exhaustive=True))
    assert all(not each.dominated for each in waited)
    axes = tuple(Objective.of(one) for one in _scorers(whole, objectives))
    chance = random.Random(name)
    columns = [[each.values[axis.name] for each in waited] for axis in axes]
    early_ends = 0
    for _ in range(6):
        # Somewhat better than what there is, so that some trials are dominated long before their end.
        points = tuple(
            Point(
                number,
                tuple(better(*pair, chance) for pair in zip(axes, columns, strict=True)),
                axes,
            )
            for number in range(3)
        )
        late = measured(whole, objectives, Bound(points, exhaustive=True))
        early = measured(whole, objectives, Bound(points))
        for one, other, known in zip(early, late, waited, strict=True):
            assert one.dominated == other.dominated
            assert other.values == pytest.approx(known.values, rel=1e-5, abs=1e-6)
            costs = [axis.cost(known.values[axis.name]) for axis in axes]
            slack = [cost + 1e-6 for cost in costs]
            assert other.dominated == any(
                all(mine <= theirs for mine, theirs in zip(point.costs, slack, strict=True))
                for point in points
            )
            for axis, cost in zip(axes, costs, strict=True):
                bound = axis.cost(one.values[axis.name])
                if one.dominated:
                    assert bound <= cost + 1e-5
                else:
                    assert bound == pytest.approx(cost, rel=1e-5, abs=1e-6)
            early_ends += one.values != pytest.approx(other.values, rel=1e-5, abs=1e-6) or (
                one.answered is None and other.answered is not None
            )
    if name not in ("three, by answers", "only answers", "along answers"):
        assert early_ends, "no trial ended early: the test shows nothing"


def _scorers(whole: Experiment, objectives: tuple[Any, ...]) -> list[Any]:
    from excise.scorers.named import scorers_of

    return list(scorers_of(objectives, whole.judge))


@pytest.mark.parametrize("fits", [True, False])
def test_the_original_runs_along_its_answers_once_if_memory_has_room(
    whole: Experiment, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fits:
        monkeypatch.setattr(comparisons, "_KEPT_SHARE", 0.0)
    objectives = ("refusals", "answer_kl")
    other = whole.with_seed(0)
    other.options = replace(whole.options, objectives=objectives)
    other.__dict__.pop("objectives", None)
    passes: list[int] = []
    found: list[tuple[int, float]] = []
    with other.scoring(1) as scoring:
        handle = whole.model.register_forward_pre_hook(lambda *_: passes.append(1))
        for edit in edits_of(whole)[:3]:
            passes.clear()
            scoring.begin(edit, Bound())
            counted = len(passes)
            scoring.advance(more=False)
            scored, _ = scoring.take()
            assert isinstance(scored, Scored)
            found.append((counted, scored.values["answer_kl"]))
        handle.remove()
    (first, _), *later = found
    assert [count for count, _ in later] == [first // 2 if fits else first] * 2
    expected = measured(whole, objectives, Bound())
    for (_, value), known in zip(found, expected, strict=False):
        assert value == pytest.approx(known.values["answer_kl"], rel=1e-6)


@pytest.mark.parametrize("name", ["three, by answers", "other order", "the model"])
def test_a_search_ends_early_with_the_front_of_one_that_waits(name: str) -> None:
    found: list[Study] = []
    for exhaustive in (False, True):
        made = experiment(objectives=OBJECTIVES[name], exhaustive=exhaustive)
        found.append(made.search(trials=7, progress=False))
    early, late = found
    assert [trial.state for trial in early.trials] == [trial.state for trial in late.trials]
    assert [trial.number for trial in early.front] == [trial.number for trial in late.front]
    names = [each.name for each in early.trials[0].objectives]
    for one, other in zip(early.trials, late.trials, strict=True):
        assert one.parameters == other.parameters
        assert list(one.values) == names
        if one.state == "complete":
            assert one.values == pytest.approx(other.values, rel=1e-5, abs=1e-6)
    assert "pruned" in {trial.state for trial in early.trials} or name == "three, by answers"
    assert list(early.to_pandas().columns[1 : 1 + len(names)]) == names
