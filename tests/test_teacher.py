"""Teacher-forced distributions against one plain forward pass a sequence."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from conftest import random_prompts
from excise.engine import prefill
from excise.engine.distributions import distributions
from excise.scorers.divergence import along_answers, kl_divergence

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
        for group in distributions(model, prompts, 3, answers=ANSWERS):
            for place, row in enumerate(group.rows):
                whole = log_probabilities(model, prompts[row] + ANSWERS[row])
                expected = whole[len(prompts[row]) - 1 : -1]
                found = group.log_probabilities[place][-group.lengths[place] :]
                torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
                seen.append(row)
    assert sorted(seen) == list(range(len(ANSWERS)))


def test_divergences_along_answers_are_those_of_each_answers_own_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 2, 3, 5, generator=generator).log_softmax(-1).unbind()
    found = along_answers(p, q, [3, 1], kl_divergence)
    torch.testing.assert_close(found[0], kl_divergence(p[0], q[0]))
    torch.testing.assert_close(found[1], kl_divergence(p[1, 2:], q[1, 2:]))
