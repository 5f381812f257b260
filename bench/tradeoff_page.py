"""The page and the plot of bench/tradeoff.py's results: `python bench/tradeoff_page.py`.

Everything on the page is computed from the JSON files that the benchmark left, and copied beside it.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

from bench.tradeoff_cases import CASES, WORK
from excise.search.front import VISIBLE_DAMAGE, Point, hypervolume, pareto_front
from excise.search.select import knee

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "benchmarks"
COLOURS = {"heretic": "tab:red", "excise, TPE": "tab:blue", "excise, gradient": "tab:green"}
Rows = Sequence[Mapping[str, Any]]


def held_out(rows: Rows, tool: str) -> list[dict[str, Any]]:
    """The measured rows of a tool, fewest held-out refusals first."""
    found = [
        {**row, "held": row["held_out"]} for row in rows if row["tool"] == tool and row["held_out"]
    ]
    return sorted(found, key=lambda row: (row["held"]["refusals"], row["held"]["kl"]))


def present(rows: Rows) -> list[str]:
    """The tools that were run on a case."""
    return [tool for tool in COLOURS if any(row["tool"] == tool for row in rows)]


def least(rows: Rows, refusals: int, figure: str) -> float | None:
    """The least KL at no more refusals."""
    return min(
        (row["held"][figure] for row in rows if row["held"]["refusals"] <= refusals), default=None
    )


def shown(value: float | None, digits: int = 4) -> str:
    return "—" if value is None else f"{value:.{digits}f}"


def front_table(rows: Rows) -> list[str]:
    """Every measured edit."""
    lines = [
        "| tool | trial | search: refused | KL | held out: refused | KL | KL of 32 tokens "
        "| controls refused | empty | loops | processor time until there |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tool in COLOURS:
        for row in held_out(rows, tool):
            held = row["held"]
            lines.append(
                f"| {tool} | {row['label']} | {row['refusals']}/{row['prompts']} | {row['kl']:.4f} "
                f"| {held['refusals']}/{held['prompts']} | {held['kl']:.4f} | {held['answer_kl']:.4f} "
                f"| {held['control_refusals']} | {held['empty']} | {held['looping']} "
                f"| {row['processor_seconds']:.0f} s |"
            )
    return lines


def ratio_table(rows: Rows, searches: Sequence[str]) -> list[str]:
    """At each point of heretic's front, excise's least KL at no more refusals over heretic's."""
    heads = [f"{tool}: {what}" for tool in searches for what in ("KL", "32 tokens")]
    lines = [
        f"| heretic: held-out refusals | its KL | of 32 tokens | {' | '.join(heads)} |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for row in held_out(rows, "heretic"):
        held = row["held"]
        share = held["refusals"] / held["prompts"]
        if not 0.02 <= share <= 0.5:
            continue
        cells: list[str] = []
        for tool in searches:
            ours = held_out(rows, tool)
            for figure in ("kl", "answer_kl"):
                best = least(ours, held["refusals"], figure)
                cells.append("loses: none" if best is None else f"{best / held[figure]:.2f}")
        lines.append(
            f"| {held['refusals']}/{held['prompts']} | {held['kl']:.4f} | {held['answer_kl']:.4f} "
            f"| {' | '.join(cells)} |"
        )
    return lines


def searches_table(rows: Rows) -> list[str]:
    """How good each search's front was on search prompts, when, and how soon its first edit was there."""
    lines = [
        "| search | trials | hypervolume after 10 | 20 | 30 | all | processor time | until the first trial "
        "| median of the others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for tool in present(rows):
        own: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            if row["tool"] == tool:
                own[row["label"]] = row
        trials = sorted(own.values(), key=lambda row: int(row["label"]))
        # A dominated trial adds nothing to a front, so that its lower bound may stand for it.
        points = [
            Point(number, (row["refusals"], row["kl"]))
            for number, row in enumerate(trials)
            if not row["dominated"]
        ]
        box = ((0.0, float(trials[0]["prompts"])), (0.0, VISIBLE_DAMAGE))
        volumes = [
            hypervolume([point for point in points if point.number < count], box)
            for count in (10, 20, 30, len(trials))
        ]
        cells = [
            shown(volume) if count <= len(trials) else "—"
            for volume, count in zip(volumes, (10, 20, 30, 0), strict=True)
        ]
        stamps = [row["processor_seconds"] for row in trials]
        middle = statistics.median(after - before for before, after in pairwise(stamps))
        lines.append(
            f"| {tool} | {len(trials)} | {' | '.join(cells)} | {stamps[-1]:.0f} s | {stamps[0]:.0f} s "
            f"| {middle:.1f} s |"
        )
    return lines


def knee_line(rows: Rows) -> str:
    """How soon an edit of ours dominated the knee of heretic's whole search, on search prompts."""
    trials = {tool: [row for row in rows if row["tool"] == tool] for tool in COLOURS}
    points = [
        Point(number, (row["refusals"], row["kl"])) for number, row in enumerate(trials["heretic"])
    ]
    bend = knee(pareto_front(points))
    whole = max(row["processor_seconds"] for row in trials["heretic"])
    text = (
        f"The knee of heretic's front is at {bend['refusals']} refusals and KL {bend['kl']:.4f}, of a search "
        f"that took {whole:.0f} s. "
    )
    better = [
        row
        for row in trials["excise, TPE"]
        if not row["dominated"] and row["refusals"] <= bend["refusals"] and row["kl"] <= bend["kl"]
    ]
    if not better:
        return text + "No edit of excise's dominates it."
    first = min(better, key=lambda row: row["processor_seconds"])
    return text + (
        f"excise's first edit that dominates it, trial {first['label']} ({first['refusals']} at "
        f"{first['kl']:.4f}), was complete after {first['processor_seconds']:.0f} s, preparation included: "
        f"1/{whole / first['processor_seconds']:.0f} of the time of heretic's search."
    )


def closed_table(rows: Rows) -> list[str]:
    """The closed forms, on search prompts; nothing where none was scored."""
    if not any(row["tool"].startswith("closed") for row in rows):
        return []
    lines = ["| closed form, no search | refused | KL |", "|---|---|---|"]
    for row in rows:
        if row["tool"].startswith("closed"):
            what = row["label"] + row["tool"].removeprefix("closed form")
            lines.append(f"| {what} | {row['refusals']}/{row['prompts']} | {row['kl']:.4f} |")
    return [*lines, ""]


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """All fronts, held-out refusals against KL of the first token and of 32 tokens."""
    figure, axes = plt.subplots(
        2, len(results), figsize=(5.2 * len(results), 8), squeeze=False, layout="constrained"
    )
    for column, result in enumerate(results):
        for line, (name, label) in enumerate(
            (("kl", "KL, first answer token (nats)"), ("answer_kl", "KL, mean of 32 tokens (nats)"))
        ):
            axis = axes[line][column]
            for tool in present(result["rows"]):
                found = held_out(result["rows"], tool)
                share = [100 * row["held"]["refusals"] / row["held"]["prompts"] for row in found]
                axis.plot(
                    share,
                    [row["held"][name] for row in found],
                    "o",
                    color=COLOURS[tool],
                    label=tool,
                )
            axis.set_yscale("log")
            axis.set_xlabel("held-out target prompts that show the behaviour (%)")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            axis.set_title(result["title"] if line == 0 else "")
        axes[0][column].legend()
    figure.savefig(path, dpi=110)


def section(result: Mapping[str, Any]) -> list[str]:
    """All tables of one case."""
    rows, original = result["rows"], result["original"]
    return [
        f"## {result['title']}",
        "",
        f"Original: {original['refusals']}/{original['prompts']} held-out target prompts show the "
        f"behaviour, and {original['control_refusals']} control prompts. The searches use "
        f"{original['search_prompts']} target prompts and as many control prompts.",
        "",
        "Held-out figures of heretic's edits. The last columns are ratios: excise's lowest KL at the same "
        "or fewer refusals, divided by heretic's KL (0.50 is half the damage):",
        "",
        *ratio_table(rows, [tool for tool in present(rows) if tool != "heretic"]),
        "",
        "The searches themselves (figures on search prompts; hypervolume up to KL 0.5):",
        "",
        *searches_table(rows),
        "",
        knee_line(rows),
        "",
        *closed_table(rows),
        "Every edit measured on held-out prompts:",
        "",
        *front_table(rows),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    known = options.output / "tradeoff.json"
    found = {
        result["case"]: result
        for result in (json.loads(known.read_text(encoding="utf-8")) if known.exists() else [])
    }
    for case in CASES:
        # A case that was not run this time keeps what it had.
        path = WORK / f"{case.name}.json"
        if path.exists():
            found[case.name] = json.loads(path.read_text(encoding="utf-8"))
    results = [found[case.name] for case in CASES if case.name in found]
    plot(results, options.output / "tradeoff.png")
    text = [
        "# Refusals against damage",
        "",
        "Written by `python bench/tradeoff.py && python bench/tradeoff_page.py`. heretic 1.4.0 from PyPI "
        "with its own search, markers and defaults (60 trials, of which 18 random), excise with its "
        f"defaults (30 trials): the same models, prompts, {results[0]['tokens']} new tokens, float32. "
        "Every edit below was then measured by the same code on prompts that no search saw. Times are "
        "processor time, all threads, everything before the first trial included.",
        "",
        f"{results[0]['machine']}.",
        "",
        "![fronts](tradeoff.png)",
        "",
    ]
    notes = options.output / "tradeoff_notes.md"
    if notes.exists():
        text += [notes.read_text(encoding="utf-8").strip(), ""]
    for result in results:
        text += section(result)
    (options.output / "tradeoff.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    known.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
