"""Draw docs/images/rooms.svg, the rooms of the code and the path of a prompt: run this script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "rooms.svg"

ROOMS = (
    (("cli",), "parse the command line, call, render; nothing else prints"),
    (("app", "demo"), "one run from settings: stages, choosing, saving · the built-in model"),
    (
        ("hub", "saving", "report", "checkpoint_diff", "reproduce"),
        "uploads · an edit written out · cards and plots · two checkpoints compared · reproduce.json",
    ),
    (("config",), "settings from flags, environment and excise.toml"),
    (
        ("experiment",),
        "model + prompts → coverage, statistics, edits, scores; no disk, no settings",
    ),
    (("store",), "a run directory: lock, journal, record, edits"),
    (
        ("search", "benchmarks", "testing"),
        "space, proposals, loop, front · lm-evaluation-harness · a suite for authors of scorers",
    ),
    (("scorers",), "verdicts and costs"),
    (("judges",), "does an answer show the behaviour?"),
    (("rewrite", "edits"), "weight files rewritten · edit file, virtual edit, adapter"),
    (("models", "operators"), "loading, chat, weights in memory · statistics → (u, v)"),
    (
        ("anatomy", "checkpoint"),
        "layers, writers and their tensors · files on disk: names, headers, downloads",
    ),
    (
        ("prompts", "hub_access"),
        "sets, files, splits, hub data sets · requests, cache and failures of the hub",
    ),
    (("engine", "devices"), "forward passes, decoding, scheduling · where tensors lie, memory"),
    (
        ("events", "kinds", "system", "errors"),
        "base classes and tables · files, locks, paths · errors",
    ),
)
"""The rooms from top to bottom, those of one line side by side, and what they are for."""

WAY_DOWN = (
    ("cli", "1  excise MODEL --target …"),
    ("app", "2  settings; run opened"),
    ("experiment", "3  statistics of the prompts"),
    ("search", "4  a candidate is proposed"),
    ("edits", "5  hooks edit each writer"),
    ("engine", "6  the prompt is decoded"),
)
WAY_UP = (
    ("judges", "7  the answer is judged"),
    ("search", "8  the study gets the trial"),
    ("store", "9  the journal stores it"),
    ("app", "10  the held-out report"),
    ("cli", "11  table, progress, JSON"),
)
"""The path of a prompt, from the command line to a verdict and back: where, and what happens."""

_HEIGHT, _GAP, _TOP = 46, 8, 64
_LEFT, _MIDDLE, _RIGHT = 250, 640, 250
_MARGIN = 16
_WIDTH = _LEFT + _MIDDLE + _RIGHT + 4 * _MARGIN
_DOWN, _UP = "#1565c0", "#b3541e"


def picture() -> str:
    """The picture as SVG."""
    height = _y(len(ROOMS)) + _MARGIN - _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" font-size="13">',
        "<title>The rooms of the code and the path of a prompt</title>",
        '<defs><marker id="down" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{_DOWN}"/></marker>'
        '<marker id="up" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{_UP}"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        _text(_MARGIN, 24, "The path of a prompt: down", _DOWN, bold=True),
        _text(
            2 * _MARGIN + _LEFT, 24, "Rooms: each imports only rooms below it", "#222222", bold=True
        ),
        _text(3 * _MARGIN + _LEFT + _MIDDLE, 24, "… and its verdict: up", _UP, bold=True),
    ]
    parts += [_room(row, names, what) for row, (names, what) in enumerate(ROOMS)]
    parts += _way(WAY_DOWN, _MARGIN, _LEFT, _DOWN, "down")
    parts += _way(WAY_UP, 3 * _MARGIN + _LEFT + _MIDDLE, _RIGHT, _UP, "up")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _y(row: int) -> int:
    return _TOP - 24 + row * (_HEIGHT + _GAP)


def _row(room: str) -> int:
    return next(row for row, (names, _) in enumerate(ROOMS) if room in names)


def _room(row: int, names: tuple[str, ...], what: str) -> str:
    x, y = 2 * _MARGIN + _LEFT, _y(row)
    title = " · ".join(names)
    return (
        f'<rect x="{x}" y="{y}" width="{_MIDDLE}" height="{_HEIGHT}" rx="5" fill="#eef2f6" stroke="#9fb0c0"/>'
        + _text(x + 12, y + 19, title, "#111111", bold=True)
        + _text(x + 12, y + 37, what, "#444444")
    )


def _way(steps: Sequence[tuple[str, str]], x: int, width: int, colour: str, name: str) -> list[str]:
    """The steps at one side, each level with its room, and arrows from one to the next."""
    parts: list[str] = []
    centres = [_y(_row(room)) + _HEIGHT // 2 for room, _ in steps]
    for (_, text), centre in zip(steps, centres, strict=True):
        parts.append(
            f'<rect x="{x}" y="{centre - 14}" width="{width}" height="28" rx="14" fill="#ffffff" '
            f'stroke="{colour}"/>' + _text(x + 12, centre + 5, text, colour)
        )
    for start, end in pairwise(centres):
        down = end > start
        first, last = (start + 14, end - 15) if down else (start - 14, end + 15)
        middle = x + width // 2
        parts.append(
            f'<path d="M{middle} {first}V{last}" stroke="{colour}" stroke-width="1.5" '
            f'marker-end="url(#{name})"/>'
        )
    return parts


def _text(x: int, y: int, text: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="{colour}"{weight}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
