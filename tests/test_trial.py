"""Trials scored fast against the slow reference: one candidate at a time, every verdict waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import pytest
import torch
from transformers import PreTrainedModel

from bench.timed import score
from conftest import CONFIGS, random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.errors import TrialError
from excise.events import ignore
from excise.experiment.baseline import Part
from excise.experiment.evidence import Asked, PartPrompts
from excise.experiment.runner import Runner
from excise.experiment.trial import Scoring
from excise.models.chat import Chat
from excise.operators.operator import orthogonal, unit
from excise.search.front import Point, to_beat
from excise.search.scoring import Bound, Scored
from zoo import tiny

MODELS = ("dense", "sliding window", "mixtral", "lfm2", "mamba")
"""Slots, slots with windows, experts, a hybrid and a recurrence on the plain path."""


def build(name: str) -> PreTrainedModel:
    if name == "dense":
        return tiny_model()
    if name == "sliding window":
        return tiny_model(next(known for known in CONFIGS if "sliding" in known))
    return tiny(name)


def asked_of(target: list[list[int]], control: list[list[int]]) -> PartPrompts:
    """Prompts whose texts nobody reads."""
    return {
        "target": Asked(("",) * len(target), tuple(target)),
        "control": Asked(("",) * len(control), tuple(control)),
    }


class Bench:
    """A model with a few random edits, and prompts to score them on."""

    def __init__(self, name: str) -> None:
        self.model = build(name)
        self.anatomy = examine(self.model)
        target, control = random_prompts(12, seed=1), random_prompts(9, seed=2)
        chat = Chat(tiny_tokenizer())
        # What a random model says is random: what some of its edited answers hold is what marks them.
        (edit,) = self.edits(1)
        with VirtualEdits(self.model, self.anatomy.names) as edits:
            edits.use(edit)
            answers = greedy(self.model, target[:5], max_new_tokens=8, slots=7)
        markers = tuple({chat.decode(answer[-3:]) for answer in answers} - {""})
        self.runner = Runner(
            self.model, chat, markers=markers, max_new_tokens=8, slots=7, emit=ignore
        )
        self.part = Part(
            asked_of(target, control),
            self.runner.log_probabilities(control),
            self.runner.refusals(target),
        )

    def edits(self, count: int) -> list[Edit]:
        generator = torch.Generator().manual_seed(3)
        size = (len(self.anatomy.names), self.anatomy.dimension)
        made: list[Edit] = []
        for number in range(count):
            operator = orthogonal(unit(torch.randn(size, generator=generator)))
            strengths = torch.full((size[0],), 0.3 * (number + 1))
            made.append(Edit("orthogonal", self.anatomy.names, operator.u, operator.v, strengths))
        return made

    def score(self, candidates: Sequence[Edit], bound: Bound) -> list[Scored]:
        with VirtualEdits(self.model, self.anatomy.names) as edits:
            found = score(self.runner, edits, candidates, self.part, bound)
        assert not any(isinstance(each, TrialError) for each in found)
        return found  # type: ignore[return-value]


@pytest.fixture(params=MODELS)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def test_side_by_side_each_candidate_scores_what_it_scores_alone(bench: Bench) -> None:
    candidates = bench.edits(3)
    alone = [bench.score([candidate], Bound(exhaustive=True))[0] for candidate in candidates]
    together = bench.score(candidates, Bound())
    assert len({one.refusals for one in alone}) > 1 or len({round(o.kl, 4) for o in alone}) > 1
    for one, other in zip(alone, together, strict=True):
        # Of a KL near zero, float32 keeps fewer digits.
        assert other.kl == pytest.approx(one.kl, rel=1e-5, abs=2e-7)
        assert one.answered is not None
        assert other.answered is not None
        assert other.answered.tokens == one.answered.tokens
        assert other.answered.refused == one.answered.refused
        assert not other.answered.unknown


def test_kl_is_the_mean_over_control_prompts_of_the_first_token(bench: Bench) -> None:
    (candidate,) = bench.edits(1)
    (scored,) = bench.score([candidate], Bound())
    by_hand: list[float] = []
    for prompt in bench.part.control:
        ids = torch.tensor([list(prompt)])
        with torch.no_grad(), VirtualEdits(bench.model, candidate.writers) as edits:
            before = bench.model(ids).logits[0, -1].double().log_softmax(-1)
            edits.use(candidate)
            after = bench.model(ids).logits[0, -1].double().log_softmax(-1)
        by_hand.append(float((before.exp() * (before - after)).sum()))
    assert scored.kl == pytest.approx(mean(by_hand), rel=1e-4)


def test_a_bound_leaves_early_and_gives_the_verdict_that_waiting_gives(bench: Bench) -> None:
    candidates = bench.edits(3)
    waited = bench.score(candidates, Bound(exhaustive=True))
    worst = max(waited, key=lambda one: one.refusals)
    assert worst.refusals >= 2, "the test needs a candidate with refusals"
    assert worst.answered is not None
    priorities = tuple(float(refused) for refused in worst.answered.refused)
    # From a trial that is hard to beat to one that everything beats.
    for refusals in range(worst.refusals + 2):
        points = (Point(0, (refusals, 0.0)), Point(1, (99, -1.0)))
        for order in (None, priorities):
            early = bench.score(candidates, Bound(points, order))
            late = bench.score(candidates, Bound(points, order, exhaustive=True))
            for one, other, known in zip(early, late, waited, strict=True):
                assert other.refusals == known.refusals
                assert one.kl == pytest.approx(other.kl, rel=1e-5, abs=2e-7)
                assert one.dominated == other.dominated == (known.refusals >= refusals)
                if one.dominated:
                    assert refusals <= one.refusals <= known.refusals
                else:
                    assert one.refusals == known.refusals
                    assert one.answered is not None
                    assert not one.answered.unknown
    # Nothing is asked of a candidate whose KL alone rules it out.
    (hopeless,) = bench.score(candidates[:1], Bound((Point(0, (0, 0.0)),)))
    assert hopeless.answered is None
    assert hopeless.dominated


def test_the_rest_of_a_bad_candidate_is_not_even_begun() -> None:
    bench = Bench("dense")
    (candidate,) = bench.edits(1)
    bench.runner.slots = 2
    everything = replace_markers(bench.runner, ("",))
    with VirtualEdits(bench.model, candidate.writers) as edits:
        (scored,) = score(everything, edits, [candidate], bench.part, Bound((Point(0, (3, 0.0)),)))
    assert isinstance(scored, Scored)
    assert scored.answered is not None
    assert scored.refusals == 3
    assert sum(not tokens for tokens in scored.answered.tokens) >= len(bench.part.target) - 5


def replace_markers(runner: Runner, markers: tuple[str, ...]) -> Runner:
    return Runner(
        runner.model,
        runner.chat,
        markers=markers,
        max_new_tokens=8,
        slots=runner.slots,
        emit=ignore,
    )


def test_refusals_to_beat_are_the_fewest_at_no_more_kl() -> None:
    points = [Point(0, (5, 0.2)), Point(1, (9, 0.1)), Point(2, (7, 0.15))]
    assert to_beat(points, "refusals", {"kl": 0.05}) is None
    assert to_beat(points, "refusals", {"kl": 0.1}) == 9
    assert to_beat(points, "refusals", {"kl": 0.17}) == 7
    assert to_beat(points, "refusals", {"kl": 1.0}) == 5
    assert to_beat([], "refusals", {"kl": 1.0}) is None


def test_an_edit_that_breaks_its_logits_fails_alone() -> None:
    bench = Bench("dense")
    sound, broken = bench.edits(2)
    broken = replace(broken, u=torch.full_like(broken.u, torch.nan))
    with VirtualEdits(bench.model, sound.writers) as edits:
        first, second = score(bench.runner, edits, [sound, broken], bench.part, Bound())
    assert isinstance(first, Scored)
    assert isinstance(second, TrialError)


def test_a_candidate_begins_as_soon_as_others_leave_it_slots_and_stays_itself(bench: Bench) -> None:
    candidates = bench.edits(5)
    alone = [bench.score([candidate], Bound(exhaustive=True))[0] for candidate in candidates]
    with VirtualEdits(bench.model, bench.anatomy.names) as edits:
        scoring = Scoring(bench.runner, edits, bench.part, candidate_slots=3)
        waiting, most, found = list(candidates), 0, []
        while waiting or len(scoring):
            if waiting and scoring.ready:
                scoring.begin(waiting.pop(0), Bound())
            elif scoring.finished:
                found.append(scoring.take())
            else:
                scoring.advance(more=bool(waiting))
            most = max(most, len(scoring))
    assert most == 3
    for one, (other, seconds) in zip(alone, found, strict=True):
        assert isinstance(other, Scored)
        assert seconds > 0
        assert other.kl == pytest.approx(one.kl, rel=1e-5, abs=2e-7)
        assert one.answered is not None
        assert other.answered is not None
        assert other.answered.tokens == one.answered.tokens


def test_what_an_earlier_trial_scores_rules_out_what_is_under_way(bench: Bench) -> None:
    (candidate,) = bench.edits(1)
    (waited,) = bench.score([candidate], Bound(exhaustive=True))
    assert waited.refusals >= 2, "the test needs a candidate with refusals"
    for exhaustive in (False, True):
        with VirtualEdits(bench.model, bench.anatomy.names) as edits:
            scoring = Scoring(bench.runner, edits, bench.part, candidate_slots=2)
            scoring.begin(candidate, Bound(exhaustive=exhaustive))
            scoring.learn(Point(0, (1, 0.0)))
            scoring.advance(more=False)
            scored, _ = scoring.take()
        assert isinstance(scored, Scored)
        assert scored.dominated
        least = waited.refusals if exhaustive else 1
        assert least <= scored.refusals <= waited.refusals


def test_memory_that_runs_out_costs_nobody_a_trial(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = bench.edits(3)
    expected = bench.score(candidates, Bound())
    steps, forward = iter(range(10**6)), type(bench.model).forward

    def failing(*arguments: object, **named: object) -> object:
        if next(steps) == 11:
            raise torch.OutOfMemoryError("out of memory")
        return forward(*arguments, **named)

    monkeypatch.setattr(type(bench.model), "forward", failing)
    found = bench.score(candidates, Bound())
    assert next(steps) > 12
    assert (bench.runner.slots, bench.runner.rows) in ((3, 32), (7, 16))
    for one, other in zip(expected, found, strict=True):
        assert one.answered is not None
        assert other.answered is not None
        assert other.answered.tokens == one.answered.tokens


def test_an_answer_whose_logits_are_no_numbers_fails_its_own_candidate(bench: Bench) -> None:
    candidates = bench.edits(3)
    expected = bench.score(candidates, Bound())
    with VirtualEdits(bench.model, bench.anatomy.names) as edits:
        assign, owners = edits.assign, torch.zeros(0)

        def listening(rows: Sequence[int]) -> None:
            nonlocal owners
            owners = torch.tensor(rows)
            assign(rows)

        def breaking(module: object, inputs: object, named: dict, output: object) -> None:  # type: ignore[type-arg]
            ids = inputs[0] if inputs else named["input_ids"]  # type: ignore[index]
            if ids.shape[1] == 1 and len(ids) == len(owners):
                output.logits[owners == 1] = torch.nan  # type: ignore[attr-defined]

        edits.assign = listening  # type: ignore[method-assign]
        handle = bench.model.register_forward_hook(breaking, with_kwargs=True)
        found = score(bench.runner, edits, candidates, bench.part, Bound())
        handle.remove()
    assert isinstance(found[1], TrialError)
    assert "not numbers" in str(found[1])
    for one, other in ((expected[0], found[0]), (expected[2], found[2])):
        assert isinstance(other, Scored)
        assert one.answered is not None
        assert other.answered is not None
        assert other.answered.tokens == one.answered.tokens
