"""Tables: the Pareto front, a chosen trial, two models compared, a model's layers, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from excise.anatomy.writers import Anatomy, Writer
from excise.cli.parameters import short
from excise.experiment.coverage import THRESHOLD, Coverage
from excise.report.card import rows_of
from excise.search.front import VISIBLE_DAMAGE, Point, knee

if TYPE_CHECKING:
    # A run's machinery takes seconds to import, and `inspect --config-only` answers in less.
    from excise.app.compare import Difference
    from excise.app.evaluate import Evaluation
    from excise.app.outcome import Comparison
    from excise.app.spread import SeedResult, Spread
    from excise.store.outcome import Outcome


def kl_text(kl: float) -> Text:
    """A KL divergence; in red where the damage shows."""
    return Text(f"{kl:z.4f}", "red" if kl > VISIBLE_DAMAGE else "")


def front_table(
    front: Sequence[Point], parameters: Mapping[int, Mapping[str, object]], prompts: int
) -> Table:
    """The Pareto front, fewest refusals first. parameters: of each trial, by number."""
    table = Table(
        title="Pareto front",
        title_justify="left",
        caption=f"KL above {VISIBLE_DAMAGE:g} nats usually shows in ordinary answers: a rule of thumb",
        caption_justify="left",
    )
    table.add_column("trial", justify="right")
    table.add_column("refusals", justify="right")
    table.add_column("KL (nats)", justify="right")
    table.add_column("parameters")
    table.add_column("")
    best = knee(front) if front else None
    for point in front:
        remarks = ["knee"] if point == best else []
        remarks += ["visible damage"] if point.kl > VISIBLE_DAMAGE else []
        table.add_row(
            str(point.number),
            f"{point.refusals}/{prompts}",
            kl_text(point.kl),
            short(parameters[point.number]),
            ", ".join(remarks),
        )
    return table


def outcome_table(outcome: Outcome) -> Table:
    """A chosen trial beside the original, on held-out prompts."""
    table = Table(title=f"Trial {outcome.trial} on held-out prompts", title_justify="left")
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("edited", justify="right")
    for what, before, after in rows_of(outcome):
        damaged = what.startswith("KL, first") and outcome.kl.mean > VISIBLE_DAMAGE
        table.add_row(what, before, Text(after, "red" if damaged else ""))
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Two models compared, part by part."""
    table = Table(title=f"{evaluation.model} against {evaluation.against}", title_justify="left")
    for heading in ("prompts", "", "original", "edited"):
        table.add_column(heading, justify="right" if heading in ("original", "edited") else "left")
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


def anatomy_table(anatomy: Anatomy, coverage: Coverage | None) -> Table:
    """Layers by components: shapes, numbers of matrices, post-norms, coverage if it was measured."""
    table = Table(title="Layers and what writes in them", title_justify="left")
    table.add_column("layer", justify="right")
    components = list(anatomy.matrices())
    for component in components:
        table.add_column(component)
    table.add_column("coverage", justify="right")
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
        return f"{rows} numbers put out; cannot be saved"
    count = "" if writer.matrices == 1 else f"{writer.matrices} of "
    norms = "".join(f", then {norm.rsplit('.', 1)[-1]}" for norm in writer.post_norms)
    return f"{count}{rows}×{columns}{norms}"


def differences_table(first: str, second: str, found: Sequence[Difference]) -> Table:
    """Two edits side by side, with the probability that chance alone makes each figure differ so."""
    table = Table(title="Held-out prompts, the same for both", title_justify="left")
    table.add_column("")
    for heading in (first, second, "by chance alone"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.what,
            one.first,
            one.second,
            Text(f"{one.chance:.4f}", "bold" if one.differs else ""),
        )
    return table


def spread_table(results: Sequence[SeedResult], found: Mapping[str, Spread]) -> Table:
    """What each seed came to, and the spread of every figure."""
    table = Table(title="The same search with other seeds", title_justify="left")
    for heading in ("seed", "trial", *found):
        table.add_column(heading, justify="right")
    for one in results:
        outcome = one.outcome
        table.add_row(
            str(one.seed),
            str(outcome.trial),
            str(outcome.edited.refusals),
            f"{outcome.kl.mean:z.4f}",
            f"{outcome.answer_kl.mean:z.4f}",
            f"{one.hypervolume:.4f}",
        )
    table.add_section()
    rows = [f"{each.mean:z.4f} ± {each.deviation:.4f}" for each in found.values()]
    table.add_row("mean ±", "", *rows)
    table.add_row(
        "range", "", *(f"{each.least:z.4f} to {each.most:z.4f}" for each in found.values())
    )
    return table


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Answers of the original and the edited model, side by side."""
    table = Table(title="The same prompts, before and after", title_justify="left", show_lines=True)
    for heading in ("prompt", "original", "edited"):
        table.add_column(heading, ratio=1 if heading == "prompt" else 2)
    for comparison in comparisons:
        table.add_row(Text(comparison.prompt), Text(comparison.original), Text(comparison.edited))
    return table
