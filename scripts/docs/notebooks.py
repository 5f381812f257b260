"""Notebooks in percent format: run their cells, keep what they show, make pages of both.

`python scripts/docs/notebooks.py [NAME …]` runs the notebooks of examples/ and writes what they show into
examples/outputs/. The documentation site shows it below the cells (hooks.py), so building the site runs no
model. jupytext and nbclient would bring a Jupyter kernel for the same.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OUTPUTS = EXAMPLES / "outputs"

_MARKER = re.compile(r"^# %%(?P<markdown> \[markdown\])?$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell. text: Markdown without the comment signs, or Python."""

    markdown: bool
    text: str
    line: int


@dataclass(frozen=True)
class Shown:
    """What a cell shows. text: printed, with the value of its last expression. figures: as PNG files."""

    text: str
    figures: tuple[bytes, ...]


def cells_of(source: str) -> list[Cell]:
    """The cells of a notebook. Raises ValueError if something stands before the first of them."""
    marks = list(_MARKER.finditer(source))
    if not marks or source[: marks[0].start()].strip():
        raise ValueError("a notebook begins with a line '# %%'")
    ends = [mark.start() for mark in marks[1:]] + [len(source)]
    cells = []
    for mark, end in zip(marks, ends, strict=True):
        text = source[mark.end() : end].strip("\n")
        if mark["markdown"]:
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        cells.append(Cell(bool(mark["markdown"]), text, source[: mark.end()].count("\n") + 2))
    return cells


def digest(source: str) -> str:
    """A digest of the code, however it is formatted: outputs of other code are stale."""
    code = ast.unparse(ast.parse(source))
    return hashlib.sha256(code.encode()).hexdigest()


def run(path: Path, names: dict[str, object]) -> Iterator[Shown]:
    """Run the cells of code one after the other in `names`, and give what each shows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    for cell in cells_of(path.read_text(encoding="utf-8")):
        if cell.markdown:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            _execute(cell, str(path), names)
        figures = []
        for number in pyplot.get_fignums():
            file = io.BytesIO()
            pyplot.figure(number).savefig(file, format="png", dpi=100, metadata={"Software": None})
            figures.append(file.getvalue())
        pyplot.close("all")
        yield Shown(printed.getvalue().rstrip("\n"), tuple(figures))


def _execute(cell: Cell, where: str, names: dict[str, object]) -> None:
    """Run a cell; print the value of its last statement if that is an expression, as a notebook does."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.text, where)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    exec(compile(tree, where, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), where, "eval"), names)
        if value is not None:
            print(value)


def write_outputs(name: str, shown: Sequence[Shown]) -> None:
    """Keep what a notebook showed: one JSON file, and a PNG file for each figure."""
    OUTPUTS.mkdir(exist_ok=True)
    for old in OUTPUTS.glob(f"{name}-*.png"):
        old.unlink()
    cells = []
    for number, one in enumerate(shown, 1):
        figures = [f"{name}-{number}-{figure}.png" for figure in range(1, len(one.figures) + 1)]
        for file, data in zip(figures, one.figures, strict=True):
            (OUTPUTS / file).write_bytes(data)
        cells.append({"text": one.text, "figures": figures})
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    content = json.dumps({"code": digest(source), "cells": cells}, indent=1, ensure_ascii=False)
    (OUTPUTS / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def page(name: str) -> str:
    """The page of a notebook. Raises ValueError if its outputs are those of other code."""
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    outputs = json.loads((OUTPUTS / f"{name}.json").read_text(encoding="utf-8"))
    if outputs["code"] != digest(source):
        raise ValueError(
            f"examples/{name}.py has changed; run python scripts/docs/notebooks.py {name}"
        )
    shown = iter(outputs["cells"])
    parts = []
    for cell in cells_of(source):
        if cell.markdown:
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        one = next(shown)
        if one["text"]:
            parts.append(f"```text\n{one['text']}\n```")
        parts += [f"![Figure](outputs/{file})" for file in one["figures"]]
    parts.append(f"The notebook is `examples/{name}.py` in the repository.")
    return "\n\n".join(parts) + "\n"


def main(names: Sequence[str]) -> None:
    """Run the notebooks, all of them without names, each in a folder of its own."""
    for name in names or sorted(path.stem for path in EXAMPLES.glob("*.py")):
        print(name, file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            shown = list(run(EXAMPLES / f"{name}.py", {"__name__": "__main__"}))
        write_outputs(name, shown)


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    main(sys.argv[1:])
