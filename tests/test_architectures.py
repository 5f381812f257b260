"""Architectures that the project was founded on, each from a scaled-down config of exactly its type."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from conftest import fill, tiny_model, write_edited
from excise.anatomy.tensors import layout_by_names
from excise.anatomy.writers import Anatomy, examine
from excise.edits.edit import Edit
from excise.edits.matrices import removed
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError
from excise.experiment.coverage import measure, random_edit
from excise.models.meta_model import meta_model
from excise.models.residual_stream import forward
from excise.models.weights import post_norm_gains
from excise.operators.operator import orthogonal, row_normalised, unit
from sweep import require_realisations

TOKENS = [5, 9, 12, 40, 7, 33]
_SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
}
NAMED: dict[str, dict[str, object]] = {
    # Qwen3-0.6B: 28 layers, heads wider than d / heads, tied embeddings.
    "qwen3": {"num_hidden_layers": 28, "intermediate_size": 96, "head_dim": 16}
    | {"tie_word_embeddings": True},
    # Qwen1.5-MoE-A2.7B: 24 layers, 60 routed experts of which 4 run, one shared expert with a gate.
    "qwen2_moe": {"num_hidden_layers": 24, "num_experts": 60, "num_experts_per_tok": 4}
    | {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 40},
    # Phi-3.5-MoE: 16 experts of which 2 run, biases in attention.
    "phimoe": {"num_hidden_layers": 4, "num_local_experts": 16, "intermediate_size": 24}
    | {"attention_bias": True},
    # LFM 2: short convolutions and attention.
    "lfm2": {"num_hidden_layers": 4, "intermediate_size": 48}
    | {"layer_types": ["conv", "conv", "full_attention", "conv"]},
    # Jamba: Mamba and attention, dense and expert layers.
    "jamba": {"num_hidden_layers": 4, "intermediate_size": 48, "num_experts": 4}
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
    | {"expert_layer_offset": 1, "use_mamba_kernels": False, "mamba_dt_rank": 4},
    # Falcon-H1: Mamba 2 and attention side by side in every layer.
    "falcon_h1": {"num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8}
    | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
}


def scaled_down(model_type: str) -> PreTrainedModel:
    """A random model of the type with this layout."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(_SMALL | NAMED[model_type]))
    return fill(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("model_type", sorted(NAMED))
def test_every_layer_is_covered_and_all_realisations_agree(model_type: str, tmp_path: Path) -> None:
    model = scaled_down(model_type)
    assert model.config.model_type == model_type
    anatomy = examine(model)
    assert min(measure(model, anatomy, TOKENS).per_layer) >= 0.9999
    assert len(anatomy.layers) == NAMED[model_type]["num_hidden_layers"]
    notes = require_realisations(model, anatomy, tmp_path)
    # peft itself refuses Mamba's output projection.
    assert len(notes) == (1 if model_type == "falcon_h1" else 0)


def test_all_experts_are_counted() -> None:
    anatomy = examine(scaled_down("qwen2_moe"))
    assert anatomy.matrices() == {"attn.o_proj": 24, "mlp.down_proj": 24 * 61}
    assert anatomy.writers[1].shape == (32, 12)
    assert examine(scaled_down("phimoe")).matrices()["mlp.down_proj"] == 4 * 16


def addition_along(model: PreTrainedModel, anatomy: Anatomy, r: torch.Tensor) -> list[float]:
    """|rᵀΔh| / |Δh| of what each layer adds, over all tokens."""
    shares: list[float] = []

    def hook(module: object, args: tuple[torch.Tensor, ...], output: object) -> None:
        assert isinstance(output, torch.Tensor)
        added = (output - args[0]).double()
        shares.append(float((added @ r.double()).norm() / added.norm()))

    handles = [model.get_submodule(name).register_forward_hook(hook) for name in anatomy.layers]
    forward(model, TOKENS)
    for handle in handles:
        handle.remove()
    return shares


def test_behind_a_post_norm_only_the_gain_aware_direction_takes_all_of_it() -> None:
    model = tiny_model("gemma2, post-norms and sliding window")
    anatomy = examine(model)
    r = unit(torch.randn(32, generator=torch.Generator().manual_seed(3)))
    aware = random_edit(anatomy, post_norm_gains(model, anatomy.writers, 32), r)
    plain = random_edit(anatomy, torch.ones(len(anatomy.writers), 32), r)
    with VirtualEdits(model, anatomy.names) as edits:
        edits.use(aware)
        assert max(addition_along(model, anatomy, r)) <= 1e-5
        edits.use(plain)
        assert min(addition_along(model, anatomy, r)) > 1e-2


def test_row_normalised_experts_are_baked_one_by_one(tmp_path: Path) -> None:
    model = scaled_down("qwen2_moe")
    anatomy = examine(model)
    r = unit(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    operator = orthogonal(r.expand(len(anatomy.writers), -1))
    blocks = tuple(writer.name for writer in anatomy.writers if writer.matrices > 1)
    edit = Edit(
        "row_normalised",
        anatomy.names,
        operator.u,
        operator.v,
        torch.full((len(anatomy.writers),), 0.7),
        per_matrix=blocks,
    )
    model.save_pretrained(tmp_path / "original")
    write_edited(edit, tmp_path / "original", tmp_path / "baked")
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    before = model.get_submodule(blocks[5]).down_proj
    after = baked.get_submodule(blocks[5]).down_proj
    for expert in (0, 7, 59):
        own = row_normalised(r, before[expert].norm(dim=1))
        expected = before[expert] - 0.7 * torch.outer(own.u, own.v @ before[expert])
        torch.testing.assert_close(after[expert], expected, atol=1e-5, rtol=1e-5)


def test_experts_of_one_parameter_are_found_under_the_checkpoints_own_names() -> None:
    config = AutoConfig.for_model("mixtral", **_SMALL, num_hidden_layers=1, intermediate_size=48)
    model = AutoModelForCausalLM.from_config(config)
    block = "model.layers.0.mlp.experts"
    names = [f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(8)]
    layout = layout_by_names(model, examine(model), {block}, names)
    assert [stored.name for stored in layout[block]] == names
    assert all((stored.shape, stored.axis) == ((32, 48), 0) for stored in layout[block])


def test_a_batch_of_mixed_candidates_reaches_the_experts_of_each_row() -> None:
    model = scaled_down("qwen2_moe")
    anatomy = examine(model)
    gains = torch.ones(len(anatomy.writers), 32)
    directions = unit(torch.randn(2, 32, generator=torch.Generator().manual_seed(5)))
    candidates = [random_edit(anatomy, gains, r) for r in directions]
    batch = torch.tensor([TOKENS, TOKENS[::-1], TOKENS])
    with VirtualEdits(model, anatomy.names) as edits, torch.inference_mode():
        edits.use_several(candidates)
        edits.assign([1, 0, 0])
        together = model(batch).logits
        for row, candidate in enumerate([1, 0, 0]):
            edits.use(candidates[candidate])
            alone = model(batch[row : row + 1]).logits[0]
            torch.testing.assert_close(together[row], alone, atol=2e-4, rtol=1e-4)


def test_a_model_without_weights_has_the_same_anatomy(tmp_path: Path) -> None:
    model = scaled_down("jamba")
    model.config.save_pretrained(tmp_path)
    bare = meta_model("jamba", tmp_path, trust_remote_code=False)
    assert {parameter.device.type for parameter in bare.parameters()} == {"meta"}
    assert examine(bare) == examine(model)


def test_the_users_own_claims_come_first() -> None:
    model = tiny_model()
    assert "mlp.down_proj" not in examine(model, ["mlp.down_proj=none"]).matrices()
    added = examine(model, ["self_attn.q_*=mlp.down_proj"])
    assert added.names[0] == "model.layers.0.self_attn.q_proj"
    with pytest.raises(ModelError, match=r"writers=.*: mlp\.up=mlp\.down_proj: no decoder layer"):
        examine(model, ["mlp.up=mlp.down_proj"])
    with pytest.raises(ModelError, match="write PATTERN=COMPONENT"):
        examine(model, ["mlp.down_proj"])


class ListedExperts(nn.Module):
    """Experts as modules of their own, beside a shared one: how models with code of their own have them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.ModuleDict({"down_proj": nn.Linear(32, 32)}) for _ in range(3)
        )
        self.shared_expert = nn.ModuleDict({"down_proj": nn.Linear(32, 32)})

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(hidden_states)
        chosen = (hidden.sum(-1) > 0).long()
        output = self.shared_expert["down_proj"](hidden)
        for index, expert in enumerate(self.experts):
            rows = chosen == index
            output[rows] += 0.7 * expert["down_proj"](hidden[rows])
        return output


def test_experts_that_are_modules_are_one_writer_with_the_shared_ones() -> None:
    model = tiny_model()
    for layer in model.model.layers:
        layer.mlp = ListedExperts()
    anatomy = examine(fill(model))
    assert anatomy.matrices() == {"attn.o_proj": 4, "mlp.down_proj": 16}
    assert anatomy.names[1] == "model.layers.0.mlp"
    measure(model, anatomy, TOKENS).require_complete()
    edit = random_edit(anatomy, torch.ones(8, 32), unit(torch.randn(32)))
    ids = torch.tensor([TOKENS])
    with VirtualEdits(model, anatomy.names) as edits, torch.inference_mode():
        edits.use(edit)
        virtual = model(ids).logits
    for index, writer in enumerate(anatomy.writers):
        for tensor in writer.tensors:
            parameter = model.get_parameter(tensor.name)
            parameter.copy_(removed(parameter, edit.u[index], edit.v[index], 1.0))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, virtual, atol=2e-4, rtol=1e-4)


def test_a_needless_writer_does_not_hide_a_missing_one() -> None:
    model = tiny_model()
    anatomy = examine(model, ["mlp.down_proj=none"])
    coverage = measure(model, anatomy, TOKENS)
    assert coverage.uncovered == (0, 1, 2, 3)
    assert "mlp.down_proj" in coverage.suspects[0][1]
    whole = measure(model, examine(model), TOKENS)
    assert dataclasses.replace(whole, per_layer=(1.0,)).complete
