"""The main job without a question, from the command line to the saved model."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_helpers import json_lines, result
from excise.cli.main import main
from excise.store.directory import FORMAT

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_unattended_run_from_end_to_end(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = tmp_path / "run"
    arguments = [*small, "--run-dir", str(run), "--select", "fewest"]
    saving = ["--save", str(tmp_path / "model"), "--adapter", str(tmp_path / "adapter")]
    assert main([*arguments, *saving]) == 0

    out = capsys.readouterr().out
    for told in ("device ", "coverage 1.000", "baseline", "trial 2", "Pareto front", "knee"):
        assert told in out
    record = result(run)
    assert record["format"] == FORMAT
    assert {"model", "settings_digest", "coverage", "baseline", "trials", "front"} <= record.keys()
    assert set(record["seconds"]) >= {
        "load",
        "directions",
        "baseline",
        "search",
        "held_out",
        "total",
    }
    assert set(record["chosen"]["held_out"]) >= {"refusals", "prompts", "kl", "control_refusals"}
    states = [trial["state"] for trial in record["trials"]]
    assert len(states) == 3
    assert states[0] == "complete"
    assert set(states) <= {"complete", "pruned"}
    for number in record["front"]:
        assert (run / f"edit-{number}.safetensors").is_file()
    assert record["chosen"]["trial"] == record["front"][0]
    assert record["seconds"]["search"] > 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()

    # Again: the run is complete, and says so; the models are there, and that is said before any work.
    assert main([*arguments, *saving]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "A complete run of 3 trials" in out
    assert f"excise export {run}" in out
    again = result(run)
    assert again["trials"] == record["trials"]
    assert again["chosen"] == record["chosen"]
    assert again["seconds"]["search"] > 0


def test_json_is_all_there_is_on_standard_output(
    small: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*small, "--json"]) == 0
    lines = json_lines(capfd.readouterr().out)
    names = [line["event"] for line in lines]
    assert names.count("TrialFinished") == 3
    assert names[-1] == "Note"
    (chosen,) = [line for line in lines if line["event"] == "Chosen"]
    assert chosen["outcome"]["prompts"] == 8
    assert any(Path("runs").glob("*/result.json"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--select", "7"], "--select=7: not on the front"),
        (["--target-train", "missing.txt"], "missing.txt"),
    ],
)
def test_mistakes_found_on_the_way(
    small: list[str], capsys: pytest.CaptureFixture[str], change: list[str], told: str
) -> None:
    assert main([*small, *change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_unknown_model(prompt_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/no/such/model", *prompt_flags]) == 2
    assert capsys.readouterr().err.startswith("excise: /no/such/model: no such folder")


def test_a_run_directory_of_other_settings_is_refused(
    small: list[str], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small, "--seed", "5", "--run-dir", str(finished_run)]) == 2
    assert "seed" in capsys.readouterr().err


def test_a_full_destination_is_told_before_the_work(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert main([*small, "--save", str(tmp_path / "taken")]) == 2
    captured = capsys.readouterr()
    assert "already exists" in captured.err
    assert captured.out == ""


def test_a_partial_edit_has_to_be_asked_for_and_is_on_record(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = [*small, "--writers=mlp.down_proj=none", "--run-dir", str(run)]
    assert main(arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "layer 0 (" in told
    assert "mlp.down_proj; layer 1" in told
    assert "declare the missing writers with writers (--writers PATTERN=COMPONENT)" in told
    assert not (run / "journal.log").exists()

    saved = tmp_path / "model"
    partial = [*arguments, "--allow-partial", "--select", "fewest", "--save", str(saved)]
    assert main(partial) == 0
    assert "the edit is partial: not every writer is covered" in " ".join(
        capsys.readouterr().out.split()
    )
    assert set(result(run)["uncovered"]) == {"0", "1", "2", "3"}
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert "**The edit is partial.** These layers still write the direction: layer 0: " in card


def test_row_normalised_experts_say_how_they_were_searched_and_saved(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import tiny_tokenizer
    from zoo import tiny

    folder, saved = tmp_path / "experts", tmp_path / "model"
    tiny("qwen2_moe").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    arguments = [str(folder), *small[1:], "--kind", "row_normalised", "--select", "fewest"]
    assert main([*arguments, "--run-dir", str(tmp_path / "run"), "--save", str(saved)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "edited, with the orthogonal kind" in told
    card = " ".join((saved / "README.md").read_text(encoding="utf-8").split())
    assert "Each expert was edited with the row-normalised operator of its own matrix" in card


def test_what_no_adapter_can_hold_is_said_before_the_search(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from conftest import tiny_tokenizer
    from zoo import tiny

    for model_type, flag, told in (
        ("gpt_oss", "--adapter", "an adapter cannot hold biases of experts; save the whole model"),
        ("rwkv", "--save", "no change of a stored matrix has the effect of this edit"),
    ):
        folder, run = tmp_path / model_type, tmp_path / f"{model_type}-run"
        tiny(model_type).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        arguments = [str(folder), *small[1:], "--run-dir", str(run), flag, str(tmp_path / "out")]
        assert main(arguments) == 2
        assert told in " ".join(capsys.readouterr().err.split())
        assert not (run / "journal.log").exists()
        assert not (tmp_path / "out").exists()
