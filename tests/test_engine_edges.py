"""The engine's edges: generation settings, numbers that are none, offloading, odd outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig

from conftest import random_prompts, tiny_model
from excise.devices.memory import input_device
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.batch_size import key_value_bytes
from excise.engine.capture import listening
from excise.engine.decode import greedy
from excise.engine.prefill import Prefill, first_token_logits
from excise.errors import TrialError
from test_engine_plain import ENDS, build


@pytest.mark.parametrize("name", ["gpt2", "mamba"])
def test_answers_are_the_largest_logits_whatever_the_generation_configuration_asks(
    name: str,
) -> None:
    model, prompts = build(name), random_prompts(6)
    expected = greedy(model, prompts, max_new_tokens=8, slots=3)
    model.generation_config = asked = GenerationConfig(
        eos_token_id=ENDS,
        repetition_penalty=5.0,
        min_new_tokens=8,
        suppress_tokens=sorted({answer[0] for answer in expected}),
        do_sample=True,
        temperature=0.3,
        max_length=3,
        num_beams=2,
    )
    assert greedy(model, prompts, max_new_tokens=8, slots=3) == expected
    assert model.generation_config is asked


@pytest.mark.parametrize("name", ["camembert", "mamba"])
def test_logits_that_are_no_numbers_fail_the_trial(name: str) -> None:
    model = build(name)
    weight = model.get_output_embeddings().weight.data
    kept = weight.clone()
    try:
        weight[0, 0] = float("nan")
        with pytest.raises(TrialError, match="not numbers"):
            first_token_logits(model, random_prompts(3), 4)
        with pytest.raises(TrialError, match="not numbers"):
            greedy(model, random_prompts(3), max_new_tokens=3, slots=2)
    finally:
        weight.copy_(kept)


def test_a_recurrent_state_does_not_grow_with_tokens() -> None:
    model = build("mamba")
    layers, inner, state = 4, 2 * model.config.hidden_size, model.config.state_size
    assert model.config.num_hidden_layers == layers
    one = key_value_bytes(model, [[5]], 1)
    # An eighth is left for what else is kept; states are in float32.
    assert one == layers * inner * state * 4 * 9 // 8
    assert key_value_bytes(model, [[5] * 100], 50) == one


@pytest.mark.parametrize("name", ["llama", "gemma4_text"])
def test_the_bytes_of_a_slot_are_at_least_those_that_a_cache_keeps(name: str) -> None:
    """gemma4's layers have different widths, and its last ones keep nothing of their own."""
    model = build(name)
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[5] * 15]), past_key_values=cache, use_cache=True)
    kept = sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    )
    counted = key_value_bytes(model, [[5] * 10], 5)
    assert kept * 9 / 8 <= counted <= 6 * kept
    assert key_value_bytes(model, [[5] * 20], 10) == 2 * counted


def test_inputs_go_where_the_weights_really_are() -> None:
    model = tiny_model()
    assert input_device(model) == torch.device("cpu")
    first = next(iter(model.named_parameters()))[0].rsplit(".", 1)[0]
    model.get_submodule(first).to("meta")
    assert model.device.type == "meta"
    assert input_device(model) == torch.device("cpu")
    assert input_device(model.to("meta")) == torch.device("cpu")


class _Flat(nn.Module):
    """A block that puts out a tuple, or all tokens as one list."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, states: Tensor) -> Tensor | tuple[Tensor, str]:
        return (states, "kept") if self.as_tuple else states.reshape(-1, states.shape[-1])


class _Around(nn.Module):
    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.block = _Flat(as_tuple)

    def forward(self, states: Tensor) -> Tensor | tuple[Tensor, str]:
        return self.block(states)  # type: ignore[no-any-return]


def _edits(count: int, width: int) -> list[Edit]:
    return [
        Edit("orthogonal", ("block",), torch.randn(1, width), torch.randn(1, width), torch.ones(1))
        for _ in range(count)
    ]


@pytest.mark.parametrize("as_tuple", [False, True])
def test_edits_reach_tuples_and_flattened_outputs(as_tuple: bool) -> None:
    torch.manual_seed(0)
    module, states, edits = _Around(as_tuple), torch.randn(3, 5, 8), _edits(2, 8)
    with VirtualEdits(module, ["block"]) as scope:
        scope.use_several(edits)
        scope.assign([1, 0, 1])
        output = module(states)
        single = []
        for edit in edits:
            scope.use(edit)
            single.append(module(states))
    if as_tuple:
        assert output[1] == "kept"
        output, single = output[0], [each[0] for each in single]
    mixed = torch.stack([single[c].view(3, 5, 8)[row] for row, c in enumerate([1, 0, 1])])
    torch.testing.assert_close(output.view(3, 5, 8), mixed)


def test_tokens_that_do_not_divide_among_the_rows_are_an_error() -> None:
    with VirtualEdits(module := _Around(), ["block"]) as scope:
        scope.use_several(_edits(2, 8))
        scope.assign([0, 1])
        with pytest.raises(ValueError, match="not a multiple"):
            module(torch.randn(1, 5, 8))


def test_an_output_that_is_not_a_vector_a_token_is_an_error() -> None:
    model = tiny_model()
    with (
        listening(model, ["lm_head"], lambda index, output: None),
        pytest.raises(ValueError, match="not one vector for each token"),
    ):
        Prefill.start(model, [[5, 6, 7]]).run([0])
