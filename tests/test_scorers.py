"""Scorers: what they need is measured once, is what it is alone, and what fails names its scorer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from excise import Experiment
from excise.engine.answers import Request
from excise.errors import ScorerError, SettingsError
from excise.experiment import runner as runner_module
from excise.experiment.evidence import Decoded, Reach, answer_set, decode, prompts_of_part
from excise.scorers.answers import EmptyScorer, LengthScorer, LoopingScorer, RefusalScorer
from excise.scorers.asking import fault_of
from excise.scorers.damage import AnswerKL, FirstTokenKL
from excise.scorers.scorer import (
    AlongAnswers,
    Answers,
    AnswerSet,
    Better,
    BoundedScorer,
    EditedModel,
    Evidence,
    FirstToken,
    Need,
    PromptKind,
    Score,
)
from test_experiment import experiment


@dataclass(frozen=True)
class Given:
    """A scorer of any needs, with any function."""

    needs: tuple[Need[Any], ...]
    function: Callable[[Evidence], Any]
    name: str = "given"
    unit: str = "points"
    better: Better = "less"

    def score(self, evidence: Evidence) -> Score:
        found: Score = self.function(evidence)
        return found


def total_variation(original: Tensor, edited: Tensor) -> Tensor:
    return 0.5 * (original.exp() - edited.exp()).abs().sum(-1)


@pytest.fixture(scope="module")
def whole() -> Experiment:
    return experiment(max_new_tokens=12)


NEEDS = (
    Answers("control"),
    Answers("control", tokens=3),
    Answers("control", stop_refusals_after=0),
    Answers("control", stop_refusals_after=5),
    Answers("control", tokens=7, stop_refusals_after=2),
    Answers("control", tokens=99, stop_refusals_after=99),
)


def test_answers_from_a_shared_decoding_are_those_of_one_for_the_need_alone(
    whole: Experiment,
) -> None:
    runner = whole.runner
    prompts = prompts_of_part(whole.prompts, "held_out", runner.chat)
    reach = Reach.of(NEEDS[0], 12)
    assert reach == Reach(12, 12)
    shared = decode(runner, prompts, {"control": reach})["control"]
    seen = set()
    for need in NEEDS:
        own = Reach.of(need, 12)
        assert reach.holds(own)
        alone = decode(runner, prompts, {"control": own})["control"]
        found = answer_set(runner, prompts["control"], shared, need)
        assert found == answer_set(runner, prompts["control"], alone, need)
        assert found.tokens == alone.answers.tokens
        seen.add(found.tokens)
    assert len(seen) == 5, "the needs ask for different answers"


def test_needs_of_the_same_prompts_share_one_decoding(
    whole: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    run = runner_module.run_requests

    def counting(model: Any, requests: Sequence[Request], slots: int) -> None:
        asked.append([len(request.prompts) for request in requests])
        run(model, requests, slots)

    monkeypatch.setattr(runner_module, "run_requests", counting)
    edit = whole.edit(strength=0.5)
    _ = whole.held_out
    asked.clear()
    short = Given((Answers("target", 2),), lambda evidence: Score(1, 1, 1, 1, "points"))
    scores = whole.score(edit, on="held_out", scorers=["length", "empty", "answer_kl", short])
    target, control = (len(whole.held_out.prompts[kind]) for kind in ("target", "control"))
    # The original model's answers are known; the edited model is asked once.
    assert asked == [[target, control]]
    assert list(scores) == ["length", "empty", "answer_kl", "given"]
    alone = whole.score(edit, on="held_out", scorers=["answer_kl"])
    assert asked == [[target, control]]
    assert alone["answer_kl"] == scores["answer_kl"]


def test_scores_do_not_depend_on_the_other_scorers(whole: Experiment) -> None:
    edit = whole.edit(strength=0.7)
    names = ["refusals", "control_refusals", "empty", "looping", "length", "answer_kl"]
    together = whole.score(edit, on="held_out", scorers=names)
    for name in names:
        assert whole.score(edit, on="held_out", scorers=[name])[name] == together[name]


def test_comparisons_are_those_of_one_prompt_at_a_time(whole: Experiment) -> None:
    edit = whole.edit(strength=0.6)
    first, along = FirstToken(total_variation, "target"), AlongAnswers(total_variation, "target", 4)
    seen: dict[Need[Any], Any] = {}

    def keep(evidence: Evidence) -> Score:
        seen.update({need: evidence[need] for need in (first, along)})
        return Score.averaged(evidence[first], title="", unit="points")

    whole.score(edit, on="held_out", scorers=[Given((first, along), keep)])
    prompts = prompts_of_part(whole.prompts, "held_out", whole.runner.chat)["target"].tokens
    answers = whole.held_out.answers.decode({})["target"].answers.tokens
    for row, (prompt, whole_answer) in enumerate(zip(prompts, answers, strict=True)):
        answer = whole_answer[:4]
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        with torch.no_grad():
            before = whole.model(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
            with edit.on(whole.model):
                after = whole.model(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
        expected = total_variation(before, after).tolist()
        assert len(seen[along][row]) == len(answer)
        assert seen[along][row] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert seen[first][row] == pytest.approx(expected[0], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("on", ["search", "held_out"])
def test_a_scorer_runs_the_edited_model_itself(whole: Experiment, on: Any) -> None:
    ids = torch.arange(6)[None]
    seen: list[Tensor] = []

    def run(evidence: Evidence) -> Score:
        used = evidence[EditedModel()]
        assert used.rows > 0
        with torch.no_grad():
            seen.append(used.model(ids).logits)
        return Score(1, 1, 1, 1, "points")

    edit = whole.edit(strength=0.8)
    whole.score(edit, on=on, scorers=[Given((EditedModel(),), run)])
    before = whole.model(ids).logits
    with edit.on(whole.model):
        torch.testing.assert_close(seen[0], whole.model(ids).logits)
    assert torch.equal(whole.model(ids).logits, before)
    assert not torch.equal(seen[0], before)


def _raise(evidence: Evidence) -> Score:
    raise RuntimeError("no such file\nat line 3")


FAULTS: dict[str, tuple[Given, str]] = {
    "raises": (Given((), _raise), r"scorer given: failed \(RuntimeError: no such file\)"),
    "no score": (Given((), lambda evidence: 3.0), "returned float instead of excise.Score"),
    "not a number": (
        Given((), lambda evidence: Score(float("nan"), 0, 1, 1, "points")),
        "its value is nan, which is no finite number",
    ),
    "interval": (
        Given((), lambda evidence: Score(2, 0, 1, 1, "points")),
        "its interval 0 to 1 does not hold the value 2",
    ),
    "direction": (
        Given((), lambda evidence: Score(1, 0, 1, 1, "points", "more")),
        "its score says that 'more' is better, the scorer says 'less'",
    ),
    "details": (
        Given((), lambda evidence: Score(1, 0, 1, 3, "points", details=(1.0,))),
        "has 1 details for n = 3",
    ),
    "undeclared": (
        Given((), lambda evidence: evidence[Answers()]),  # type: ignore[return-value]
        r"failed \(KeyError",
    ),
    "unknown need": (Given((Need(),), lambda evidence: Score(1, 1, 1, 1, "")), "no need of excise"),
    "shape": (
        Given(
            (FirstToken(lambda before, after: after.sum()),), lambda evidence: Score(1, 1, 1, 1, "")
        ),
        r"its comparison of \d+ tokens returned \[\] instead of \[\d+\]",
    ),
    "comparison": (
        Given(
            (FirstToken(lambda before, after: after @ after),),
            lambda evidence: Score(1, 1, 1, 1, ""),
        ),
        r"scorer given: failed \(RuntimeError",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_scorer_that_fails_is_named_and_leaves_the_model_as_it_was(
    whole: Experiment, fault: str
) -> None:
    scorer, said = FAULTS[fault]
    ids = torch.arange(6)[None]
    before = whole.model(ids).logits
    with pytest.raises(ScorerError, match=said) as caught:
        whole.score(whole.edit(), on="held_out", scorers=[scorer])
    assert caught.value.scorer == "given"
    assert torch.equal(whole.model(ids).logits, before)
    assert not any(module._forward_hooks for module in whole.model.modules())


def random_answers(chance: random.Random, finished: Sequence[bool]) -> AnswerSet:
    texts = [chance.choice(["", "Sure: two eggs.", "I'm sorry, no.", "no no no"]) for _ in finished]
    tokens = [tuple(chance.choices(range(4), k=chance.randrange(1, 40))) for _ in finished]
    prompts = tuple(map(str, range(len(texts))))
    return AnswerSet(prompts, tuple(texts), tuple(tokens), tuple(finished))


def test_bounds_are_never_better_than_the_value(whole: Experiment) -> None:
    chance = random.Random(0)
    kl, along = FirstTokenKL(), AnswerKL()
    for kind in ("target", "control"):
        judged = RefusalScorer(whole.runner.judge, kind)  # type: ignore[arg-type]
        for _ in range(30):
            answers = random_answers(chance, [True] * 8)
            value = judged.score(Evidence({judged.needs[0]: answers})).value
            assert judged.lower_bound(Evidence({judged.needs[0]: answers})) == value
            assert judged.lower_bound(Evidence()) == 0
            finished = tuple(chance.random() < 0.5 for _ in range(8))
            part = replace(answers, finished=finished)
            assert judged.lower_bound(Evidence({judged.needs[0]: part})) <= value
    figures = tuple(chance.random() for _ in range(9))
    assert kl.lower_bound(Evidence()) == 0
    known = Evidence({kl.needs[0]: figures})
    assert kl.lower_bound(known) == pytest.approx(kl.score(known).value)
    tokens = tuple(tuple(chance.random() for _ in range(1 + row)) for row in range(9))
    known = Evidence({along.needs[0]: tokens})
    assert along.lower_bound(known) == pytest.approx(along.score(known).value)
    assert all(isinstance(each, BoundedScorer) for each in (kl, along, judged))
    assert not isinstance(EmptyScorer(), BoundedScorer)


def test_figures_of_answers_by_hand() -> None:
    prompts = ("a", "b", "c")
    target = AnswerSet(prompts, ("", " *", "yes"), ((1,), (2,), (5,) * 12))
    control = AnswerSet(prompts, ("yes", "no", "**"), ((1, 2), (3,), (4, 4, 4)))
    evidence = Evidence(
        {
            **dict(zip(EmptyScorer.needs, (target, control), strict=True)),
            Answers("control"): control,
        }
    )
    empty, looping = EmptyScorer().score(evidence), LoopingScorer().score(evidence)
    assert (empty.value, empty.n, empty.details) == (3, 6, (1, 1, 0, 0, 0, 1))
    assert (looping.value, looping.n) == (1, 6)
    assert str(looping) == "1/6 (3 to 56 %)"
    assert LengthScorer().score(evidence).value == 2


def test_a_score_is_made_from_figures_of_prompts() -> None:
    share = Score.counted([True, False, False, False], title="refused")
    assert (share.value, share.n, share.unit, share.details) == (1, 4, "prompts", (1, 0, 0, 0))
    assert share.low / 4 == pytest.approx(share.share.low)
    same = Score.averaged([0.1] * 7, title="", unit="nats")
    assert same.low <= same.value <= same.high
    assert same.estimate.mean == same.value
    for score in (share, same, Score.counted([True], title=""), Score.counted([False], title="")):
        assert fault_of(score, "less") is None
    with pytest.raises(ValueError, match="for each prompt"):
        AnswerSet(("a",), (), ())


def test_unknown_and_repeated_scorers_are_refused(whole: Experiment) -> None:
    for wrong, said in (
        (["refusal"], "scorer refusal: unknown; there are refusals, control_refusals, empty"),
        (["kl", FirstTokenKL()], "scorer kl: given twice"),
    ):
        with pytest.raises(SettingsError, match=said):
            whole.score(whole.edit(), scorers=wrong)  # type: ignore[arg-type]


def test_one_kind_of_prompts_may_be_decoded_alone(whole: Experiment) -> None:
    prompts = prompts_of_part(whole.prompts, "search", whole.runner.chat)
    kinds: tuple[PromptKind, ...] = ("target", "control")
    for kind in kinds:
        found = decode(whole.runner, prompts, {kind: Reach(3, 3)})
        assert list(found) == [kind]
        assert isinstance(found[kind], Decoded)
        assert max(map(len, found[kind].answers.tokens)) <= 3
