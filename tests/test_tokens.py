"""Tokens that go through a model, against hand counts."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from conftest import random_prompts, tiny_model
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.engine.tokens import TokenCounter
from zoo import tiny


def test_what_the_engine_runs(model: PreTrainedModel) -> None:
    prompts = random_prompts(9)
    with TokenCounter(model) as counter:
        first_token_logits(model, prompts, 4)
        kl = counter.take()
        answers = greedy(model, prompts, max_new_tokens=6, slots=4)
        refusals = counter.take()
    # The three tokens that all prompts begin with run once.
    assert kl == sum(map(len, prompts)) - 3 * 8
    # The last token of an answer does not run.
    assert refusals == kl + sum(len(answer) - 1 for answer in answers)


def test_what_generate_runs() -> None:
    """A model with a recurrent state answers by its own `generate`."""
    model, prompts = tiny("mamba"), [[5, 6, 7], [8, 9, 10]]
    with TokenCounter(model) as counter:
        answers = greedy(model, prompts, max_new_tokens=4, slots=2)
        # A row that has ended runs on beside the other.
        steps = max(map(len, answers)) - 1
        assert counter.take() == 2 * (3 + steps)


def test_padding_does_not_count_where_the_mask_shows_it() -> None:
    model, ids = tiny_model(), torch.randint(5, 60, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.inference_mode(), TokenCounter(model) as counter:
        model(ids, attention_mask=mask)
        assert counter.take() == 8
        model(input_ids=ids)
        assert counter.take() == 12
        model(inputs_embeds=model.get_input_embeddings()(ids))
        assert counter.take() == 12


def test_nothing_counts_outside_and_no_hook_stays() -> None:
    model = tiny_model()
    with TokenCounter(model) as counter:
        pass
    with torch.inference_mode():
        model(torch.ones(1, 2, dtype=torch.long))
    assert counter.take() == 0
    assert not model._forward_pre_hooks
