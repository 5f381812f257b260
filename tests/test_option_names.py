"""Messages of the library name an option for Python and the command line: `force (--force)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import excise

SOURCE = Path(excise.__file__).parent
OF_COMMANDS = {"app", "cli", "config", "hub", "report"}
"""Rooms whose messages only users of the command line see."""
OF_VLLM = "edits/served.py"
FLAG = re.compile(r"--[a-z]")
COMMAND = re.compile(r"`[^`]*`")
OPTION = re.compile(r"(\w+)(?:=\w+)? \([^()]*--[a-z][^()]*\)")


def texts(path: Path) -> Iterator[str]:
    """The texts in a module that name a flag, without docstrings; X stands for an inserted value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr | ast.JoinedStr)
        for child in ast.iter_child_nodes(node)
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in passed:
            text = str(node.value)
        if FLAG.search(text):
            yield text


def test_a_message_names_an_option_for_python_and_the_command_line() -> None:
    # Every name of the public interface, see test_api.py.
    known = set(re.findall(r"\w+", Path(__file__).with_name("api.txt").read_text("utf-8")))
    seen = 0
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if name.partition("/")[0] in OF_COMMANDS or name == OF_VLLM:
            continue
        for text in texts(path):
            where = f"{name}: {text}"
            bare = OPTION.sub("", COMMAND.sub("", text))
            assert not FLAG.search(bare), f"a flag without its Python name: {where}"
            for match in OPTION.finditer(text):
                assert match[1] in known, f"{match[1]} is no name of the Python interface: {where}"
                seen += 1
    assert seen > 40
