"""inspect, evaluate, chat, export, runs, and the settings of the demonstration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli_helpers import Script, json_lines, result
from conftest import tiny_model, tiny_tokenizer
from excise.app.outcome import Comparison
from excise.cli import demo_command
from excise.cli.chat_command import chat
from excise.cli.conversation import Conversation, converse
from excise.cli.demo_command import demo_settings
from excise.cli.main import main
from excise.config import Inputs

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_inspect(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_folder), "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert "32×48" in out
    assert "1.000" in out


def test_inspect_as_json(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model_folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["covered"]
    assert len(shown["layers"]) == 4
    assert [writer["shape"] for writer in shown["layers"][0]["writers"]] == [[32, 32], [32, 48]]


def test_inspect_shows_what_is_not_covered(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Half of the writers taken off the list: their layers still write.
    claim = "--writers=mlp.down_proj=none"
    assert main(["inspect", str(model_folder), claim]) == 0
    assert "layer 0 is not covered; other modules that write: " in capsys.readouterr().out


def test_inspect_from_the_configuration_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model("gemma2, post-norms and sliding window")
    model.config.save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [layer["index"] for layer in shown["layers"]] == [0, 1, 2, 3]
    assert shown["layers"][2]["coverage"] is None
    assert shown["layers"][2]["writers"][1] == {
        "name": "model.layers.2.mlp.down_proj",
        "component": "mlp.down_proj",
        "shape": [32, 48],
        "matrices": 1,
        "post_norm": "model.layers.2.post_feedforward_layernorm",
    }
    assert main(["inspect", str(tmp_path), "--config-only"]) == 0
    assert "Coverage is measured on the weights" in " ".join(capsys.readouterr().out.split())


def test_code_that_comes_with_a_model_is_not_run_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "their_own", "auto_map": {"AutoConfig": "theirs.TheirConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text("raise SystemExit('ran')")
    assert main(["inspect", str(tmp_path), "--config-only"]) == 2
    assert "give trust_remote_code (--trust-remote-code) to run it" in capsys.readouterr().err


def test_evaluate(
    model_folder: Path, prompt_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(model_folder), "--against", str(model_folder), *prompt_flags]
    arguments += ["--max-new-tokens", "4", "--batch-size", "8", "--dtype", "float32"]
    assert main(arguments) == 0
    assert "held-out" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parts"]["held_out"]["kl"] == pytest.approx(0, abs=1e-6)
    assert shown["parts"]["search"]["prompts"] == 8


def test_export_of_the_chosen_trial_carries_its_held_out_figures(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished_run), "--adapter", str(tmp_path / "adapter")]) == 0
    assert "saved" in capsys.readouterr().out
    assert "held-out prompts" in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")


def test_export_of_a_trial_by_number(finished_run: Path, tmp_path: Path) -> None:
    number = str(result(finished_run)["front"][0])
    arguments = ["export", str(finished_run), "--select", number, "--save", str(tmp_path / "model")]
    assert main(arguments) == 0
    assert main(["export", f"{finished_run}:{number}", "--save", str(tmp_path / "named")]) == 0
    first, second = (tmp_path / name / "model.safetensors" for name in ("model", "named"))
    assert first.read_bytes() == second.read_bytes()


def test_export_needs_a_destination_and_a_run(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(finished_run)]) == 2
    assert "--save DIR" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--save", "x"]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_runs(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(finished_run.parent)
    assert main(["runs", root]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["runs", root, "--json"]) == 0
    (run,) = json_lines(capsys.readouterr().out)
    assert (run["trials"], run["remark"]) == (3, "")
    assert main(["runs"]) == 0
    assert "no runs in runs" in capsys.readouterr().out
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{", encoding="utf-8")
    assert main(["runs", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().out


def test_chat_with_a_run_and_with_a_model(
    finished_run: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(str(finished_run), Inputs(), Script("hello", "/quit")) == 0
    assert "with the edit of trial" in capsys.readouterr().out
    number = result(finished_run)["front"][-1]
    assert chat(f"{finished_run}:{number}", Inputs(), Script()) == 0
    assert f"with the edit of trial {number} of" in capsys.readouterr().out
    assert chat(str(model_folder), Inputs(), Script("hello")) == 0
    assert "without an edit" in capsys.readouterr().out


def test_a_conversation_streams_and_remembers() -> None:
    conversation = Conversation(tiny_model(), tiny_tokenizer(), 6)
    written: list[str] = []
    script = Script("", "how do i bake a cake", "try it now")
    converse(conversation, None, script, written.append)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
    assert conversation.messages[1]["content"] in "".join(written)
    assert len(script.questions) == 4


def test_the_demonstration_lies_beneath_what_was_typed(tmp_path: Path) -> None:
    plain = demo_settings(tmp_path, Inputs())
    assert plain.yes
    assert plain.model == str(tmp_path)
    assert plain.target_train is not None
    typed = demo_settings(
        tmp_path,
        Inputs({"trials": "2", "target": "mine.txt", "dtype": "bfloat16", "save": "here"}),
    )
    assert (typed.trials, typed.dtypes, typed.save) == (2, ("bfloat16",), Path("here"))
    assert typed.target_train is None
    assert typed.control_train == plain.control_train


def test_the_demonstration_shows_what_came_of_it(
    model_folder: Path,
    prompt_flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The tiny model in place of the real one, which has nothing to say worth comparing.
    monkeypatch.setattr(demo_command, "cache_folder", lambda: model_folder)
    monkeypatch.setattr(demo_command, "materialise", lambda say: model_folder)
    judge = SimpleNamespace(refused=lambda answer: answer == "original")
    monkeypatch.setattr(demo_command, "KeywordJudge", lambda markers: judge)
    monkeypatch.setattr(
        demo_command,
        "side_by_side",
        lambda runner, edit, prompts, tokens: [
            Comparison(prompt, "original", "edited") for prompt in prompts
        ],
    )
    arguments = [*prompt_flags, "--trials", "3", "--startup-trials", "2", "--max-new-tokens", "4"]
    assert main(["demo", *arguments, "--select", "knee", "--batch-size", "8"]) == 0
    out = capsys.readouterr().out
    for told in ("before and after", "Refused before: ", "/8 held-out", "excise chat runs/demo"):
        assert told in out
    assert out.count("│ edited") == 3
    assert (tmp_path / "runs" / "demo-model" / "model.safetensors").is_file()


def test_a_second_demonstration_saves_beside_the_first(tmp_path: Path) -> None:
    first = demo_settings(tmp_path, Inputs()).save
    assert first is not None
    os.makedirs(first)
    second = demo_settings(tmp_path, Inputs()).save
    assert second == first.with_name(f"{first.name}-2")
