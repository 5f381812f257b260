"""Coverage is a proof: it is complete where all writers are known, and names what is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conftest import tiny_model
from excise.anatomy.writers import examine
from excise.errors import ModelError
from excise.experiment.coverage import THRESHOLD, measure
from excise.models.weights import post_norm_gains, row_norms
from zoo import tiny

TOKENS = [5, 9, 12, 40, 7, 33]


def test_every_layer_of_every_model_is_covered(model: PreTrainedModel) -> None:
    coverage = measure(model, examine(model), TOKENS)
    assert len(coverage.per_layer) == 4
    assert min(coverage.per_layer) >= THRESHOLD
    coverage.require_complete()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_half_precision_is_not_taken_for_a_writer(
    model: PreTrainedModel, dtype: torch.dtype
) -> None:
    measure(model.to(dtype), examine(model), TOKENS).require_complete()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_writer_left_out_is_named_with_its_layer(dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    anatomy = examine(model)
    left_out = anatomy.writers[3]
    kept = tuple(writer for writer in anatomy.writers if writer is not left_out)
    coverage = measure(model, dataclasses.replace(anatomy, writers=kept), TOKENS)
    assert [layer for layer, _ in coverage.suspects] == [left_out.layer]
    with pytest.raises(ModelError, match=r"layer 1 .*allow-partial") as caught:
        coverage.require_complete()
    assert left_out.name in str(caught.value)


class ExtraWriter(nn.Module):
    """A decoder layer with something beside it that also writes to the residual stream."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.memory = layer, nn.Linear(32, 32)

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return self.layer(hidden_states, **kwargs) + self.memory(hidden_states)


def test_a_hidden_extra_writer_is_found() -> None:
    model = tiny_model()
    anatomy = examine(model)
    model.model.layers[2] = ExtraWriter(model.model.layers[2])
    # The known writers moved one level down; the extra one is in no list.
    renamed = tuple(
        dataclasses.replace(writer, name=writer.name.replace("layers.2.", "layers.2.layer."))
        for writer in anatomy.writers
    )
    coverage = measure(model, dataclasses.replace(anatomy, writers=renamed), TOKENS)
    assert [layer for layer, _ in coverage.suspects] == [2]
    assert "memory" in coverage.suspects[0][1]


def test_a_missing_post_norm_is_found() -> None:
    model = tiny_model("gemma2, post-norms and sliding window")
    anatomy = examine(model)
    assert all(writer.post_norm for writer in anatomy.writers)
    blind = tuple(dataclasses.replace(writer, post_norms=()) for writer in anatomy.writers)
    coverage = measure(model, dataclasses.replace(anatomy, writers=blind), TOKENS)
    assert not coverage.complete


def test_anatomy_of_a_llama() -> None:
    anatomy = examine(tiny_model())
    assert anatomy.matrices() == {"attn.o_proj": 4, "mlp.down_proj": 4}
    assert anatomy.writers[0].name == "model.layers.0.self_attn.o_proj"
    assert anatomy.writers[1].shape == (32, 48)
    assert anatomy.layers[3] == "model.layers.3"


def test_an_architecture_that_is_not_known_is_named() -> None:
    with pytest.raises(ModelError, match="XLMWithLMHeadModel: found no list of decoder layers"):
        examine(tiny("xlm"))


def test_gains_are_what_the_norm_multiplies_by() -> None:
    model = tiny_model("gemma2, post-norms and sliding window")
    writers = examine(model).writers
    gains = post_norm_gains(model, writers, 32)
    norm = model.model.layers[0].post_attention_layernorm
    ratio = gains[0] / (1 + norm.weight)
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0])))


def test_row_norms_are_those_of_the_weights() -> None:
    model = tiny_model()
    writers = examine(model).writers
    expected = model.get_submodule(writers[2].name).weight.norm(dim=1)
    torch.testing.assert_close(row_norms(model, writers, 32)[2], expected)
