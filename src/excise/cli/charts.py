"""Bar charts of block characters."""

from __future__ import annotations

from collections.abc import Sequence

_LEVELS = " ▁▂▃▄▅▆▇█"
_ROWS = 4


def bars(values: Sequence[float], top: float) -> list[str]:
    """Four rows of text, top row first, with one column for each value and 32 steps from 0 to `top`.

    Every non-zero value is visible. A negative value has the bar of its absolute value.
    """
    steps = len(_LEVELS) - 1
    heights = [_height(abs(value) / top if top else 0.0, _ROWS * steps) for value in values]
    return [
        "".join(_LEVELS[min(max(height - row * steps, 0), steps)] for height in heights)
        for row in reversed(range(_ROWS))
    ]


def _height(share: float, whole: int) -> int:
    return min(whole, max(round(share * whole), 1 if share else 0))


def layer_chart(layers: Sequence[int], values: Sequence[float], top: float) -> str:
    """A bar chart with `top` and 0 at the left, first and last layer below."""
    width = layers[-1] - layers[0] + 1
    columns = [0.0] * width
    for layer, value in zip(layers, values, strict=True):
        columns[layer - layers[0]] = value
    labels = [f"{top:.2f}", *[""] * (_ROWS - 2), "0.00"]
    lines = [f"{label:>6} │{line}" for label, line in zip(labels, bars(columns, top), strict=True)]
    first, last = f"{layers[0]}", f"{layers[-1]}"
    gap = " " * (width - len(first) - len(last))
    below = f"{first}{gap}{last}" if gap else first
    return "\n".join([*lines, f"{'':>6} └{'─' * width}", f"{'':>8}{below}"])
