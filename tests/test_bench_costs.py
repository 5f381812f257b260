"""Operations as they are counted, against what torch counts and against hand counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from bench.costs import Costs, LayerCost, costs_of, pairs
from excise.anatomy.writers import examine
from zoo import tiny, tiny_config


def counted_by_torch(model: PreTrainedModel, ids: torch.Tensor, **given: object) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(ids, **given)
    return int(counter.get_total_flops())


def eager(model: PreTrainedModel) -> PreTrainedModel:
    """torch counts no attention kernel of the CPU and no grouped products; plain ones it counts."""
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize(
    ("model_type", "left_out"),
    # The states of recurrences are left out.
    [
        ("qwen2_moe", 0),
        ("mixtral", 0),
        ("gpt2", 0),
        ("bart", 0),
        ("gemma4_text", 0),
        ("qwen3_next", 0.02),
    ],
)
def test_operations_of_a_decoding_step_are_those_that_torch_counts(
    model_type: str, left_out: float
) -> None:
    model = eager(tiny(model_type))
    ids = torch.randint(5, 60, (1, 12))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[:, :-1], past_key_values=cache, use_cache=True)
    counted = counted_by_torch(model, ids[:, -1:], past_key_values=cache, use_cache=True)
    # A second token of the answer takes one step more.
    costs, prompts = costs_of(model, examine(model).layers), ids[:, :-1].tolist()
    step = costs.answering(prompts, [[0, 0]]) - costs.answering(prompts, [[0]])
    assert (1 - left_out) * counted <= step <= counted


def test_latent_attention_has_keys_and_values_of_different_widths() -> None:
    config = tiny_config("deepseek_v3")
    config.v_head_dim = config.qk_nope_head_dim  # narrower than a key by its rotated part
    model = eager(AutoModelForCausalLM.from_config(config).eval())
    ids = torch.randint(5, 60, (1, 1))
    costs = costs_of(model, examine(model).layers)
    assert costs.answering(ids.tolist(), [[0]]) == counted_by_torch(model, ids)


def test_operations_of_a_forward_pass_are_those_that_torch_counts(model: PreTrainedModel) -> None:
    ids = torch.randint(5, 60, (3, 5))
    costs = costs_of(eager(model), examine(model).layers)
    needed = costs.answering(ids.tolist(), [[0]] * 3, shared=False)
    # torch counts the half of each attention matrix that the mask hides, too.
    hidden = sum(layer.attention for layer in costs.layers) * 2 * 3 * (5 * 5 - pairs(0, 5))
    counted = counted_by_torch(model, ids, logits_to_keep=1)
    assert needed + hidden == counted


def test_pairs_by_counting() -> None:
    for start, end in ((0, 1), (0, 7), (3, 9), (8, 9)):
        for window in (None, 1, 4, 7, 20):
            counted = sum(min(at + 1, window or at + 1) for at in range(start, end))
            assert pairs(start, end, window) == counted


def test_operations_by_hand() -> None:
    costs = Costs((LayerCost(100, 8, None), LayerCost(50, 8, 2)), outside=7, head=1000)
    # Two prompts of three tokens, two of them shared; answers of one and three tokens.
    # Shared: 0, 1. First: 2. Second: 2, then two more of its answer: 3, 4. Six tokens in all.
    seen = 1 + 2 + 3 + 3 + 4 + 5, 1 + 2 + 2 + 2 + 2 + 2
    expected = 2 * (6 * 157 + 8 * sum(seen) + 1000 * 4)
    assert costs.answering([[1, 2, 3], [1, 2, 4]], [[9], [9, 8, 7]]) == expected
