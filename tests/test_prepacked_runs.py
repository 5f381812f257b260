"""Whole models with prepacked weights: loaded, edited, saved, searched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from conftest import tiny_tokenizer, wide_model, write_edited, write_prompts
from excise.app.run import prepare
from excise.checkpoint.source import resolve
from excise.config import Settings, gather
from excise.devices.prepacked import (
    PrepackedLinear,
    can_prepack,
    is_prepacked,
    prepack,
)
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.stored import FittedEdit
from excise.edits.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.errors import OutOfMemoryError
from excise.events import ignore
from excise.experiment.bank import edit_of
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.saving.export import write_plain
from excise.search.start import closed_form_of
from excise.undocumented import prepack_linear_weight

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.float32), reason="this processor has no products of prepacked weights"
)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    wide_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_loaded_model_answers_as_the_ordinary_one(wide_folder: Path) -> None:
    loaded = load(resolve(str(wide_folder), None), LoadOptions(dtypes=("float32",)))
    assert isinstance(loaded.model.get_submodule("model.layers.3.mlp.up_proj"), PrepackedLinear)
    prompts = [[2, 9, 17, 4], [2, 30, 4], [2, 11, 12, 13, 14, 4]]
    ordinary = wide_model()
    torch.testing.assert_close(
        first_token_logits(loaded.model, prompts, 4),
        first_token_logits(ordinary, prompts, 4),
        rtol=0,
        atol=1e-4,
    )
    answers = [
        greedy(model, prompts, max_new_tokens=12, slots=2) for model in (loaded.model, ordinary)
    ]
    assert answers[0] == answers[1]


def test_a_layer_that_looks_into_its_weights_keeps_them(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = LlamaMLP.forward

    def looking(self: LlamaMLP, values: Tensor) -> Tensor:
        # As some architectures multiply two weights before they meet a token; here only while decoding.
        scale = self.down_proj.weight.abs().max() if values.shape[1] == 1 else torch.ones(())
        return ordinary(self, values) * scale / scale

    monkeypatch.setattr(LlamaMLP, "forward", looking)
    loaded = load(resolve(str(wide_folder), None), LoadOptions(dtypes=("float32",)))
    assert not any(is_prepacked(parameter) for parameter in loaded.model.parameters())
    (note,) = loaded.notes
    assert note.startswith("weights are not prepacked")
    assert torch.isfinite(first_token_logits(loaded.model, [[2, 9, 4]], 1)).all()


@pytest.mark.parametrize("wrong", [float("nan"), 1.01])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_sum_is_not_taken_for_rounding(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, wrong: float
) -> None:
    right = PrepackedLinear.forward
    factor = wrong if dtype == "float32" else 10 * wrong
    monkeypatch.setattr(PrepackedLinear, "forward", lambda self, input: right(self, input) * factor)
    assert prepack(wide_model()) > 0
    loaded = load(resolve(str(wide_folder), None), LoadOptions(dtypes=(dtype,)))
    assert loaded.dtype == dtype
    assert len(loaded.notes) == 1
    assert not any(isinstance(module, PrepackedLinear) for module in loaded.model.modules())


def test_memory_that_runs_out_is_said_and_nothing_stays_half_done(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def scarce(weight: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return prepack_linear_weight(weight)

    monkeypatch.setattr("excise.devices.prepacked.prepack_linear_weight", scarce)
    with pytest.raises(OutOfMemoryError, match="does not fit into memory"):
        load(resolve(str(wide_folder), None), LoadOptions(dtypes=("float32",)))


def test_the_base_of_training_and_merging_is_ordinary(wide_folder: Path) -> None:
    loaded = load(resolve(str(wide_folder), None), LoadOptions(dtypes=("float32",), prepack=False))
    assert not any(is_prepacked(parameter) for parameter in loaded.model.parameters())


@pytest.fixture
def everything_prepacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("excise.devices.prepacked._SMALLEST", 1)


def run_settings(folder: Path, tmp_path: Path, **more: object) -> Settings:
    flags = {
        "model": str(folder),
        "dtype": "float32",
        "trials": 2,
        "startup_trials": 1,
        "max_new_tokens": 4,
        "batch_size": 6,
        "allow_absent": True,
        "run_dir": tmp_path / "run",
        **write_prompts(tmp_path / "prompts"),
        **more,
    }
    return gather(flags, {}, None)


@pytest.mark.usefixtures("everything_prepacked")
@pytest.mark.parametrize("kind", ["discriminant", "row_normalised"])
def test_virtual_baked_and_adapter_agree_on_a_prepacked_model(
    model_folder: Path, tmp_path: Path, kind: str
) -> None:
    settings = run_settings(model_folder, tmp_path, kinds=(kind,))
    run = prepare(settings, ignore)
    loaded, experiment = run.loaded, run.experiment
    names = experiment.anatomy.names
    assert isinstance(loaded.model.get_submodule(names[0]), PrepackedLinear)
    edit = edit_of(
        closed_form_of(kind, experiment.anatomy),
        experiment.bank,
        experiment.anatomy,
    )
    prompts = [[2, 9, 17, 4], [2, 30, 4]]
    with VirtualEdits(loaded.model, names) as edits:
        edits.use(edit)
        virtual = first_token_logits(loaded.model, prompts, 2)
    write_edited(edit, model_folder, tmp_path / "baked")
    save_adapter(FittedEdit.of(edit, loaded.model), AdapterFolder(tmp_path / "adapter", "tiny"))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).merge_and_unload()
    for other in (baked, adapted):
        found = first_token_logits(other.eval(), prompts, 2)
        torch.testing.assert_close(found, virtual, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("everything_prepacked")
def test_a_prepacked_model_is_saved_to_the_bit_and_stays_in_use(
    model_folder: Path, tmp_path: Path
) -> None:
    loaded = load(resolve(str(model_folder), None), LoadOptions(dtypes=("float32",)))
    (tmp_path / "plain").mkdir()
    write_plain(loaded, tmp_path / "plain")
    assert any(isinstance(module, PrepackedLinear) for module in loaded.model.modules())
    saved, original = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "plain", model_folder)
    )
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in original.items())
