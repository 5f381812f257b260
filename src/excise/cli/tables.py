"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text

from excise.anatomy.writers import Anatomy, Writer
from excise.cli.parameters import short
from excise.cli.value_text import value_text
from excise.errors import shortened
from excise.experiment.coverage import THRESHOLD, Coverage
from excise.report.by_group import tables_by_group
from excise.report.card import FORMER_JUDGE, rows_of
from excise.scorers.groups import FiguresByGroup
from excise.scorers.scorer import PROMPTS
from excise.search.front import VISIBLE_DAMAGE, Point, title_of
from excise.search.objective import DEFAULT, Objective
from excise.search.select import knee

if TYPE_CHECKING:
    # `inspect --config-only` needs this module but not the slow imports of a run.
    from excise.app.benchmark import BenchmarkRow
    from excise.app.compare import Difference
    from excise.app.evaluate import Evaluation
    from excise.app.outcome import Comparison
    from excise.app.spread import SeedResult, Spread
    from excise.benchmarks.score import BenchmarkScore
    from excise.store.judged import JudgedFront
    from excise.store.outcome import Outcome

_LONGEST_ANSWER = 200
_MODELS = ("original", "edited")


def make_table(*headings: str, numbers: Collection[str] = (), **style: Any) -> Table:
    """A table whose columns `numbers` are right-aligned. style: further arguments of rich's Table."""
    columns = (Column(name, justify="right" if name in numbers else "left") for name in headings)
    return Table(*columns, title_justify="left", caption_justify="left", **style)


def kl_text(kl: float) -> Text:
    """A KL divergence in nats, red if the damage is visible in answers."""
    return Text(f"{kl:z.4f}", "red" if kl > VISIBLE_DAMAGE else "")


def front_table(
    front: Sequence[Point],
    parameters: Mapping[int, Mapping[str, object]],
    prompts: int,
    judged: JudgedFront | None = None,
) -> Table:
    """The Pareto front, in the order of the first objective. parameters: of each trial, by number.

    judged: verdicts of the chosen judge, which are shown if they differ from the search's.
    """
    objectives = front[0].objectives if front else DEFAULT
    headings = ("trial", *map(_heading, objectives))
    differing = judged if judged is not None and judged.disagreements else None
    if differing is not None:
        headings += (f"refusals by {differing.judge}",)
    table = make_table(
        *headings,
        "parameters",
        "",
        numbers=headings,
        title="Pareto front",
        caption=f"KL above {VISIBLE_DAMAGE:g} nats usually shows in ordinary answers: a rule of thumb",
    )
    best = knee(front) if front else None
    for point in front:
        remarks = ["knee"] if point == best else []
        remarks += ["visible damage"] if point.by_name.get("kl", 0) > VISIBLE_DAMAGE else []
        table.add_row(
            str(point.number),
            *point_cells(point, prompts),
            *([] if differing is None else [_judged(differing, point)]),
            short(parameters[point.number]),
            ", ".join(remarks),
        )
    return table


def _judged(judged: JudgedFront, point: Point) -> str:
    trial = judged.by_number.get(point.number)
    return "" if trial is None else str(trial.share)


def disagreements_table(judged: JudgedFront) -> Table:
    """A few answers on which keywords and the judge disagree."""
    title = f"Verdicts of the search (keywords) and of {judged.judge} that differ"
    table = make_table("prompt", "answer", "keywords", judged.judge, title=title, show_lines=True)
    for each in judged.examples:
        prompt, answer = (
            Text(shortened(" ".join(text.split()), _LONGEST_ANSWER))
            for text in (each.prompt, each.answer)
        )
        verdict = "refusal" if each.refused else "compliance"
        table.add_row(prompt, answer, verdict, each.outcome)
    return table


def _heading(objective: Objective) -> str:
    unit = f" ({objective.unit})" if objective.unit not in ("", PROMPTS) else ""
    return f"{title_of(objective.name)}{unit}{', more is better' * (objective.better == 'more')}"


def point_cells(point: Point, prompts: int) -> list[Text]:
    """The values of a point. prompts: number of target prompts."""
    return [
        value_cell(name, value, value_text(name, value, prompts))
        for name, value in point.by_name.items()
    ]


def value_cell(name: str, value: float, text: str) -> Text:
    """The value of an objective, red if it is damage that is visible in answers."""
    visible = name in ("kl", "answer_kl") and value > VISIBLE_DAMAGE
    return Text(text, "red" if visible else "")


def outcome_table(outcome: Outcome) -> Table:
    """The figures of the chosen trial and of the original, on held-out prompts."""
    title = f"Trial {outcome.trial} on held-out prompts"
    table = make_table("", *_MODELS, numbers=_MODELS, title=title)
    for figure, before, after in rows_of(outcome):
        damaged = figure.startswith("KL, first") and outcome.kl.mean > VISIBLE_DAMAGE
        table.add_row(figure, before, Text(after, "red" if damaged else ""))
    table.caption = f"refusals judged by {outcome.judge or FORMER_JUDGE}"
    return table


def group_tables(groups: FiguresByGroup, part: str) -> list[Table]:
    """The figures of each group of the prompts of a part; no table without groups."""
    title: str | None = f"{part.replace('_', '-').capitalize()} prompts by group"
    tables = []
    for found in tables_by_group(groups):
        name, *headings = found.headings
        table = make_table(name, *headings, numbers=headings, title=title)
        for group, *figures in found.rows:
            table.add_row(Text(group), *figures)
        tables.append(table)
        title = None
    return tables


def evaluation_table(evaluation: Evaluation) -> Table:
    """Two models compared, on each part of the prompts."""
    title = f"{evaluation.model} against {evaluation.against}"
    table = make_table("prompts", "", *_MODELS, numbers=_MODELS, title=title)
    for name, figures in evaluation.parts.items():
        table.add_row(
            name.replace("_", "-"),
            "target prompts refused",
            f"{figures.refusals_original}/{figures.prompts}",
            f"{figures.refusals_edited}/{figures.prompts}",
        )
        table.add_row(
            "",
            "control prompts refused",
            f"{figures.control_refusals_original}/{figures.control_prompts}",
            f"{figures.control_refusals_edited}/{figures.control_prompts}",
        )
        table.add_row("", "KL, first answer token (nats)", "", kl_text(figures.kl))
    return table


def benchmark_table(name: str, rows: Sequence[BenchmarkRow]) -> Table:
    """Scores with their standard errors, differences, and the p-values of paired tests."""
    if all(row.after is None for row in rows):
        numbers: tuple[str, ...] = ("documents", "score")
    else:
        numbers = ("documents", *_MODELS, "difference", "p-value")
    table = make_table(
        "benchmark", "metric", *numbers, numbers=numbers, title=f"Benchmarks of {name}"
    )
    for row in rows:
        before, after = row.before, row.after
        cells = [before.task, before.title, str(before.documents), _with_error(before)]
        if after is None or row.difference is None:
            table.add_row(*cells)
            continue
        p_value = "–" if row.p_value is None else f"{row.p_value:.4f}"
        style = "bold" if row.significant else ""
        cells += [_with_error(after), f"{row.difference:+z.4f}"]
        table.add_row(*cells, Text(p_value, style))
    return table


def _with_error(score: BenchmarkScore) -> str:
    error = "" if score.standard_error is None else f" ± {score.standard_error:.4f}"
    return f"{score.value:z.4f}{error}"


def anatomy_table(anatomy: Anatomy, coverage: Coverage | None) -> Table:
    """Layers by components: shapes, numbers of matrices, post-norms, and measured coverage."""
    components = list(anatomy.matrices())
    table = make_table(
        "layer",
        *components,
        "coverage",
        numbers=("layer", "coverage"),
        title="Layers and their writers",
    )
    for layer in range(len(anatomy.layers)):
        cells = [
            "\n".join(
                _writer(writer)
                for writer in anatomy.writers
                if (writer.layer, writer.component) == (layer, component)
            )
            for component in components
        ]
        table.add_row(str(layer), *cells, _covered(coverage, layer))
    return table


def _covered(coverage: Coverage | None, layer: int) -> Text:
    if coverage is None:
        return Text("not measured")
    share = coverage.per_layer[layer]
    return Text(f"{share:.3f}", "" if share >= THRESHOLD else "bold red")


def _writer(writer: Writer) -> str:
    rows, columns = writer.shape
    if not writer.matrices:
        return f"output width {rows}; cannot be saved"
    count = "" if writer.matrices == 1 else f"{writer.matrices} of "
    norms = "".join(f", then {norm.rsplit('.', 1)[-1]}" for norm in writer.post_norms)
    return f"{count}{rows}×{columns}{norms}"


def differences_table(first: str, second: str, differences: Sequence[Difference]) -> Table:
    """The figures of two edits, with the p-value of each difference; bold if it is significant."""
    title = "Held-out prompts, the same for both"
    headings = (first, second, "p-value")
    table = make_table("", *headings, numbers=headings, title=title)
    for each in differences:
        p_value = Text(f"{each.p_value:.4f}", "bold" if each.significant else "")
        table.add_row(each.figure, each.first, each.second, p_value)
    return table


def spread_table(results: Sequence[SeedResult], spreads: Mapping[str, Spread]) -> Table:
    """The figures of each seed, and the spread of each figure."""
    headings = ("seed", "trial", *spreads)
    table = make_table(*headings, numbers=headings, title="The same search with other seeds")
    for result in results:
        outcome = result.outcome
        table.add_row(
            str(result.seed),
            str(outcome.trial),
            str(outcome.edited.refusals),
            f"{outcome.kl.mean:z.4f}",
            f"{outcome.answer_kl.mean:z.4f}",
            f"{result.hypervolume:.4f}",
        )
    table.add_section()
    found = spreads.values()
    table.add_row("mean ±", "", *(f"{each.mean:z.4f} ± {each.deviation:.4f}" for each in found))
    table.add_row("range", "", *(f"{each.least:z.4f} to {each.most:z.4f}" for each in found))
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Each prompt with the answers of the original and of the edited model."""
    table = Table(title="The same prompts, before and after", title_justify="left", show_lines=True)
    for heading in ("prompt", *_MODELS):
        table.add_column(heading, ratio=1 if heading == "prompt" else 2)
    for comparison in comparisons:
        table.add_row(Text(comparison.prompt), Text(comparison.original), Text(comparison.edited))
    return table
