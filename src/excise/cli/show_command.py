"""`excise show`: an edit file, for people, as JSON, or as a plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from excise.cli.charts import layer_chart
from excise.cli.human import plural
from excise.cli.screen import make_console, write_json
from excise.cli.stored import edit_path, split_trial
from excise.cli.tables import disagreements_table, group_tables, outcome_table
from excise.config import Inputs
from excise.edits.edit import Edit
from excise.errors import UNREADABLE, RunError, translated
from excise.kinds import FACTS
from excise.report.card import asked_with_lines, nats
from excise.report.plot import plot_edit, require_plots
from excise.report.profile import Profile, place, profiles
from excise.search.objective import DEFAULT, objectives_in
from excise.store.directory import RunDirectory
from excise.store.judged import JudgedFront, judged_in, judged_json
from excise.store.outcome import outcome_in
from excise.system.paths import expanded


def show(word: str, inputs: Inputs, *, plot: str | None) -> int:
    """Show the edit file `word`, or that of RUN[:TRIAL]. Returns the exit status."""
    as_json = inputs.settings(needs_model=False).json_lines
    picture = expanded(plot) if plot is not None else None
    if picture is not None:
        require_plots(picture)
    path = edit_path(word)
    edit = Edit.load(path)
    judged = _judged_trial(word, edit)
    if picture is not None:
        plot_edit(edit, f"{path.name}: {edit.kind}", picture)
    if as_json:
        write_json({**edit_as_json(path, edit), **judged_json(judged)}, indent=1)
        return 0
    console = make_console()
    # Files of older formats have no checksum, so their facts may be invalid.
    with translated(RunError, f"{path}: damaged: its facts are incomplete", *UNREADABLE):
        parts = _parts(path, edit)
    if judged is not None:
        parts += [Text(judged.told())]
        parts += [disagreements_table(judged)] if judged.disagreements else []
    for part in parts:
        console.print(part)
    if picture is not None:
        console.print(f"plotted to {picture}")
    return 0


def _judged_trial(word: str, edit: Edit) -> JudgedFront | None:
    """The verdicts on the trial of RUN[:TRIAL].

    None for an edit file, and for a trial that was not judged again.
    """
    directory = RunDirectory(split_trial(word)[0])
    if not directory.is_run or not directory.result.exists():
        return None
    judged = judged_in(directory.record())
    trials = () if judged is None else judged.trials
    found = tuple(trial for trial in trials if trial.number == edit.facts.get("trial"))
    return JudgedFront(judged.judge, found) if judged is not None and found else None


def edit_as_json(path: Path, edit: Edit) -> dict[str, object]:
    """The contents of an edit file, with the norm of each operator instead of its directions."""
    norms = edit.u.norm(dim=1) * edit.v.norm(dim=1)
    rows = zip(edit.writers, edit.strengths.tolist(), norms.tolist(), strict=True)
    return {
        "path": str(path),
        "kind": edit.kind,
        "base": asdict(edit.base) if edit.base else None,
        "settings_digest": edit.settings_digest,
        "dimension": edit.u.shape[1],
        "directions": edit.directions,
        "writers": [
            {
                "name": name,
                "layer": place(name)[0],
                "component": place(name)[1],
                "strength": strength,
                "norm": norm,
                "per_matrix": name in edit.per_matrix,
            }
            for name, strength, norm in rows
        ],
        "parameters": dict(edit.parameters),
        "facts": dict(edit.facts),
    }


def _parts(path: Path, edit: Edit) -> list[RenderableType]:
    parts: list[RenderableType] = [_summary(path, edit)]
    outcome = outcome_in(edit.facts)
    if outcome is not None:
        parts += [Text(), outcome_table(outcome)]
        parts += group_tables(outcome.groups, "held_out")
    parts += [Text(), Text("Strengths over layers", "bold"), *map(_chart, profiles(edit))]
    if edit.parameters:
        rows = Table.grid(padding=(0, 2))
        for name, value in edit.parameters.items():
            rows.add_row(f"  {name}", _number(value))
        parts += [Text("Parameters", "bold"), rows]
    return parts


def _summary(path: Path, edit: Edit) -> Table:
    facts = FACTS[edit.kind]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("edit", str(path))
    grid.add_row("kind", f"{edit.kind}: {facts.text} ({facts.source})")
    base = edit.base
    if base is None:
        grid.add_row("base", Text("unknown", "yellow"))
    else:
        revision = f"revision {base.revision}" if base.revision else f"contents {base.digest}"
        grid.add_row("base", f"{base.model} · {revision} · index {base.index or 'unknown'}")
    count = plural(len(set(edit.writers)), "writer")
    each = "" if edit.directions == 1 else f" · {edit.directions} directions"
    grid.add_row("edited", f"{len(edit.changed)} of {count}, d = {edit.u.shape[1]}{each}")
    if edit.settings_digest:
        grid.add_row("settings", edit.settings_digest)
    if all(each.name in edit.facts for each in objectives_in(edit.facts)):
        grid.add_row("search", _searched(edit))
    if pair := edit.facts.get("recovered_from"):
        if not isinstance(pair, list):
            raise TypeError("recovered_from is not a list")
        grid.add_row("recovered", " → ".join(map(str, pair)))
    if uncovered := edit.facts.get("uncovered"):
        grid.add_row("partial", Text(f"these layers still write the direction: {uncovered}", "red"))
    if packing := edit.facts.get("packing"):
        grid.add_row("measured", f"with the weights packed as {packing}")
    for line in asked_with_lines(edit.facts.get("asked_with")):
        grid.add_row("prompts", line.replace("`", ""))
    if edit.per_matrix:
        grid.add_row(
            "experts", f"{plural(len(edit.per_matrix), 'block')} edited matrix by matrix when saved"
        )
    return grid


def _searched(edit: Edit) -> str:
    trial = f"trial {edit.facts['trial']}: " if "trial" in edit.facts else ""
    held_out = "" if "held_out" in edit.facts else "; not measured on held-out prompts"
    objectives = objectives_in(edit.facts)
    if objectives != DEFAULT:
        figures = ", ".join(f"{each.name} {nats(edit.facts[each.name])}" for each in objectives)
        return f"{trial}{figures} (the search's own prompts{held_out})"
    return (
        f"{trial}{edit.facts['refusals']}/{edit.facts['prompts']} target prompts refused, "
        f"KL {nats(edit.facts['kl'])} nats (the search's own prompts{held_out})"
    )


def _chart(profile: Profile) -> Padding:
    name, strengths = profile.component, profile.strengths
    if profile.direction:
        name += f", direction {profile.direction + 1}"
    edited = [value for value in strengths if value]
    if not edited:
        return Padding(Text(f"{name}: off"), (0, 0, 1, 2))
    peak = max(range(len(strengths)), key=lambda index: abs(strengths[index]))
    text = f"{name}: highest {strengths[peak]:.2f} at layer {profile.layers[peak]}"
    if profile.cosines:
        text += f" · cosine between neighbouring layers {_range(profile.cosines)}"
    text += f" · ‖u‖·‖v‖ {_range(profile.norms)}"
    if any(value < 0 for value in edited):
        text += " · some are negative"
    top = max(1.0, *(abs(value) for value in edited))
    chart = Text(layer_chart(profile.layers, strengths, top), no_wrap=True, overflow="crop")
    return Padding(Group(Text(text), chart), (0, 0, 1, 2))


def _range(values: tuple[float, ...]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
