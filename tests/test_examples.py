"""The notebooks of examples/: they run, and show what their text says."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from test_docs_site import script

notebooks = script("notebooks")
NAMES = sorted(path.stem for path in notebooks.EXAMPLES.glob("*.py"))
ALLOWED = {"excise", "matplotlib", "pandas", "re", "torch", "transformers"}
"""What notebooks import; of excise only the public names."""


def over_refusal(names: dict[str, Any]) -> None:
    """Refusals fall on prompts that nothing was fitted to; leaving the edit restores the model."""
    baseline, held_out = names["experiment"].baseline, names["held_out"]
    assert min(names["experiment"].coverage.per_layer) > 0.999
    assert baseline.refusals.low > 0.6
    assert held_out.refusals.high < baseline.refusals.low
    assert held_out.control_refusals.count <= 1
    assert held_out.kl.mean < 0.5
    assert torch.equal(names["logits_before"], names["logits_after"])
    assert not torch.equal(names["logits_before"], names["logits_edited"])
    assert torch.equal(names["again"].strengths, names["edit"].strengths)
    assert Path("adapter/adapter_model.safetensors").exists()


def direction(names: dict[str, Any]) -> None:
    """Some layer separates the prompts; pushing along the direction adds and takes away refusals."""
    directions = names["directions"]
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    assert names["separation"].max() > 2
    share, strengths = names["share"], names["strengths"]
    off, removed, amplified = (strengths.index(one) for one in (0.0, 1.0, -1.0))
    assert share["target"][removed] < share["target"][off] - 0.5
    assert share["control"][amplified] > share["control"][off] + 0.5


def purple_prose(names: dict[str, Any]) -> None:
    """Markers get fewer, and so do stock words by the notebook's own score."""
    baseline, table = names["experiment"].baseline, names["table"]
    assert names["study"].best("fewest").refusals < baseline.refusals.count
    assert table["stock"][names["fewest"]] < table["stock"]["original"] / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "figures"), [(over_refusal, 1), (direction, 4), (purple_prose, 1)]
)
def test_a_notebook_shows_what_it_says(
    check: Callable[[dict[str, Any]], None],
    figures: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = list(notebooks.run(notebooks.EXAMPLES / f"{check.__name__}.py", names))
    check(names)
    assert sum(len(one.figures) for one in shown) == figures
    assert all(figure.startswith(b"\x89PNG") for one in shown for figure in one.figures)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_the_public_interface_only(name: str) -> None:
    tree = ast.parse((notebooks.EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {one.name.split(".")[0] for one in node.names} <= ALLOWED
            assert not [one.name for one in node.names if one.name.startswith("excise.")]
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] in ALLOWED - {"excise"}
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_outputs_of_the_code_as_it_is(name: str) -> None:
    page = notebooks.page(name)
    shown = [part for part in page.split("\n\n") if part.startswith("![")]
    files = {part.partition("(outputs/")[2][:-1] for part in shown}
    assert files == {path.name for path in notebooks.OUTPUTS.glob(f"{name}-*.png")}
    assert page.startswith("# ")


def test_cells_and_their_values(tmp_path: Path) -> None:
    path = tmp_path / "notebook.py"
    path.write_text("# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\na + 1\n\n# %%\na = 3\n")
    first, *code = notebooks.cells_of(path.read_text())
    assert (first.markdown, first.text) == (True, "# Title\n\ntext")
    assert [(one.text, one.line) for one in code] == [("a = 1\na + 1", 7), ("a = 3", 11)]
    names: dict[str, Any] = {}
    assert [one.text for one in notebooks.run(path, names)] == ["2", ""]
    assert names["a"] == 3
    with pytest.raises(ValueError, match="begins with a line"):
        notebooks.cells_of("import os\n# %%\n")
