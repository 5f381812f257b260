"""Early layers computed once, against whole passes: same logits, same answers, and where it is not used."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from conftest import random_prompts, tiny_model
from excise.anatomy.writers import Anatomy, examine
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.engine.cached_layers import CachedLayers, CachedPart, start_layers_within
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.operators.operator import orthogonal, unit
from zoo import tiny

START_LAYERS = (1, 3)


def late_edits(anatomy: Anatomy, first: int, count: int) -> list[Edit]:
    """Edits that change nothing before layer `first`."""
    generator = torch.Generator().manual_seed(5)
    size = (len(anatomy.names), anatomy.dimension)
    found: list[Edit] = []
    for _ in range(count):
        operator = orthogonal(unit(torch.randn(size, generator=generator)))
        strengths = torch.tensor([0.9 * (writer.layer >= first) for writer in anatomy.writers])
        found.append(Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths))
    return found


def recorded(model: PreTrainedModel, prompts: Sequence[list[int]]) -> CachedLayers:
    cached_layers = CachedLayers(model, examine(model).layers, START_LAYERS, with_keys=True)
    greedy(
        model,
        prompts,
        max_new_tokens=1,
        slots=5,
        assignment=Assignment(cached_layers=cached_layers.recording()),
    )
    return cached_layers


def build(name: str) -> PreTrainedModel:
    return tiny(name) if name == "mixtral" else tiny_model(name)


@pytest.mark.parametrize("shared", [0, 3])
@pytest.mark.parametrize(
    "name", ["llama", "gemma2, post-norms and sliding window", "qwen3, tied", "mixtral"]
)
def test_passes_that_begin_at_a_cut_give_what_whole_passes_give(name: str, shared: int) -> None:
    model, prompts = build(name), random_prompts(11, shared=shared)
    anatomy = examine(model)
    cached_layers = recorded(model, prompts)
    last = len(anatomy.layers) - 1
    for start_layer in (start_layer for start_layer in START_LAYERS if start_layer <= last):
        edits = late_edits(anatomy, start_layer, 2)
        with VirtualEdits(model, anatomy.names) as scope:
            scope.use_several(edits)
            said: list[list[list[int]]] = []
            whole: list[Tensor] = []
            for candidate in range(2):
                found: list[Tensor] = []
                for replay in (None, cached_layers.replaying(start_layer)):
                    assignment = Assignment(candidate, scope.assign, replay)
                    found.append(first_token_logits(model, prompts, 4, assignment))
                    said.append(
                        greedy(model, prompts, max_new_tokens=7, slots=6, assignment=assignment)
                    )
                torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
                whole.append(found[0])
        assert not torch.allclose(*whole, atol=1e-2)
        assert said[0] == said[1]
        assert said[2] == said[3]
        assert cached_layers.is_exact(model, prompts, start_layer)


def test_layers_before_the_cut_do_not_run_and_come_back() -> None:
    model, prompts = tiny_model(), random_prompts(6)
    cached_layers = recorded(model, prompts)
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if name.endswith("o_proj")
    ]
    replay = Assignment(cached_layers=cached_layers.replaying(3))
    first_token_logits(model, prompts, 4, replay)
    assert {name.split(".")[2] for name in ran} == {"3"}
    ran.clear()
    first_token_logits(model, prompts, 4)
    assert {name.split(".")[2] for name in ran} == {"0", "1", "2", "3"}
    for handle in handles:
        handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_edit_before_the_cut_is_not_served_by_it() -> None:
    model = tiny_model()
    anatomy = examine(model)
    cached_layers = CachedLayers(model, anatomy.layers, START_LAYERS, with_keys=False)
    part = CachedPart(
        cached_layers, cached_layers, {writer.name: writer.layer for writer in anatomy.writers}
    )
    names = {layer: late_edits(anatomy, layer, 1)[0].changed for layer in range(4)}
    assert [part.start_layer(names[layer]) for layer in range(4)] == [0, 1, 1, 3]
    assert part.start_layer([*names[3], *names[0]]) == 0
    cached_layers.forget(1)
    assert [part.start_layer(names[layer]) for layer in range(4)] == [0, 0, 0, 3]


class _Remembering(nn.Module):
    """A layer with a side entrance: what it makes depends on whether the one before it ran."""

    def __init__(self, inner: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.inner, self.ran = inner, False
        before.register_forward_hook(lambda *_: setattr(self, "ran", True))

    def forward(self, *inputs: Tensor, **named: object) -> Tensor:
        output: Tensor = self.inner(*inputs, **named)
        output, self.ran = output + float(self.ran), False
        return output


def test_a_model_whose_layers_share_more_than_hidden_states_fails_the_proof() -> None:
    model, prompts = tiny_model(), random_prompts(6)
    layers = model.model.layers
    before = layers[0].self_attn
    layers[3] = _Remembering(layers[3], before)
    cached_layers = CachedLayers(
        model, [f"model.layers.{index}" for index in range(4)], (2,), with_keys=True
    )
    greedy(
        model,
        prompts,
        max_new_tokens=1,
        slots=6,
        assignment=Assignment(cached_layers=cached_layers.recording()),
    )
    part = CachedPart(cached_layers, cached_layers, {})
    part.verify(model, prompts, prompts)
    assert cached_layers.start_layers == ()


def test_as_many_cuts_as_memory_holds() -> None:
    # 10 tokens of 4 numbers of 2 bytes: 80 bytes a start_layer; keys and values of 6 of them, 3 bytes a
    # layer.
    assert start_layers_within(1e9, 12, (6, 4), 4, 3, 2) == (2, 4, 6)
    assert start_layers_within(80 * 2 + 6 * 3 * 4, 12, (6, 4), 4, 3, 2) == (2, 4)
    assert start_layers_within(80, 12, (6, 4), 4, 3, 2) == ()
    assert start_layers_within(1e9, 2, (6, 4), 4, 3, 2) == (1,)
    assert start_layers_within(1e9, 1, (6, 4), 4, 3, 2) == ()
