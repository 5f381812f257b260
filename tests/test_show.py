"""`excise show`: what an edit file says, for people, for machines and as a plot."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import torch

from cli_helpers import result
from excise.cli.charts import bars, layer_chart
from excise.cli.main import main
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.operators.operator import orthogonal, unit
from excise.report.profile import place, profiles

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

LAYERS = 12


def made_edit() -> Edit:
    """Attention grows over the layers, the MLP is off in all but one layer."""
    names = [
        f"model.layers.{layer}.{module}"
        for layer in range(LAYERS)
        for module in ("self_attn.o_proj", "mlp.down_proj")
    ]
    strengths = torch.zeros(len(names))
    strengths[0::2] = torch.linspace(0, 1.2, LAYERS)
    strengths[7] = 0.25
    operator = orthogonal(unit(torch.ones(len(names), 6)))
    return Edit(
        "orthogonal",
        tuple(names),
        operator.u,
        operator.v,
        strengths,
        parameters={"kind": "orthogonal", "residual.scope": "layer"},
        facts={"trial": 7, "refusals": 3, "prompts": 100, "kl": 0.0625, "uncovered": {}},
        base=Base("org/model", "c" * 40, "c" * 40, "0123456789abcdef"),
    )


@pytest.fixture
def edit_file(tmp_path: Path) -> Path:
    made_edit().save(tmp_path / "edit-7.safetensors")
    return tmp_path / "edit-7.safetensors"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def test_an_edit_in_words_and_bars(edit_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, str(edit_file))
    for told in (
        "orthogonal: u = v = r",
        "org/model · revision cccc",
        "index 0123456789abcdef",
        "12 of 24 writers, d = 6",
        "trial 7: 3/100 target prompts refused, KL 0.0625 nats",
        "not measured on held-out prompts",
        "attn.o_proj: highest 1.20 at layer 11",
        "mlp.down_proj: highest 0.25 at layer 3",
        "residual.scope",
    ):
        assert told in out, told
    assert "│         ▂▅█" in out  # the highest row of the chart of attention


def test_a_run_shows_its_chosen_trial_with_intervals(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = result(finished_run)
    out = shown(capsys, str(finished_run))
    chosen = record["chosen"]["trial"]  # type: ignore[index]
    assert f"edit-{chosen}.safetensors" in out
    assert f"Trial {chosen} on held-out prompts" in out
    assert " %)" in out
    other = next((number for number in record["front"] if number != chosen), None)  # type: ignore[attr-defined]
    if other is not None:
        assert "not measured on held-out prompts" in shown(capsys, f"{finished_run}:{other}")


def test_as_json(edit_file: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(shown(capsys, str(edit_file), "--json"))
    assert content["base"]["index"] == "0123456789abcdef"
    assert len(content["writers"]) == 2 * LAYERS
    assert content["writers"][7] == {
        "name": "model.layers.3.mlp.down_proj",
        "layer": 3,
        "component": "mlp.down_proj",
        "strength": 0.25,
        "norm": pytest.approx(1),
        "per_matrix": False,
    }
    of_run = json.loads(shown(capsys, str(finished_run), "--json"))
    assert of_run["settings_digest"] == result(finished_run)["settings_digest"]
    assert of_run["facts"]["held_out"]["edited"]["kl"].keys() == {"mean", "low", "high"}


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_plot(
    edit_file: Path,
    tmp_path: Path,
    name: str,
    begins: bytes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert name in shown(capsys, str(edit_file), "--plot", f"~/{name}")
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_mistakes_are_one_line(
    edit_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    for arguments, told in (
        (["nowhere.safetensors"], "no such edit file or run directory"),
        ([str(edit_file.parent)], "no result in this run directory yet"),
        ([str(edit_file), "--plot", "a.gif"], "ends in .png or .svg"),
    ):
        assert main(["show", *arguments]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["show", str(edit_file), "--plot", "a.png"]) == 2
    error = capsys.readouterr().err
    assert "needs matplotlib, which is not installed (pip install 'excise[plot]')" in error
    assert error.count("\n") == 1


def test_profiles_keep_layers_components_and_angles_apart() -> None:
    attention, mlp = profiles(made_edit())
    assert attention.layers == tuple(range(LAYERS))
    assert mlp.strengths[3] == 0.25
    torch.testing.assert_close(torch.tensor(attention.cosines), torch.ones(LAYERS - 1))
    # Two modules of one component in one layer are not one line.
    names = ("layers.0.self_attn.0.o_proj", "layers.0.self_attn.1.o_proj", "layers.1.conv.out_proj")
    u = unit(torch.eye(3))
    found = profiles(Edit("orthogonal", names * 2, u.repeat(2, 1), u.repeat(2, 1), torch.ones(6)))
    assert [(one.component, one.direction, one.layers) for one in found] == [
        ("attn.o_proj", 0, (0, 1)),
        ("attn.o_proj (self_attn.1.o_proj)", 0, (0,)),
        ("attn.o_proj", 1, (0, 1)),
        ("attn.o_proj (self_attn.1.o_proj)", 1, (0,)),
    ]
    assert found[0].cosines == (0.0,)
    assert place("transformer.h.3.strange") == (3, "strange", "strange")


def test_bars_by_hand() -> None:
    assert bars([0, 1, 0.5, 0.001, -1], 1) == [" █  █", " █  █", " ██ █", " ██▁█"]
    assert layer_chart([2, 4], [1.0, 0.5], 1.0).splitlines() == [
        "  1.00 │█  ",
        "       │█  ",
        "       │█ █",
        "  0.00 │█ █",
        "       └───",
        "        2 4",
    ]
