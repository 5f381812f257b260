"""Draw docs/images/run.svg, a picture of the recorded run in docs/start/demo-run.md: run this script.

The lines are those of the recording. The picture leaves some out, which "…" marks, and cuts what a trial's
line says about time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "docs" / "start" / "demo-run.md"
PICTURE = ROOT / "docs" / "images" / "run.svg"

WIDTH = 100
_TRIALS = 6
"""Trials that are shown."""
_LABELS = ("model", "layers", "target", "control", "baseline", "direction", "chosen", "saved")
_OF_TIME = re.compile(r" · \d+(\.\d+)? s · elapsed.*")
_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>A run of excise in a terminal</title>
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", "Liberation Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
  font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(recording: str) -> str:
    """The picture as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ make demo", "bold"))
    for line in chosen_lines(recording.splitlines()):
        console.print(_styled(line), no_wrap=True, overflow="ellipsis", crop=True)
    return console.export_svg(
        title="excise", theme=MONOKAI, code_format=_FORMAT, unique_id="run", font_aspect_ratio=0.602
    )


def chosen_lines(recorded: list[str]) -> Iterator[str]:
    """The lines of the recording that the picture shows."""
    trials = 0
    report = False
    for line in recorded:
        label = line.split(" ", 1)[0]
        if re.match(r"Trial \d+ on held-out prompts", line):
            report = True
        if report:
            yield line.rstrip()
            report = not line.startswith("└")
        elif line.startswith("trial "):
            trials += 1
            if trials <= _TRIALS:
                yield _OF_TIME.sub("", line)
            elif trials == _TRIALS + 1:
                yield "…"
        elif label in _LABELS and "held-out prompts)" not in line:
            yield line


def _styled(line: str) -> Text:
    text = Text(line)
    label = re.match(r"[a-z]+( \d+)?(?=  )", line)
    if label:
        text.stylize("cyan", *label.span())
    for pattern, style in (
        (r"≥?\d+/\d+ (?:target prompts )?refused", "bold"),
        (r"KL \d+\.\d+", "yellow"),
        (r"coverage \d\.\d+", "green"),
        (r"[┏┓┗┛┡┩┃│└┘├┤━─┴┼╇┳┬]+", "dim"),
    ):
        text.highlight_regex(pattern, style)
    return text


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(RECORDING.read_text(encoding="utf-8")), encoding="utf-8")
