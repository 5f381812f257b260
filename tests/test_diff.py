"""Two checkpoints compared: ranks above rounding, operators read off, edits undone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from conftest import SHAPE, fill, tiny_model, write_edited
from excise.anatomy.writers import examine
from excise.checkpoint_diff import matrix
from excise.checkpoint_diff.compare import compare_tensors
from excise.checkpoint_diff.diff import diff, open_compared
from excise.checkpoint_diff.difference import Diff, shared_directions
from excise.checkpoint_diff.matrix import LowRank, Pair, change_of
from excise.checkpoint_diff.rounding import coarser, half_step, noise_norm
from excise.edits.edit import Edit
from excise.errors import SaveError
from excise.operators.operator import orthogonal, unit
from test_realisations import random_edit

DTYPES = (torch.float32, torch.bfloat16)


def moe_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=40)
    return fill(AutoModelForCausalLM.from_config(config))


def gpt2_model() -> PreTrainedModel:
    """Transposed matrices, all with biases."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=96, n_positions=64)
    return fill(AutoModelForCausalLM.from_config(config))


def baked(model: PreTrainedModel, edit: Edit, folder: Path) -> tuple[Path, Path]:
    """The model and its edited version, as checkpoints."""
    model.save_pretrained(folder / "a")
    write_edited(edit, folder / "a", folder / "b")
    return folder / "a", folder / "b"


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> tuple[Path, Path]:
    """A tiny model and a version of it whose tensors `change` changed."""
    tiny_model().save_pretrained(folder / "a")
    tiny_model().save_pretrained(folder / "b")
    tensors = load_file(folder / "b" / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "b" / "model.safetensors", {"format": "pt"})
    return folder / "a", folder / "b"


def undone(b: Path, report: Diff) -> PreTrainedModel:
    """The second model with the adapter that undoes the difference merged into it."""
    report.save_undo(b.parent / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(b, dtype=torch.float32)
    merged: PreTrainedModel = PeftModel.from_pretrained(
        loaded, str(b.parent / "adapter")
    ).merge_and_unload()
    return merged


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["discriminant", "orthogonal", "row_normalised"])
def test_an_edit_is_recognised_and_undone(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model("llama with biases").to(dtype)
    edit = random_edit(model, examine(model), kind)
    a, b = baked(model, edit, tmp_path)
    report = diff(a, b)
    assert {one.writer for one in report.writers} == set(edit.changed)
    # Each number of bfloat16 is known to 0.4 %, the α behind thousands of them better than that.
    tolerance = 1e-3 if dtype == torch.float32 else 0.02
    for one in report.writers:
        row = edit.writers.index(one.writer)
        found = one.operator
        square = one.writer.endswith("o_proj")
        assert found.kind == ("recovered" if kind == "discriminant" else kind)
        assert found.trivial == (found.kind == "recovered" and square)
        u, v = (
            torch.cosine_similarity(x[row], y, 0) for x, y in ((edit.u, found.u), (edit.v, found.v))
        )
        assert abs(float(u)) > 1 - 1e-4
        # A square matrix near a singular one leaves v, and with it α, less well known.
        slack = 4 if found.trivial else 1
        assert abs(float(v)) > 1 - slack * tolerance
        assert found.strength == pytest.approx(float(edit.strengths[row]), rel=slack * tolerance)
        assert float(found.u @ found.v) == pytest.approx(1, abs=1e-3)
    merged = undone(b, report)
    for name, former in load_file(a / "model.safetensors").items():
        now = merged.state_dict()[name].to(dtype).float()
        step = half_step(former.float(), coarser("BF16" if dtype == torch.bfloat16 else "F32"))
        if dtype == torch.float32:
            torch.testing.assert_close(now, former, atol=2e-6, rtol=1e-5)
        else:
            # A number that the edit made larger was rounded more coarsely than the original was.
            assert ((now - former.float()).abs() <= 2 * step + 0.02 * former.float().std()).all()
            assert (now == former.float()).float().mean() > 0.6, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["orthogonal", "row_normalised", "discriminant"])
def test_experts_of_one_block_are_one_writer(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = moe_model().to(dtype)
    anatomy = examine(model)
    edit = random_edit(model, anatomy, kind)
    if kind == "row_normalised":
        blocks = tuple(writer.name for writer in anatomy.writers if writer.matrices > 1)
        edit = Edit(kind, edit.writers, unit(edit.u), unit(edit.u), edit.strengths, blocks)  # type: ignore[arg-type]
        edit = Edit(
            edit.kind, blocks, *(one[1::2] for one in (edit.u, edit.v, edit.strengths)), blocks
        )
    a, b = baked(model, edit, tmp_path)
    report = diff(a, b)
    assert {one.writer for one in report.writers} == set(edit.changed)
    for one in report.writers:
        row = edit.writers.index(one.writer)
        of_experts = one.writer.endswith("experts")
        assert one.operator.per_matrix == (of_experts and kind == "row_normalised")
        direction = unit(edit.u[row])
        assert abs(float(one.operator.direction @ direction)) > 1 - 1e-3
        if of_experts or kind != "discriminant":
            assert one.operator.strength == pytest.approx(float(edit.strengths[row]), rel=0.02)
    if dtype == torch.float32:
        merged = undone(b, report)
        original = AutoModelForCausalLM.from_pretrained(a)
        for name, former in original.state_dict().items():
            torch.testing.assert_close(merged.state_dict()[name], former, atol=2e-6, rtol=1e-5)


def test_experts_that_were_left_out_are_no_edit_of_the_block(tmp_path: Path) -> None:
    model = moe_model()
    a, b = baked(model, random_edit(model, examine(model), "orthogonal"), tmp_path)
    tensors, former = (load_file(folder / "model.safetensors") for folder in (b, a))
    name = "model.layers.1.mlp.experts.2.down_proj.weight"
    assert not torch.equal(tensors[name], former[name])
    save_file(tensors | {name: former[name]}, b / "model.safetensors", {"format": "pt"})
    report = diff(a, b)
    assert "model.layers.1.mlp.experts" not in {one.writer for one in report.writers}
    assert "model.layers.2.mlp.experts" in {one.writer for one in report.writers}
    with pytest.raises(SaveError, match=r"the change of model\.layers\.1\.mlp\.experts\.0"):
        report.edit()
    # It can be undone all the same.
    merged = undone(b, report)
    for key, tensor in AutoModelForCausalLM.from_pretrained(a).state_dict().items():
        torch.testing.assert_close(merged.state_dict()[key], tensor, atol=2e-6, rtol=1e-5)


def test_transposed_matrices_with_biases(tmp_path: Path) -> None:
    model = gpt2_model()
    edit = random_edit(model, examine(model), "orthogonal")
    a, b = baked(model, edit, tmp_path)
    report = diff(a, b)
    assert [one.operator.kind for one in report.writers] == ["orthogonal"] * 3
    assert all(one.biases for one in report.writers)
    merged = undone(b, report)
    for name, former in AutoModelForCausalLM.from_pretrained(a).state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], former, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_difference_kept_as_an_edit_makes_it_again(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model("llama with biases").to(dtype)
    a, b = baked(model, random_edit(model, examine(model), "orthogonal"), tmp_path)
    first = open_compared(str(a))
    edit = diff(a, b).edit()
    assert edit.kind == "orthogonal"
    assert first.source is not None
    assert edit.base is not None
    assert edit.base.differences(first.source) == []
    write_edited(edit, a, tmp_path / "again")
    again = diff(b, tmp_path / "again")
    if dtype == torch.bfloat16:
        # Nothing stands above what a step of the data type makes.
        assert all(one.rank in (0, None) for one in again.changed)
    largest = max((one.largest for one in again.changed), default=0.0)
    assert largest <= (1e-6 if dtype == torch.float32 else 2**-7)


def test_one_direction_of_all_layers_is_progress(tmp_path: Path) -> None:
    model = tiny_model()
    count = len(examine(model).names)
    r = unit(torch.randn(32, generator=torch.Generator().manual_seed(3)))
    operator = orthogonal(r.expand(count, -1))
    edit = Edit("orthogonal", examine(model).names, operator.u, operator.v, torch.ones(count))
    one, *others = shared_directions(diff(*baked(model, edit, tmp_path)).writers)
    assert len(one) == count
    assert not others


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_lora_is_told_by_its_rank_and_undone(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(4)]

    def add(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(dtype)
        for name in names:
            up, down = (torch.randn(*shape, generator=generator) for shape in ((32, 3), (3, 32)))
            tensors[name] = (tensors[name].float() + 0.02 * up @ down).to(dtype)

    a, b = changed(tmp_path, add)
    if dtype == torch.bfloat16:
        tensors = load_file(a / "model.safetensors")
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_file(tensors, a / "model.safetensors", {"format": "pt"})
    report = diff(a, b)
    assert {one.name: one.rank for one in report.changed} == dict.fromkeys(names, 3)
    assert not report.writers
    assert not any(one.full for one in report.changed)
    merged = undone(b, report)
    for name in names:
        former = load_file(a / "model.safetensors")[name].float()
        error = (merged.state_dict()[name] - former).norm() / former.norm()
        assert error < (1e-6 if dtype == torch.float32 else 2**-8)


def test_training_is_told_as_full_rank_and_not_undone(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def train(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            tensor += 0.01 * torch.randn(tensor.shape, generator=generator)

    a, b = changed(tmp_path, train)
    report = diff(a, b)
    assert report.same == 0
    assert all(one.full for one in report.changed if len(one.shape) == 2)
    assert not report.writers
    with pytest.raises(SaveError, match="an adapter can undo changes of low rank"):
        report.save_undo(tmp_path / "adapter")
    with pytest.raises(SaveError, match="no operator on a writer explains"):
        report.edit()
    assert not (tmp_path / "adapter").exists()


def test_tensors_that_went_came_or_changed_their_shape(tmp_path: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["other.name"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
        tensors["extra"] = torch.ones(3)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.norm.weight"] = torch.ones(7)

    a, b = changed(tmp_path, rename)
    report = diff(a, b)
    assert report.names.renamed == {"model.layers.0.mlp.up_proj.weight": "other.name"}
    assert report.names.only_first == ("model.layers.1.mlp.up_proj.weight",)
    assert report.names.only_second == ("extra",)
    assert report.names.reshaped == {"model.norm.weight": ((32,), (7,))}
    assert not report.changed
    with pytest.raises(SaveError, match="do not hold the same tensors"):
        report.edit()


def test_a_prefix_that_came_does_not_hide_an_edit(tmp_path: Path) -> None:
    model = tiny_model()
    a, b = baked(model, random_edit(model, examine(model), "orthogonal"), tmp_path)
    tensors = load_file(b / "model.safetensors")
    tensors = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "b.safetensors")
    first, second = open_compared(str(a)), open_compared(str(tmp_path / "b.safetensors"))
    report = compare_tensors(first, second, {})
    assert len(report.names.renamed) == len(tensors)
    assert [one.rank for one in report.changed] == [1] * 7


def test_another_cut_is_the_same_and_another_type_is_rounding(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert diff(tmp_path / "a", tmp_path / "b").identical
    (tmp_path / "old").mkdir()
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    old = compare_tensors(
        open_compared(str(tmp_path / "old")), open_compared(str(tmp_path / "b")), {}
    )
    assert old.identical
    model.to(torch.bfloat16).save_pretrained(tmp_path / "c")
    report = diff(tmp_path / "a", tmp_path / "c")
    assert not report.identical
    assert all(one.rank in (0, None) for one in report.changed)
    assert max(one.relative for one in report.changed) < 2**-8


def pair_of(before: Tensor, after: Tensor, dtype: str, width: int) -> Pair:
    def read() -> object:
        for start in range(0, before.shape[1], width):
            columns = slice(start, min(start + width, before.shape[1]))
            yield columns, before[:, columns], after[:, columns]

    return Pair(*before.shape, dtype, read)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_sketching_in_pieces_finds_what_the_whole_svd_does(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(rank)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    before = random(60, 200).bfloat16().float()
    change = 0.05 * random(60, rank) @ random(rank, 200)
    after = (before + change).bfloat16().float()
    if not rank:
        after = after + (half_step(after, "BF16") * random(60, 200).sign()).where(after != 0, after)
    pair = pair_of(before, after, "BF16", 64)
    exact = change_of(pair)
    monkeypatch.setattr(matrix, "EXACT_UP_TO", 8)
    monkeypatch.setattr(matrix, "CHUNK", 1)  # nothing is held
    sketched = change_of(pair)
    for found in (exact, sketched):
        assert found.rank == rank
        reference = float(torch.linalg.svdvals(after - before)[0])
        assert found.largest == pytest.approx(reference, rel=0.05 if not rank else 1e-3)
        assert found.noise >= float(torch.linalg.svdvals(after - before - change)[0])
    if rank:
        assert exact.factors is not None
        assert sketched.factors is not None
        for factors in (exact.factors, sketched.factors):
            error = (factors.left @ factors.right - change).norm() / change.norm()
            rounded = (after - before - change).norm() / change.norm()
            assert error < 0.6 * rounded


def test_going_back_and_forth_undoes_what_rounding_did_to_a_direction() -> None:
    """A change so small that bfloat16 swallows a good part of it."""
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(64, 400, generator=generator).bfloat16().float()
    u = unit(torch.randn(64, generator=generator))
    change = -0.03 * torch.outer(u, u @ before)
    after = (before + change).bfloat16().float()
    assert (after == before).float().mean() > 0.3
    found = change_of(pair_of(before, after, "BF16", 400))
    assert found.rank == 1
    assert isinstance(found.factors, LowRank)
    plain = torch.linalg.svd(after - before).U[:, 0]
    refined = found.factors.left[:, 0]
    assert 1 - abs(float(refined @ u)) < 0.5 * (1 - abs(float(plain @ u)))


def test_half_steps_by_hand() -> None:
    values = torch.tensor([1.0, 1.5, 2.0, -3.0, 0.25, 0.0])
    # bfloat16 has 7 digits behind the first one: from 1 to 2 its numbers are 1/128 apart.
    expected = torch.tensor([1 / 256, 1 / 256, 1 / 128, 1 / 128, 1 / 1024, 0.0])
    assert torch.equal(half_step(values, "BF16"), expected)
    random = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):
        assert ((random.to(dtype).float() - random).abs() <= half_step(random, name)).all()
    assert coarser("F32", "BF16") == "BF16"
    assert coarser("F32", "U8") is None


def test_the_bound_of_rounding_holds_and_is_not_far_off() -> None:
    exact = torch.randn(200, 500, generator=torch.Generator().manual_seed(0))
    step = half_step(exact, "BF16").double().square()
    norm = float(torch.linalg.matrix_norm(exact.bfloat16().float() - exact, 2))
    assert norm < noise_norm(step.sum(1), step.sum(0)) < 3 * norm
