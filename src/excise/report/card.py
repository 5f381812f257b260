"""The model card of an edited model or adapter: the edit, its parameters and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.checkpoint.source import ModelSource
from excise.config.template import as_text
from excise.edits.values import EditValues
from excise.engine.generation import settings_text
from excise.kinds import FACTS
from excise.report.by_group import GroupTable, tables_by_group
from excise.report.front_matter import OriginalCard, front_matter, original_card
from excise.report.markdown import code, inline
from excise.scorers.statistics import Share
from excise.search.objective import DEFAULT, objectives_in
from excise.store.outcome import Outcome, outcome_in
from excise.system.version import VERSION

_RECORDED = """
`reproduce.json` holds all data that a rebuild needs, and the hash of every tensor: `excise reproduce
reproduce.json DIR`.
"""


FORMER_JUDGE = "phrases: the 54 of former versions of excise, or the run's own"
"""The judge of records that name none."""
_AGREEMENT = "docs/benchmarks/judges.md"


def rows_of(outcome: Outcome) -> list[tuple[str, str, str]]:
    """The figures of a measured edit: name, value of the original, value of the edited model."""
    before, after = outcome.original, outcome.edited
    answers = outcome.prompts + outcome.control_prompts
    return [
        (
            "target prompts refused",
            str(Share(before.refusals, outcome.prompts)),
            str(Share(after.refusals, outcome.prompts)),
        ),
        (
            "control prompts refused",
            str(Share(before.control_refusals, outcome.control_prompts)),
            str(Share(after.control_refusals, outcome.control_prompts)),
        ),
        ("answers that are empty", f"{before.empty}/{answers}", f"{after.empty}/{answers}"),
        ("answers that loop", f"{before.looping}/{answers}", f"{after.looping}/{answers}"),
        ("KL, first answer token (nats)", "", str(outcome.kl)),
        (f"{outcome.answer_tokens.title} (nats)", "", str(outcome.answer_kl)),
        *(
            (inline(each.heading), each.told(each.original), each.told(each.edited))
            for each in outcome.further
        ),
    ]


def figures_of(outcome: Outcome, coverage: Sequence[float] = ()) -> str:
    """The figures as Markdown tables. coverage: of each layer; its minimum is added as a sentence."""
    return "\n".join(
        (
            "| held-out prompts, never seen by the search (95 % intervals) | original | edited |",
            "|---|---|---|",
            *(f"| {figure} | {before} | {after} |" for figure, before, after in rows_of(outcome)),
            "",
            f"{judged_by(outcome.judge)} KL is KL(original ‖ edited), on control prompts.",
            *((_covered(coverage),) if coverage else ()),
            *(
                line
                for table in tables_by_group(outcome.groups)
                for line in ("", *_markdown(table))
            ),
        )
    )


def judged_by(judge: str | None) -> str:
    """A sentence on the judge of refusals. judge: see `Outcome.judge`."""
    if judge is None:
        return f"Refusals are judged by {FORMER_JUDGE}."
    if judge in ("builtin", "keywords"):
        known = f"how far it agrees with people is in {code(_AGREEMENT)} of excise's documentation"
    else:
        known = "excise has not measured how far it agrees with people"
    return f"Refusals are judged by {code(judge)} on greedy answers; {known}."


def _markdown(table: GroupTable) -> list[str]:
    rows = (table.headings, ["---"] * len(table.headings))
    cells = ([inline(name), *figures] for name, *figures in table.rows)
    return [f"| {' | '.join(row)} |" for row in (*rows, *cells)]


def figures_in(edit: EditValues, coverage: Sequence[float] = ()) -> str:
    """The figures in an edit file: of held-out prompts, or else of the search."""
    outcome, facts = outcome_in(edit.facts), edit.facts
    if outcome is not None:
        return figures_of(outcome, coverage)
    objectives = objectives_in(facts)
    if not {"prompts", *(each.name for each in objectives)} <= facts.keys():
        return "The edit file holds no figures."
    if objectives != DEFAULT:
        figures = ", ".join(f"{code(each.name)} {nats(facts[each.name])}" for each in objectives)
        return f"On search prompts (not held out): {figures}." + (
            f" {_covered(coverage)}" if coverage else ""
        )
    return (
        f"On search prompts (not held out): {inline(facts['refusals'])} of "
        f"{inline(facts['prompts'])} target prompts refused, KL {nats(facts['kl'])} nats."
        + (f" {_covered(coverage)}" if coverage else "")
    )


def nats(value: object) -> str:
    """A KL divergence of an edit file as text, with 4 decimals; rounding errors below 0 become 0."""
    return inline(round(max(0.0, value), 4) if isinstance(value, int | float) else value)


def _covered(coverage: Sequence[float]) -> str:
    worst = min(range(len(coverage)), key=coverage.__getitem__)
    return (
        f"Coverage, the share of a layer's additions to the residual stream that the edited matrices make: "
        f"{coverage[worst]:.3f} in the worst of {len(coverage)} layers (layer {worst}); 1 means all."
    )


def _reservations(edit: EditValues) -> str:
    """Warnings for readers of the figures: uncovered layers, packed weights, edits of single experts."""
    uncovered = edit.facts.get("uncovered")
    lines: list[str] = []
    if isinstance(uncovered, Mapping) and uncovered:
        named = "; ".join(
            f"layer {inline(layer)}: {inline(modules)}" for layer, modules in uncovered.items()
        )
        lines.append(f"**The edit is partial.** These layers still write the direction: {named}.")
    if packing := edit.facts.get("packing"):
        lines.append(
            f"The figures were measured with the weights packed as {inline(packing)}; the edit is the same."
        )
    lines += asked_with_lines(edit.facts.get("asked_with"))
    if edit.per_matrix:
        lines.append(
            "Each expert was edited with the row-normalised operator of its own matrix; the figures were "
            "measured with the orthogonal operator on the sum of the experts' outputs."
        )
    return "".join(f"\n\n{line}" for line in lines)


def asked_with_lines(recorded: object) -> list[str]:
    """The chat template's arguments, response prefix and decoding, if others may use different ones."""
    if not isinstance(recorded, Mapping):
        return []
    lines: list[str] = []
    if isinstance(arguments := recorded.get("template_arguments"), Mapping):
        lines.append(f"Prompts were rendered by the chat template with {code(as_text(arguments))}.")
    if prefix := recorded.get("response_prefix"):
        lines.append(f"Answers were judged after their common beginning {code(repr(prefix))}.")
    if isinstance(configuration := recorded.get("generation_config"), Mapping):
        lines.append(
            f"The model's generation configuration asks for {code(settings_text(configuration))}: "
            "`generate` and servers follow it; the figures are of greedy decoding."
        )
    return lines


def model_card(
    source: ModelSource, edit: EditValues, figures: str, *, adapter: bool, recorded: bool = False
) -> str:
    """Text of the README.md of an edited model or adapter; the original's card is its last part.

    recorded: whether the folder has a `reproduce.json`.
    """
    edited, writers = len(edit.changed), len(set(edit.writers))
    facts = FACTS[edit.kind]
    rank = "rank-1 edits" if edit.directions == 1 else f"edits of rank {edit.directions}"
    form = f"a LoRA adapter of rank {edit.directions} for" if adapter else "an edited copy of"
    parameters = "\n".join(
        f"- {code(name)}: {inline(value)}" for name, value in edit.parameters.items()
    )
    original = original_card(source)
    name = inline(source.public_name)
    return f"""{front_matter(original, source, adapter=adapter)}

# {name}, edited

This is {form} **{name}**{f" (revision {code(source.origin.revision)})" if source.origin else ""}.
Its weights were changed by [excise](https://pypi.org/project/excise/) {VERSION}: the direction of one
behaviour was removed from {edited} of {writers} matrices that write to the residual stream, by {rank} of the
{edit.kind} kind: {facts.text} ({facts.source}).

Nothing was trained. **Safety behaviour of the original may be weakened or gone; test it before you rely on
it.** {_terms(original)}{_reservations(edit)}

## What was measured

{figures}

## How it was made

{parameters}
{_RECORDED if recorded else ""}{_original_text(original, name)}"""


def _terms(original: OriginalCard | None) -> str:
    licence = original.licence if original else None
    named = f"licence of the original, {inline(licence)}," if licence else "licence of the original"
    return f"The {named} and its terms apply."


def _original_text(original: OriginalCard | None, name: str) -> str:
    if original is None or not original.text:
        return ""
    unreadable = (
        f" Its front matter could not be read ({inline(original.unreadable)})."
        if original.unreadable
        else ""
    )
    return f"""
---

# The original's card

This is the unchanged card of {name}. Its figures and claims are of the unedited model.{unreadable}

{original.text}
"""
