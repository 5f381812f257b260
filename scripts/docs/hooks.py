"""What mkdocs does besides its own work: generated pages, and formulas as MathML.

The command-line page and the settings page are made from the program while the site is built, so they
cannot differ from it. The pages of the notebooks are made from their code and their kept outputs. Formulas
become MathML, which browsers draw themselves: the site needs no script and no font for them.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

# mkdocs imports hooks by path, outside any package.
sys.path.insert(0, str(Path(__file__).parent))

import notebooks
from command_line_page import command_line_page
from settings_page import settings_page

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in (
        ("reference/command-line.md", command_line_page()),
        ("reference/settings.md", settings_page()),
    ):
        files.append(File.generated(config, name, content=text))
    for path in sorted(notebooks.EXAMPLES.glob("*.py")):
        name = f"examples/{path.stem}.md"
        files.append(File.generated(config, name, content=notebooks.page(path.stem)))
    for path in sorted(notebooks.OUTPUTS.glob("*.png")):
        name = f"examples/outputs/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Replace the formulas of a page, which arithmatex has marked, by MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match["open"] == "[" else "inline"
    formula = convert(html.unescape(match["tex"]).strip(), display=display)
    return f"<{match['tag']}>{formula}</{match['tag']}>"
