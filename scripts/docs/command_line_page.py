"""The page of the command line: what `excise --help` and `excise COMMAND --help` print."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points

_COMMAND = re.compile(
    r"^ {2,4}(?:excise (?![A-Z]))?(?!excise)(?P<name>[a-z]+)(?: {2,}| [A-Z[])", re.MULTILINE
)
"""A command in the help text: `  excise show EDIT` or `    show  Print …`."""
_COLUMNS = "82"
"""Width of the help texts: what fits beside the table of contents."""
_INTRODUCTION = """\
# Command line

This page is what `excise --help` and `excise COMMAND --help` print. The site's build makes it from the
program. A flag under a heading is also an environment variable and a key of `excise.toml`: see
[Settings](settings.md).

Exit status: 0 done; 2 a mistake that one line on standard error explains; 130 interrupted.
`excise reproduce` also returns 3 and 4: see [Reproduce a model](../guides/reproduce.md).
"""


def command_line_page() -> str:
    """The page, as Markdown."""
    top = _printed(["--help"])
    names = list(dict.fromkeys(match["name"] for match in _COMMAND.finditer(top)))
    if not names:
        raise RuntimeError("no command found in the output of excise --help")
    parts = [_INTRODUCTION, _section("excise", top)]
    parts += [_section(f"excise {name}", _printed([name, "--help"])) for name in names]
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def _printed(arguments: Sequence[str]) -> str:
    """What the installed command prints. Raises RuntimeError if it fails."""
    (script,) = entry_points(group="console_scripts", name="excise")
    os.environ["COLUMNS"] = _COLUMNS
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            status = script.load()(list(arguments))
        except SystemExit as end:
            status = end.code
    if status:
        raise RuntimeError(f"excise {' '.join(arguments)} ended with status {status}")
    return output.getvalue()
