"""Tokens, padding and operations as they are counted, against what torch counts and against hand counts."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from conftest import random_prompts, tiny_model
from excise.anatomy.writers import examine
from excise.engine.answers import Referee, end_tokens
from excise.engine.costs import Costs, LayerCost, costs_of, pairs
from excise.engine.decode import greedy
from excise.engine.meter import Meter, ended_early, unmeasured
from excise.engine.prefill import first_token_logits
from excise.engine.rate import matrix_rate
from excise.engine.work import Work
from zoo import tiny, tiny_config


def meter_of(model: PreTrainedModel, **options: object) -> Meter:
    anatomy = examine(model)
    return Meter(model, costs_of(model, anatomy.layers), anatomy.first_writers(), **options)  # type: ignore[arg-type]


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
        with meter_of(model) as meter, FlopCounterMode(display=False) as counter:
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
    work = meter.take()
    assert (work.step_tokens, work.steps, work.tokens) == (1, 1, 1)
    counted = counter.get_total_flops()
    assert (1 - left_out) * counted <= work.operations <= counted


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


def test_the_meter_and_the_formula_agree_on_what_the_engine_runs(model: PreTrainedModel) -> None:
    prompts = random_prompts(9)
    costs = costs_of(model, examine(model).layers)
    with meter_of(model) as meter:
        first_token_logits(model, prompts, 4)
        kl = meter.take()
        answers = greedy(model, prompts, max_new_tokens=6, slots=4)
        refusals = meter.take()
    # The shared beginning needs no logits, and is given one all the same.
    assert kl.operations - 2 * costs.head == costs.answering(prompts, [[0]] * 9)
    assert refusals.operations - 2 * costs.head == costs.answering(prompts, answers)
    assert kl.tokens == sum(map(len, prompts)) - 3 * 8
    assert refusals.tokens == kl.tokens + sum(len(answer) - 1 for answer in answers)
    assert costs.answering(prompts, answers, shared=False) > costs.answering(prompts, answers)


def test_padding_is_told_apart_where_the_mask_allows() -> None:
    model = tiny_model()
    ids = torch.randint(5, 60, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.inference_mode(), meter_of(model) as meter:
        model(ids, attention_mask=mask)
        masked = meter.take()
        model(input_ids=ids)
        whole = meter.take()
    assert (masked.tokens, masked.padding, masked.passes) == (8, 4, 1)
    assert (whole.tokens, whole.padding) == (12, 0)
    costs = costs_of(model, examine(model).layers)
    head = 2 * costs.head * 12
    assert (
        whole.operations - head
        == costs.answering(ids.tolist(), [[0]] * 2, shared=False) - 4 * costs.head
    )
    assert masked.operations - head == (
        costs.answering([[5, 6], [5] * 6], [[0]] * 2, shared=False) - 4 * costs.head
    )


def test_a_layer_that_does_not_run_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    costs = costs_of(model, examine(model).layers)
    ids = torch.randint(5, 60, (1, 4))
    with torch.inference_mode(), meter_of(model) as meter:
        model(ids)
        whole = meter.take()
        # As layers before the first edit are replaced by what they put out before.
        monkeypatch.setattr(model.model.layers[0], "forward", lambda hidden, **given: hidden)
        model(ids)
        shorter = meter.take()
    layer = costs.layers[0]
    assert whole.operations - shorter.operations == 2 * (4 * layer.weights + 10 * layer.attention)


def test_stages_share_out_the_time_and_leave_no_hook() -> None:
    model = tiny_model()
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    told: list[Work] = []
    with meter_of(model, on_work=told.append, every=0.0) as meter, torch.inference_mode():
        with meter.stage("outer"):
            time.sleep(0.01)
            with meter.stage("inner"):
                model(torch.ones(1, 2, dtype=torch.long))
        meter.ended_early(3)
        last = meter.take()
    (first,) = told
    assert set(first.seconds) == {"outer", "inner"}
    assert first.seconds["outer"] >= 0.01
    assert first.tokens == 2
    assert last.tokens == 0
    together = first + last
    assert together.early_rows == 3
    assert together.total_seconds == pytest.approx(first.total_seconds + last.total_seconds)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before
    with unmeasured("anything"):
        pass


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


class Two(Referee):
    """Has seen enough at the second token."""

    def decided(self, row: int, answer: list[int]) -> bool:
        return len(answer) == 2


def test_answers_that_ended_early() -> None:
    model = tiny_model()
    ends = end_tokens(model)
    assert ended_early([[5, 6], [5, 1], [5, 6, 7], [], [1]], ends, 3) == 2
    answers = greedy(model, random_prompts(6), max_new_tokens=4, slots=3, referee=Two())
    assert ended_early(answers, ends, 4) == sum(1 not in answer for answer in answers) > 0


@pytest.mark.parametrize(("per_second", "sizes"), [(1e10, 2), (1e12, 4), (1e16, 5)])
def test_the_matrix_rate_is_that_of_the_fastest_product(
    per_second: float, sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of a known rate, on which every other product is held up."""
    taken: list[tuple[int, float]] = []

    def product(left: torch.Tensor, right: torch.Tensor, in_blocks: bool) -> float:
        size = len(left)
        seconds = 2 * size**3 / per_second * (3 if len(taken) % 2 == 0 else 1)
        taken.append((size, seconds))
        return seconds

    monkeypatch.setattr("excise.engine.rate._product", product)
    rate = matrix_rate(torch.float32, torch.device("cpu"), seconds=0.3)
    assert rate == pytest.approx(per_second)
    assert sorted({size for size, _ in taken}) == [256 * 2**index for index in range(sizes)]
    assert sum(seconds for _, seconds in taken) < 0.6


def test_the_matrix_rate_is_in_operations_a_second() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        # Between a pocket calculator and a room full of machines: another unit is out of both.
        assert 1e6 < matrix_rate(dtype, torch.device("cpu"), seconds=0.001) < 1e15
