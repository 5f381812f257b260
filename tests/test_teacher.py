"""Teacher-forced distributions and the smooth stand-in, against one plain forward pass a sequence."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.app.stand_in import StandIn
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine import prefill
from excise.engine.prefill import (
    common_prefix_length,
    length_groups,
    padding_slack,
    run_group,
    run_prefix,
)
from excise.engine.teacher import branched, forced_groups
from excise.events import ignore
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.operators.operator import orthogonal, unit
from excise.scorers.divergence import answer_divergences, kl_divergence
from excise.scorers.openings import merged, opening_mass, openings_of, stems_of

ANSWERS = [[7], [8, 9, 10, 11], [12, 13], [7, 7, 8, 9], [20, 21, 22, 23], [9, 8], [30]]


@pytest.fixture(params=["slots", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that models take through the engine."""
    if request.param == "plain":
        monkeypatch.setattr(prefill, "slots_are_exact", lambda model: False)
    return str(request.param)


def log_probabilities(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_forced_distributions_are_those_of_one_sequence_at_a_time(
    model: PreTrainedModel, path: str
) -> None:
    prompts = random_prompts(len(ANSWERS))
    seen: list[int] = []
    with torch.no_grad():
        for group in forced_groups(model, prompts, ANSWERS, 3):
            for place, row in enumerate(group.rows):
                whole = log_probabilities(model, prompts[row] + ANSWERS[row])
                expected = whole[len(prompts[row]) - 1 : -1]
                found = group.log_probabilities[place][-group.lengths[place] :]
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
                seen.append(row)
    assert sorted(seen) == list(range(len(ANSWERS)))


def test_stems_are_said_to_every_prompt(model: PreTrainedModel, path: str) -> None:
    prompts, stems = random_prompts(6, seed=2), [(7, 8, 9), (20,), (7, 9)]
    shared = prompts[0][: common_prefix_length(prompts)]
    with torch.no_grad():
        slack = padding_slack(model, prompts, run_prefix(model, shared))
        for rows in length_groups(prompts, range(6), 4, slack):
            group = run_group(model, prompts, rows, run_prefix(model, shared))
            found = branched(model, prompts, group, stems)
            for place, row in enumerate(rows):
                for number, stem in enumerate(stems):
                    whole = log_probabilities(model, prompts[row] + list(stem))
                    torch.testing.assert_close(
                        found[place, number, : len(stem)],
                        whole[len(prompts[row]) :],
                        atol=2e-4,
                        rtol=1e-4,
                    )


def test_the_mass_of_openings_is_what_enumeration_gives() -> None:
    model, prompts = tiny_model(), random_prompts(3, seed=4)
    openings = [(7, 8, 9), (7, 8, 10), (20,), (31, 5), (7, 30)]
    stems = stems_of(openings)
    assert stems == [(7, 8), (31,)]
    with torch.no_grad():
        group = run_group(model, prompts, range(3), run_prefix(model, prompts[0][:3]))
        first = group.logits[:, -1].log_softmax(-1)
        mass = opening_mass(first, branched(model, prompts, group, stems), openings, stems)
    for row, prompt in enumerate(prompts):
        expected = 0.0
        for opening in openings:
            whole = log_probabilities(model, prompt + list(opening))
            places = range(len(prompt) - 1, len(prompt) + len(opening) - 1)
            steps = zip(places, opening, strict=True)
            expected += float(sum(whole[place, token] for place, token in steps).exp())
        assert float(mass[row]) == pytest.approx(expected, rel=1e-4)
    single = opening_mass(first, None, [(20,)], stems_of([(20,)]))
    torch.testing.assert_close(single, first[:, 20].exp())


def test_openings_are_counted_cut_and_none_begins_another() -> None:
    answers = [[1, 2, 3], [1, 2, 3], [4], [4, 5], [9, 9, 9, 9, 9, 9, 9, 9], [6, 6], []]
    refused = [True, True, True, True, True, False, True]
    assert openings_of(answers, refused) == [(1, 2, 3), (4,), (9,) * 6]
    assert merged([(1,), (2, 3), (1, 5), (2, 3)]) == [(1,), (2, 3)]
    assert len(merged([(number,) for number in range(20)])) == 8


def test_divergences_along_answers_are_those_of_each_answers_own_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 2, 3, 5, generator=generator).log_softmax(-1).unbind()
    found = answer_divergences(p, q, [3, 1])
    torch.testing.assert_close(found[0], kl_divergence(p[0], q[0]))
    torch.testing.assert_close(found[1], kl_divergence(p[1, 2:], q[1, 2:]))


@pytest.fixture
def stand_in() -> tuple[StandIn, VirtualEdits, Edit]:
    model = tiny_model()
    runner = Runner(
        model, Chat(tiny_tokenizer()), markers=("x",), max_new_tokens=4, slots=4, emit=ignore
    )
    anatomy = examine(model)
    generator = torch.Generator().manual_seed(3)
    r = unit(torch.randn(len(anatomy.names), anatomy.dimension, generator=generator))
    operator = orthogonal(r)
    edit = Edit(
        "orthogonal", anatomy.names, operator.u, operator.v, torch.full((len(anatomy.names),), 0.5)
    )
    made = StandIn(runner, random_prompts(12, seed=7), random_prompts(12, seed=8))
    return made, VirtualEdits(model, anatomy.names), edit


def test_gradients_are_those_of_finite_differences(
    stand_in: tuple[StandIn, VirtualEdits, Edit],
) -> None:
    made, scope, edit = stand_in
    openings = [(7, 8), (20,), (31, 5, 6)]

    def parts(strengths: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for losses in (
            lambda: made._refusal_losses(range(12), openings, 0.3, 5),
            lambda: made._divergences(range(12), 5),
        ):
            scope.use(Edit(edit.kind, edit.writers, edit.u, edit.v, strengths))
            total = total + sum(losses())
        return total

    with scope:
        # Zero too: a writer that is off has to be able to come on.
        point = edit.strengths.clone()
        point[1] = 0
        strengths = point.clone().requires_grad_()
        parts(strengths).backward()
        assert strengths.grad is not None
        for index in (0, 1, 5):
            step = torch.zeros_like(point)
            step[index] = 1e-2
            with torch.no_grad():
                slope = (parts(point + step) - parts(point - step)) / 2e-2
            assert float(strengths.grad[index]) == pytest.approx(float(slope), rel=0.05, abs=2e-3)


def test_descent_lowers_the_loss_repeats_itself_and_leaves_the_model_alone(
    stand_in: tuple[StandIn, VirtualEdits, Edit],
) -> None:
    made, scope, edit = stand_in
    openings = [(7, 8), (20,)]

    def loss(strengths: torch.Tensor) -> float:
        with torch.no_grad():
            scope.use(Edit(edit.kind, edit.writers, edit.u, edit.v, strengths))
            total = sum(made._refusal_losses(range(12), openings, 0.5, 16))
            total = total + sum(made._divergences(range(12), 5))
            scope.use(None)
        return float(total)

    before = log_probabilities(made._model, [5, 6, 7])
    with scope:
        found = made.refine(scope, edit, openings, 0.5, steps=10, seed=1)
        again = made.refine(scope, edit, openings, 0.5, steps=10, seed=1)
        assert found == again
        assert all(0 <= strength <= 1.5 for strength in found)
        assert loss(torch.tensor(found)) < loss(edit.strengths)
    assert torch.equal(log_probabilities(made._model, [5, 6, 7]), before)
