"""virtual ≡ baked ≡ adapter, and the scope of a virtual edit, on every model of the matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from conftest import CONFIGS, random_prompts, tiny_model, tiny_tokenizer, write_edited
from excise.anatomy.writers import Anatomy, examine
from excise.edits.adapter import adapter_tensors, edit_changes, loaded_weights
from excise.edits.edit import Edit
from excise.edits.matrices import MatrixOperators, removed
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.stored import FittedEdit
from excise.edits.virtual import VirtualEdits
from excise.errors import RunError, SaveError
from excise.models.weights import row_norms
from excise.operators.moments import ExactMoments
from excise.operators.operator import discriminant, orthogonal, row_normalised, unit

KINDS = ("discriminant", "orthogonal", "row_normalised", "two directions")


def random_edit(model: PreTrainedModel, anatomy: Anatomy, kind: str, seed: int = 0) -> Edit:
    if kind == "two directions":
        return two_directions(model, anatomy)
    generator = torch.Generator().manual_seed(seed)
    count, d = len(anatomy.names), anatomy.dimension
    directions = unit(torch.randn(count, d, generator=generator))
    if kind == "orthogonal":
        operator = orthogonal(directions)
    elif kind == "row_normalised":
        operator = row_normalised(directions, row_norms(model, anatomy.writers, d))
    else:
        moments = ExactMoments(count, d)
        for index in range(count):
            moments.add(index, torch.randn(64, d, generator=generator))
        operator = discriminant(directions, moments, 0.01)
    strengths = torch.rand(count, generator=generator) * 1.5
    strengths[0] = 0  # one writer is left alone
    return Edit(kind, anatomy.names, operator.u, operator.v, strengths)  # type: ignore[arg-type]


def two_directions(model: PreTrainedModel, anatomy: Anatomy) -> Edit:
    """An edit of rank 2, whose operators do not commute."""
    first, second = (random_edit(model, anatomy, "discriminant", seed) for seed in (0, 1))
    second.strengths[:2] = torch.tensor([0.8, 0.0])  # each direction leaves another writer alone
    return Edit(
        "discriminant",
        anatomy.names * 2,
        torch.cat([first.u, second.u]),
        torch.cat([first.v, second.v]),
        torch.cat([first.strengths, second.strengths]),
    )


def logits(model: torch.nn.Module, prompts: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])


@pytest.mark.parametrize("kind", KINDS)
def test_virtual_equals_baked_equals_adapter(
    model: PreTrainedModel, kind: str, tmp_path: Path
) -> None:
    anatomy, prompts = examine(model), random_prompts(5)
    edit = random_edit(model, anatomy, kind)
    model.save_pretrained(tmp_path / "original")
    tiny_tokenizer().save_pretrained(tmp_path / "original")
    original = logits(model, prompts)

    with VirtualEdits(model, edit.writers) as edits:
        edits.use(edit)
        virtual = logits(model, prompts)
    assert (virtual - original).abs().max() > 1e-2

    write_edited(edit, tmp_path / "original", tmp_path / "baked", {"README.md": "a card"})
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").eval()
    torch.testing.assert_close(logits(baked, prompts), virtual, atol=2e-4, rtol=1e-4)

    base = str(tmp_path / "original")
    save_adapter(FittedEdit.of(edit, model), AdapterFolder(tmp_path / "adapter", base))
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "original").eval()
    adapted = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(adapted, prompts), virtual, atol=2e-4, rtol=1e-4)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, prompts), virtual, atol=2e-4, rtol=1e-4)


def test_strength_zero_and_leaving_are_bit_for_bit_the_original(model: PreTrainedModel) -> None:
    anatomy, prompts = examine(model), random_prompts(4)
    edit = random_edit(model, anatomy, "orthogonal")
    nothing = Edit(edit.kind, edit.writers, edit.u, edit.v, torch.zeros_like(edit.strengths))
    original = logits(model, prompts)
    with VirtualEdits(model, anatomy.names) as edits:
        assert torch.equal(logits(model, prompts), original)
        edits.use(nothing)
        assert torch.equal(logits(model, prompts), original)
        edits.use(edit)
        assert not torch.equal(logits(model, prompts), original)
        edits.use(None)
        assert torch.equal(logits(model, prompts), original)
        edits.use(edit)
    assert torch.equal(logits(model, prompts), original)


def test_scope_is_left_when_an_error_leaves_it() -> None:
    model = tiny_model()
    anatomy, prompts = examine(model), random_prompts(2)
    original = logits(model, prompts)
    edit = random_edit(model, anatomy, "orthogonal")

    def fail_inside() -> None:
        with VirtualEdits(model, anatomy.names) as edits:
            edits.use(edit)
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(logits(model, prompts), original)


def test_a_batch_of_mixed_candidates_gives_each_row_what_it_gets_alone(
    model: PreTrainedModel,
) -> None:
    anatomy = examine(model)
    kinds = ("discriminant", "orthogonal", "row_normalised")
    candidates = [random_edit(model, anatomy, kind, seed=seed) for seed, kind in enumerate(kinds)]
    rows = [2, 0, 1, 0, 2]
    batch = torch.tensor(random_prompts(1, shared=9) * len(rows))
    with VirtualEdits(model, anatomy.names) as edits, torch.inference_mode():
        edits.use_several(candidates)
        edits.assign(rows)
        together = model(batch).logits
        for row, candidate in enumerate(rows):
            edits.use(candidates[candidate])
            alone = model(batch[row : row + 1]).logits[0]
            torch.testing.assert_close(together[row], alone, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_virtual_edits_refuse_other_writers() -> None:
    model = tiny_model()
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "orthogonal")
    with (
        VirtualEdits(model, anatomy.names[:2]) as edits,
        pytest.raises(ValueError, match="other writers"),
    ):
        edits.use(edit)


def test_baked_shard_keeps_names_types_and_everything_else(tmp_path: Path) -> None:
    model = tiny_model("llama with biases").to(torch.bfloat16)
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "orthogonal")
    model.save_pretrained(tmp_path / "original", max_shard_size="20KB")
    (tmp_path / "original" / "README.md").write_text("the original's card")
    (tmp_path / "original" / "ORIGINAL_README.md").write_text("that of its own original")
    (tmp_path / "original" / "pytorch_model.bin").write_bytes(b"old")
    (tmp_path / "original" / "consolidated.safetensors").write_bytes(b"the same under another name")
    write_edited(edit, tmp_path / "original", tmp_path / "baked", {"README.md": "our card"})
    shards = sorted(path.name for path in (tmp_path / "baked").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards == sorted(
        path.name for path in (tmp_path / "original").glob("model-*.safetensors")
    )
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked", dtype="auto")
    before, after = model.state_dict(), baked.state_dict()
    written = {
        f"{name}.{part}"
        for name, strength in zip(edit.writers, edit.strengths, strict=True)
        if strength
        for part in ("weight", "bias")
    }
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name]) == (name not in written), name
    for index, name in enumerate(edit.writers):
        expected = removed(
            before[f"{name}.weight"], edit.u[index], edit.v[index], float(edit.strengths[index])
        )
        assert torch.equal(after[f"{name}.weight"], expected.to(torch.bfloat16))
    assert (tmp_path / "baked" / "README.md").read_text() == "our card"
    assert (tmp_path / "baked" / "ORIGINAL_README.md").read_text() == "that of its own original"
    assert not (tmp_path / "baked" / "pytorch_model.bin").exists()


def test_adapter_has_rank_one_and_writes_only_what_is_edited() -> None:
    model = tiny_model()
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "orthogonal")
    changes = list(edit_changes(edit, anatomy.writers, loaded_weights(model)))
    tensors = adapter_tensors(model, changes)
    assert len(tensors) == 2 * (len(anatomy.names) - 1)
    assert not any(anatomy.names[0] in name for name in tensors)
    assert all(min(tensor.shape) == 1 for tensor in tensors.values())


def test_directions_of_each_matrix_are_made_from_the_unedited_one() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 5, generator=generator)
    first, second = torch.linalg.qr(torch.randn(8, 2, generator=generator)).Q.T
    directions = torch.stack([first, second])
    strengths = torch.tensor([1.0, 0.7])
    edit = Edit("row_normalised", ("m", "m"), directions, directions, strengths, ("m",))
    norms = matrix.norm(dim=1)
    expected = matrix
    for r, strength in zip(directions, strengths, strict=True):
        operator = row_normalised(r, norms)
        expected = expected - strength * torch.outer(operator.u, operator.v @ expected)
    torch.testing.assert_close(MatrixOperators(edit, "m").edited(matrix), expected)
    up, down = MatrixOperators(edit, "m").factors(matrix)
    torch.testing.assert_close(matrix + up @ down, expected, atol=1e-5, rtol=1e-4)
    # Neither direction's part comes back: in the row-normalised matrix both are gone but for the 0.3.
    left = directions @ (expected / norms.unsqueeze(1))
    torch.testing.assert_close(left[0], torch.zeros(5), atol=1e-5, rtol=0)


def test_edit_file_round_trip_and_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = tiny_model()
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "discriminant")
    edit.save(tmp_path / "edit.safetensors")
    again = Edit.load(tmp_path / "edit.safetensors")
    assert (again.kind, again.writers) == (edit.kind, edit.writers)
    for name in ("u", "v", "strengths"):
        assert torch.equal(getattr(again, name), getattr(edit, name))
    assert set(load_file(tmp_path / "edit.safetensors")) == {"u", "v", "strengths"}


def test_edit_files_that_are_no_edit_files(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such edit file"):
        Edit.load(tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(RunError, match="damaged"):
        Edit.load(tmp_path / "bad.safetensors")


def test_nothing_half_written_stays_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "orthogonal")
    model.save_pretrained(tmp_path / "original")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    writings = {
        "shutil.copyfile": lambda: write_edited(edit, tmp_path / "original", tmp_path / "out"),
        "excise.edits.peft_folder.save_file": lambda: save_adapter(
            FittedEdit.of(edit, model), AdapterFolder(tmp_path / "out", "base")
        ),
    }
    for target, write in writings.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            with pytest.raises(SaveError, match="No space left"):
                write()
        assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_saving_over_something_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    anatomy = examine(model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    edit = random_edit(model, anatomy, "orthogonal")
    with pytest.raises(SaveError, match="not empty"):
        save_adapter(FittedEdit.of(edit, model), AdapterFolder(tmp_path / "out", "x"))
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_a_checkpoint_without_the_writers_tensor_is_refused(tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model()
    anatomy = examine(model)
    edit = random_edit(model, anatomy, "orthogonal")
    other.model.layers = other.model.layers[:2]
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(SaveError, match=r"no tensor model\.layers\.2"):
        write_edited(edit, tmp_path / "other", tmp_path / "out")


def test_the_matrix_holds_what_it_is_meant_to_hold() -> None:
    assert any(writer.post_norm for writer in examine(tiny_model(sorted(CONFIGS)[0])).writers)
    assert tiny_model("llama with biases").model.layers[0].mlp.down_proj.bias is not None
    assert tiny_model("qwen3, tied").config.tie_word_embeddings
