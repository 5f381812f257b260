"""`excise bench`: its stages, its figures and what it leaves behind. No times are asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_helpers import result
from excise.cli.main import main

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

STAGES = ["load", "batch size", "baseline", "directions", "edit", "kl", "refusals"]


@pytest.fixture
def arguments(model_folder: Path, prompt_flags: list[str]) -> list[str]:
    limits = ("--max-new-tokens", "4", "--batch-size", "8", "--dtype", "float32")
    return ["bench", str(model_folder), *prompt_flags, *limits]


def test_one_object_with_every_stage(
    arguments: list[str], tmp_path: Path, finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == STAGES
    peaks = [stage["peak_bytes"]["cpu"] for stage in stages.values()]
    assert peaks[0] > 0
    assert peaks == sorted(peaks)
    for name in ("baseline", "directions", "kl", "refusals"):
        assert stages[name]["tokens"] > 0
        assert stages[name]["tokens_per_second"] > 0
    # The load is not counted, and an edit is made without the model.
    assert stages["load"]["tokens"] == stages["edit"]["tokens"] == 0
    trial = [stages[name]["seconds"] for name in ("edit", "kl", "refusals")]
    assert found["trial_seconds"] == pytest.approx(sum(trial))
    # It scored what a run scores first, and left nothing.
    first = result(finished_run)["trials"][0]
    assert (found["refusals"], found["kl"]) == (first["refusals"], pytest.approx(first["kl"]))
    assert sorted(tmp_path.iterdir()) == before


def test_a_table_for_people(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--kind", "orthogonal", "--trials", "7"]) == 0
    out = capsys.readouterr().out
    for told in ("directions", "KL", "refusals", "seconds", "tokens/s", "peak memory"):
        assert told in out
    assert "7 trials would take about" in " ".join(out.split())


def test_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--save", "model"]) == 2
    assert "excise bench takes no such flag" in capsys.readouterr().err
    assert main(["bench", "/no/such/model", *arguments[2:]]) == 2
    assert capsys.readouterr().err.startswith("excise: /no/such/model: no such folder")
