"""Models whose class is an image-text one: loaded, edited and saved for text, their towers untouched."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

import packed_models as packed
from conftest import TEMPLATE, tiny_tokenizer, write_edited
from excise.anatomy.writers import examine
from excise.checkpoint.auto_class import auto_class
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.store.directory import RunDirectory
from sweep import random_edit
from zoo import tiny, tiny_config

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.tensor([[5, 9, 12, 40, 7, 33, 21, 52]])
OLD_NAMES = {
    # What the makers published, and what transformers 4.52 to 4.57 wrote.
    "mistral3": [
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head", "lm_head"),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
    "qwen2_5_vl": [("visual.", "model.visual."), ("model.", "model.language_model.")],
}


def image_text_folder(model_type: str, folder: Path) -> PreTrainedModel:
    """The tiny model as somebody publishes it: tokenizer, and the files of its processor of images."""
    model = tiny(model_type)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "its own"}')
    return model


def respelt(model_type: str, folder: Path, to: Path) -> Path:
    """The same checkpoint under the other names that are about."""
    shutil.copytree(folder, to)

    def other(name: str) -> str:
        for old, new in OLD_NAMES[model_type]:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    tensors = {other(k): v for k, v in load_file(folder / "model.safetensors").items()}
    assert set(tensors) != set(load_file(folder / "model.safetensors"))
    save_file(tensors, to / "model.safetensors", {"format": "pt"})
    return to


def logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.clone()


def edited_logits(model: PreTrainedModel, edit: Edit) -> Tensor:
    with VirtualEdits(model, edit.writers) as edits:
        edits.use(edit)
        return logits(model)


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("model_type", ["mistral3", "qwen2_5_vl", "kimi_k25"])
def test_a_run_saves_model_and_adapter_for_the_image_text_class(
    model_type: str, small: list[str], elsewhere: Path
) -> None:
    original = image_text_folder(model_type, elsewhere / "model")
    words = ["model", *small[1:], "--run-dir=run", "--yes", "--save=out", "--adapter=adapter"]
    assert main(words) == 0
    number = json.loads((elsewhere / "run" / "result.json").read_text())["chosen"]["trial"]
    edit = RunDirectory(elsewhere / "run").edit(number)
    assert all(".language_model.layers." in name for name in edit.writers)
    expected = edited_logits(original, edit)
    torch.testing.assert_close(logits(loaded(elsewhere / "out")), expected, atol=1e-4, rtol=1e-4)
    adapted = PeftModel.from_pretrained(loaded(elsewhere / "model"), str(elsewhere / "adapter"))
    torch.testing.assert_close(logits(adapted.eval()), expected, atol=1e-4, rtol=1e-4)

    before = load_file(elsewhere / "model" / "model.safetensors")
    after = load_file(elsewhere / "out" / "model.safetensors")
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("language_model" in one or one.startswith("model.layers.") for one in changed)
    for name in ("config.json", "preprocessor_config.json"):
        one = elsewhere / "model" / name
        assert (elsewhere / "out" / name).read_bytes() == one.read_bytes()


@pytest.mark.parametrize("model_type", sorted(OLD_NAMES))
def test_every_spelling_of_the_names_is_saved_from_files(model_type: str, tmp_path: Path) -> None:
    model = image_text_folder(model_type, tmp_path / "model")
    edit = random_edit(examine(model))
    expected = edited_logits(model, edit)
    other = respelt(model_type, tmp_path / "model", tmp_path / "other")
    for folder in (tmp_path / "model", other):
        out, adapter = folder.with_suffix(".out"), folder.with_suffix(".adapter")
        write_edited(edit, folder, out)
        assert (
            load_file(out / "model.safetensors").keys()
            == load_file(folder / "model.safetensors").keys()
        )
        torch.testing.assert_close(logits(loaded(out)), expected, atol=1e-4, rtol=1e-4)
        edit.to_peft(adapter, folder, force=True)
        adapted = PeftModel.from_pretrained(loaded(folder), str(adapter)).eval()
        torch.testing.assert_close(logits(adapted), expected, atol=1e-4, rtol=1e-4)


def test_an_edit_fits_the_class_of_the_language_model_alone_and_its_gguf_file(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published model is an image-text one, its GGUF file holds a llama under llama's names."""
    packed.write_gguf(elsewhere / "m.gguf", gguf.GGMLQuantizationType.F32)
    config = AutoConfig.from_pretrained(elsewhere, gguf_file="m.gguf")
    anatomy = examine(AutoModelForCausalLM.from_config(config))
    edit = random_edit(anatomy)
    there = tuple(name.replace("model.", "model.language_model.") for name in edit.writers)
    edit.save(elsewhere / "text.safetensors")
    dataclasses.replace(edit, writers=there).save(elsewhere / "whole.safetensors")
    for name in ("text", "whole"):
        words = ["apply", f"{name}.safetensors", "m.gguf", f"{name}.gguf", "--force"]
        assert main(words) == 0
    assert (elsewhere / "text.gguf").read_bytes() == (elsewhere / "whole.gguf").read_bytes()
    assert (elsewhere / "text.gguf").read_bytes() != (elsewhere / "m.gguf").read_bytes()
    elsewhere_in_it = tuple(f"model.vision_tower.{one}" for one in ("a", "b"))
    dataclasses.replace(edit, writers=(*elsewhere_in_it, *there[2:])).save(
        elsewhere / "no.safetensors"
    )
    assert main(["apply", "no.safetensors", "m.gguf", "no.gguf", "--force"]) == 2
    assert "has no writer" in capsys.readouterr().err


@pytest.mark.parametrize("model_type", ["qwen3_5", "llama4"])
def test_the_class_that_the_checkpoint_names_decides_between_two(
    model_type: str, tmp_path: Path
) -> None:
    """Adapters and edits go by that one's names; users of the checkpoint load it by that class."""
    tiny(model_type).save_pretrained(tmp_path / "text")
    whole = AutoModelForImageTextToText.from_config(tiny_config(model_type))
    whole.save_pretrained(tmp_path / "whole")
    for name, auto in (("text", "AutoModelForCausalLM"), ("whole", "AutoModelForImageTextToText")):
        config = tiny_config(model_type).from_pretrained(tmp_path / name)
        assert auto_class(name, config).__name__ == auto


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json", None])
def test_chat_templates_of_processors(name: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    image_text_folder("llava", folder)
    (folder / "chat_template.jinja").unlink()
    if name is None:
        with pytest.raises(ModelError, match="no chat template; give a Jinja file"):
            load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))
        return
    (folder / name).write_text(json.dumps({"chat_template": TEMPLATE}))
    assert (
        load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).tokenizer.chat_template
        == TEMPLATE
    )
    (folder / name).write_text('{"chat_template": ')
    with pytest.raises(ModelError, match=f"{name}: damaged"):
        load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("t5gemma2", "is an encoder-decoder"),
        ("pi0", "answers with robot actions"),
        ("clip", "no language model of the type clip that is causal, image-text or any-to-any"),
    ],
)
def test_what_cannot_be_edited_is_said_in_one_line(model_type: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        auto_class("somebody/model", CONFIG_MAPPING[model_type]())
    assert "\n" not in str(caught.value)
