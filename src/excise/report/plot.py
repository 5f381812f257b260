"""Plots of an edit over the layers, with matplotlib, which is an optional package."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.report.profile import Profile, profiles
from excise.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")


def require_plots(path: Path) -> None:
    """Raise SaveError unless a plot can be made of `path`'s format."""
    if path.suffix.lower() not in FORMATS:
        raise SaveError(f"--plot {path}: give a name that ends in {' or '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SaveError(
            f"--plot {path}: needs matplotlib, which is not installed (pip install 'excise[plot]')"
        ) from error


def plot_edit(edit: EditValues, title: str, path: Path) -> None:
    """Plot strengths, norms of operators and cosines of neighbouring layers. Raises SaveError."""
    require_plots(path)
    from matplotlib.figure import Figure

    panels: tuple[tuple[str, Callable[[Profile], tuple[list[float], tuple[float, ...]]]], ...] = (
        ("strength α", lambda one: (list(one.layers), one.strengths)),
        ("‖u‖·‖v‖ (1: orthogonal)", lambda one: (list(one.layers), one.norms)),
        ("cosine of u with the next layer's", lambda one: (_between(one.layers), one.cosines)),
    )
    # Not pyplot, which keeps figures and a display in global state.
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes: list[Axes] = list(figure.subplots(len(panels), 1, sharex=True))
    shown = profiles(edit)
    for axis, (label, points) in zip(axes, panels, strict=True):
        for one in shown:
            places, values = points(one)
            axis.plot(places, values, marker=".", label=_label(one, edit.directions))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_title(title)
    axes[0].legend()
    axes[-1].set_xlabel("layer")
    axes[-1].set_ylim(-1.05, 1.05)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150)


def _between(layers: tuple[int, ...]) -> list[float]:
    return [(here + there) / 2 for here, there in pairwise(layers)]


def _label(one: Profile, directions: int) -> str:
    return one.component if directions == 1 else f"{one.component}, direction {one.direction + 1}"
