"""`excise diff`: the differences of two checkpoints, and the edit that explains them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

import excise
from excise.checkpoint_diff.difference import Diff, TensorChange, WriterChange, shared_directions
from excise.cli.charts import layer_chart
from excise.cli.human import plural
from excise.cli.screen import make_console, write_json
from excise.cli.tables import make_table
from excise.config import Inputs
from excise.errors import listed
from excise.kinds import FACTS
from excise.report.profile import place
from excise.system.files import require_free
from excise.system.paths import expanded

_NAMED = 8


def diff(words: tuple[str, str], inputs: Inputs, *, undo: str | None, edit: str | None) -> int:
    """Compare the checkpoints A and B. Returns the exit status."""
    settings = inputs.with_flags(model=words[0]).settings()
    for path in filter(None, (undo, edit)):
        require_free(expanded(path))
    console = make_console(to_errors=settings.json_lines)
    with settings.naming_places(), console.status("comparing") as status:
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
    if edit:
        found.edit().save(edit)
        console.print(f"saved the edit to {expanded(edit)}")
    if undo:
        found.save_undo(undo)
        console.print(f"saved the adapter that undoes it to {expanded(undo)}")
    return 0


def _as_json(diff: Diff) -> dict[str, object]:
    """The whole comparison; directions as lists of numbers."""
    groups = shared_directions(diff.writers)
    group_of = {writer.writer: number for number, group in enumerate(groups) for writer in group}
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
                "name": change.name,
                "former": change.former,
                "dtypes": change.dtypes,
                "shape": change.shape,
                "relative": change.relative if math.isfinite(change.relative) else None,
                "largest": change.largest if math.isfinite(change.largest) else None,
                "share": change.share,
                "rank": change.rank,
                "rank_is_a_lower_bound": change.more,
                "matrices": [
                    {"rank": each.rank, "largest": each.largest, "noise": each.noise}
                    for each in change.matrices
                ],
            }
            for change in diff.changed
        ],
        "writers": [
            {
                "name": writer.writer,
                "kind": writer.operator.kind,
                "strength": writer.operator.strength,
                "doubt": writer.operator.doubt,
                "any_change_has_this_form": writer.operator.trivial,
                "outside": writer.operator.outside,
                "per_matrix": writer.operator.per_matrix,
                "biases": writer.biases,
                "direction": group_of[writer.writer],
                "u": writer.operator.u.tolist(),
                "v": writer.operator.v.tolist(),
            }
            for writer in diff.writers
        ],
    }


def _show(console: Console, diff: Diff) -> None:
    names = diff.names
    for title, found in (
        ("only in the first", names.only_first),
        ("only in the second", names.only_second),
        ("renamed", [f"{old} → {new}" for old, new in names.renamed.items()]),
        ("of another type", [f"{name} {a} → {b}" for name, (a, b) in names.retyped.items()]),
        ("of another shape", [f"{name} {a} → {b}" for name, (a, b) in names.reshaped.items()]),
    ):
        if found:
            console.print(Text(f"{title}: {listed(found, _NAMED)}", "yellow"))
    if diff.changed:
        console.print(_table(diff.changed))
    console.print(f"{plural(diff.same, 'tensor')} the same, {len(diff.changed)} changed")
    if diff.changed and diff.why_not:
        console.print(Text(f"no search for edits: {diff.why_not}", "yellow"))
    if diff.writers:
        _show_operators(console, diff)
    console.print(Text(_verdict(diff), "bold"))


def _table(changed: Sequence[TensorChange]) -> Table:
    """A row for each group of tensors whose names differ only in numbers."""
    groups: dict[tuple[str, tuple[str, str]], list[TensorChange]] = {}
    for change in changed:
        groups.setdefault((re.sub(r"\d+", "*", change.name), change.dtypes), []).append(change)
    headings = ("", "type", "relative norm", "largest change", "numbers changed", "rank")
    table = make_table("tensor", *headings, numbers=headings, title="Changed tensors")
    table.columns[0].overflow = "fold"
    for (name, dtypes), group in groups.items():
        types = dtypes[0] if dtypes[0] == dtypes[1] else " → ".join(dtypes)
        table.add_row(
            group[0].name if len(group) == 1 else name,
            "" if len(group) == 1 else f"×{len(group)}",
            types,
            _span([change.relative for change in group]),
            f"{max(change.largest for change in group):.2g}",
            _span([100 * change.share for change in group]) + " %",
            _ranks(group),
        )
    return table


def _ranks(group: Sequence[TensorChange]) -> str:
    ranks = [change.rank for change in group if change.rank is not None]
    if not ranks:
        return ""
    if all(change.full for change in group):
        return f"full ({max(ranks)})"
    low, high = min(ranks), max(ranks)
    text = str(low) if low == high else f"{low} to {high}"
    return f"{text} or more" if any(change.more for change in group) else text


def _show_operators(console: Console, diff: Diff) -> None:
    by_component: dict[str, list[WriterChange]] = {}
    for writer in diff.writers:
        by_component.setdefault(place(writer.writer)[1], []).append(writer)
    console.print(Text("Edits of writers, W' = W − α u (vᵀ W)", "bold"))
    for component, found in by_component.items():
        found = sorted(found, key=lambda writer: place(writer.writer)[0])
        kinds = dict.fromkeys(writer.operator.kind for writer in found)
        kinds_text = "; ".join(f"{kind} ({FACTS[kind].text})" for kind in kinds)
        console.print(f"  {component}: {kinds_text}")
        strengths = [writer.operator.strength for writer in found]
        top = max(1.0, *map(abs, strengths))
        layers = [place(writer.writer)[0] for writer in found]
        doubt = max(writer.operator.doubt for writer in found)
        error = f", each known to ± {doubt:.2g}" if doubt else ""
        console.print(f"  strengths α {_span(strengths)}{error}")
        if any(writer.operator.trivial for writer in found):
            console.print(
                "  these matrices have no more columns than rows, so that any change of rank 1 has this form"
            )
        if len(set(layers)) == len(layers):
            console.print(layer_chart(layers, [abs(value) for value in strengths], top))
    groups = shared_directions(diff.writers)
    sizes = sorted(map(len, groups), reverse=True)
    if len(groups) == 1 and sizes[0] > 1:
        console.print(f"All {sizes[0]} writers share one direction.")
    elif sizes[0] > 1:
        shared = ", ".join(str(size) for size in sizes if size > 1)
        alone = sizes.count(1)
        console.print(
            f"{len(groups)} directions: shared by {shared} writers"
            + (f"; {plural(alone, 'writer')} with a direction not shared" if alone else "")
        )
    else:
        console.print("Each writer has its own direction.")
    unedited = [writer.writer for writer in diff.writers if writer.biases is False]
    if unedited:
        console.print(f"Biases were not edited with their matrices: {listed(unedited, _NAMED)}")


def _verdict(diff: Diff) -> str:
    moved, others = diff.moved, diff.unexplained
    if diff.identical:
        return "All tensors are equal."
    if not moved:
        return (
            "No tensor differs by more than rounding." if diff.changed else "All numbers are equal."
        )
    if not others:
        return (
            "An edit of writers explains every change: --undo DIR writes an adapter that undoes it, --edit "
            "FILE saves it."
        )
    ranks = [change.rank for change in others if change.rank is not None]
    if len(ranks) == len(others) and all(
        each.factors is not None or not each.rank for change in others for each in change.matrices
    ):
        return f"Changes of low rank (at most {max(ranks)}), such as a merged LoRA."
    rest = f"{len(others)} of {plural(len(moved), 'change')}"
    return f"{rest} are neither edits of writers nor changes of low rank; training causes such changes."


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
