"""`excise diff`: two checkpoints compared, and what made the difference."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import excise
from excise.checkpoint_diff.difference import Diff, TensorChange, WriterChange, shared_directions
from excise.cli.charts import layer_chart
from excise.cli.human import plural
from excise.cli.screen import make_console, write_json
from excise.config import gather
from excise.errors import listed
from excise.kinds import FACTS
from excise.report.profile import place
from excise.system.files import require_free
from excise.system.paths import expanded

_NAMED = 8


@dataclass(frozen=True)
class _Results:
    """Where to write what comes out, if anywhere."""

    undo: Path | None
    edit: Path | None


def diff(
    words: tuple[str, str],
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    *,
    undo: str | None,
    edit: str | None,
) -> int:
    """Compare the checkpoints A and B. Returns the exit status."""
    settings = gather({"model": words[0], **flags}, environment, None)
    wanted = _Results(expanded(undo) if undo else None, expanded(edit) if edit else None)
    for path in (wanted.undo, wanted.edit):
        if path is not None:
            require_free(path)
    console = make_console(to_errors=settings.json_lines)
    with console.status("comparing") as status:
        found = excise.diff(
            *words,
            revision=settings.revision,
            writers=settings.writers,
            trust_remote_code=settings.trust_remote_code,
            progress=lambda name, done, of: status.update(f"comparing {done + 1} of {of}: {name}"),
        )
    if settings.json_lines:
        write_json(_as_json(found), indent=1)
    else:
        _show(console, found)
    if wanted.edit is not None:
        found.edit().save(wanted.edit)
        console.print(f"saved the edit to {wanted.edit}")
    if wanted.undo is not None:
        found.save_undo(wanted.undo)
        console.print(f"saved the adapter that undoes it to {wanted.undo}")
    return 0


def _as_json(diff: Diff) -> dict[str, object]:
    """All that was found; directions as plain numbers."""
    groups = shared_directions(diff.writers)
    group_of = {one.writer: number for number, group in enumerate(groups) for one in group}
    return {
        "first": diff.first.name,
        "second": diff.second.name,
        "identical": diff.identical,
        "same": diff.same,
        "only_first": diff.names.only_first,
        "only_second": diff.names.only_second,
        "renamed": diff.names.renamed,
        "reshaped": diff.names.reshaped,
        "retyped": diff.names.retyped,
        "changed": [
            {
                "name": one.name,
                "former": one.former,
                "dtypes": one.dtypes,
                "shape": one.shape,
                "relative": one.relative if math.isfinite(one.relative) else None,
                "largest": one.largest if math.isfinite(one.largest) else None,
                "share": one.share,
                "rank": one.rank,
                "rank_is_a_lower_bound": one.more,
                "matrices": [
                    {"rank": each.rank, "largest": each.largest, "noise": each.noise}
                    for each in one.matrices
                ],
            }
            for one in diff.changed
        ],
        "writers": [
            {
                "name": one.writer,
                "kind": one.operator.kind,
                "strength": one.operator.strength,
                "doubt": one.operator.doubt,
                "any_change_has_this_form": one.operator.trivial,
                "outside": one.operator.outside,
                "per_matrix": one.operator.per_matrix,
                "biases": one.biases,
                "direction": group_of[one.writer],
                "u": one.operator.u.tolist(),
                "v": one.operator.v.tolist(),
            }
            for one in diff.writers
        ],
    }


def _show(console: Console, diff: Diff) -> None:
    names = diff.names
    for what, found in (
        ("only in the first", names.only_first),
        ("only in the second", names.only_second),
        ("renamed", [f"{old} → {new}" for old, new in names.renamed.items()]),
        ("of another type", [f"{name} {a} → {b}" for name, (a, b) in names.retyped.items()]),
        ("of another shape", [f"{name} {a} → {b}" for name, (a, b) in names.reshaped.items()]),
    ):
        if found:
            console.print(Text(f"{what}: {listed(found, _NAMED)}", "yellow"))
    if diff.changed:
        console.print(_table(diff.changed))
    console.print(f"{plural(diff.same, 'tensor')} the same, {len(diff.changed)} changed")
    if diff.changed and diff.why_not:
        console.print(Text(f"edits are not looked for: {diff.why_not}", "yellow"))
    if diff.writers:
        _show_operators(console, diff)
    console.print(Text(_verdict(diff), "bold"))


def _table(changed: Sequence[TensorChange]) -> Table:
    """One row for all tensors whose names differ in numbers only."""
    groups: dict[tuple[str, tuple[str, str]], list[TensorChange]] = {}
    for one in changed:
        groups.setdefault((re.sub(r"\d+", "*", one.name), one.dtypes), []).append(one)
    table = Table(title="Changed tensors", title_justify="left")
    table.add_column("tensor", overflow="fold")
    for heading in ("", "type", "relative norm", "largest", "numbers", "rank"):
        table.add_column(heading, justify="right")
    for (name, dtypes), group in groups.items():
        types = dtypes[0] if dtypes[0] == dtypes[1] else " → ".join(dtypes)
        table.add_row(
            group[0].name if len(group) == 1 else name,
            "" if len(group) == 1 else f"×{len(group)}",
            types,
            _span([one.relative for one in group]),
            f"{max(one.largest for one in group):.2g}",
            _span([100 * one.share for one in group]) + " %",
            _ranks(group),
        )
    return table


def _ranks(group: Sequence[TensorChange]) -> str:
    ranks = [one.rank for one in group if one.rank is not None]
    if not ranks:
        return ""
    if all(one.full for one in group):
        return f"full ({max(ranks)})"
    low, high = min(ranks), max(ranks)
    text = str(low) if low == high else f"{low} to {high}"
    return f"{text} or more" if any(one.more for one in group) else text


def _show_operators(console: Console, diff: Diff) -> None:
    by_component: dict[str, list[WriterChange]] = {}
    for one in diff.writers:
        by_component.setdefault(place(one.writer)[1], []).append(one)
    console.print(Text("Edits of writers, W' = W − α u (vᵀ W)", "bold"))
    for component, found in by_component.items():
        found = sorted(found, key=lambda one: place(one.writer)[0])
        kinds = dict.fromkeys(one.operator.kind for one in found)
        told = "; ".join(f"{kind} ({FACTS[kind].text})" for kind in kinds)
        console.print(f"  {component}: {told}")
        strengths = [one.operator.strength for one in found]
        top = max(1.0, *map(abs, strengths))
        layers = [place(one.writer)[0] for one in found]
        doubt = max(one.operator.doubt for one in found)
        beside = f", each known to ± {doubt:.2g}" if doubt else ""
        console.print(f"  strengths α {_span(strengths)}{beside}")
        if any(one.operator.trivial for one in found):
            console.print(
                "  these matrices have no more columns than rows, so that any change of rank 1 has this form"
            )
        if len(set(layers)) == len(layers):
            console.print(layer_chart(layers, [abs(value) for value in strengths], top))
    groups = shared_directions(diff.writers)
    sizes = sorted(map(len, groups), reverse=True)
    if len(groups) == 1 and sizes[0] > 1:
        console.print(f"One direction is shared by all {sizes[0]} of them.")
    elif sizes[0] > 1:
        shared = ", ".join(str(size) for size in sizes if size > 1)
        alone = sizes.count(1)
        console.print(
            f"{len(groups)} directions: shared by {shared} writers"
            + (f"; {alone} of their own" if alone else "")
        )
    else:
        console.print("Each has a direction of its own.")
    strayed = [one.writer for one in diff.writers if one.biases is False]
    if strayed:
        console.print(f"Biases were not edited with their matrices: {listed(strayed, _NAMED)}")


def _verdict(diff: Diff) -> str:
    moved, others = diff.moved, diff.unexplained
    if diff.identical:
        return "The same, number by number."
    if not moved:
        return "Nothing differs by more than rounding." if diff.changed else "No number differs."
    if not others:
        return (
            "An edit of writers explains every change: --undo DIR undoes it, --edit FILE keeps it."
        )
    ranks = [one.rank for one in others if one.rank is not None]
    if len(ranks) == len(others) and all(
        each.factors is not None or not each.rank for one in others for each in one.matrices
    ):
        return f"Changes of low rank (at most {max(ranks)}), such as a merged LoRA."
    rest = f"{len(others)} of {plural(len(moved), 'change')}"
    return f"{rest} are not edits of writers, and not of low rank: as training leaves them."


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
