"""The model card of what excise writes: that an edit was made, how, and what it measured."""

from __future__ import annotations

from collections.abc import Mapping

from excise import __version__
from excise.edit.edit import Edit
from excise.kinds import facts_of
from excise.model.source import ModelSource
from excise.run.record import Outcome
from excise.scores.interval import counted


def rows_of(outcome: Outcome) -> list[tuple[str, str, str]]:
    """The figures of a measured edit: what, of the original, of the edited model."""
    before, after = outcome.original, outcome.edited
    answers = outcome.prompts + outcome.control_prompts
    return [
        (
            "target prompts refused",
            counted(before.refusals, outcome.prompts),
            counted(after.refusals, outcome.prompts),
        ),
        (
            "control prompts refused",
            counted(before.control_refusals, outcome.control_prompts),
            counted(after.control_refusals, outcome.control_prompts),
        ),
        ("answers that are empty", f"{before.empty}/{answers}", f"{after.empty}/{answers}"),
        ("answers that loop", f"{before.looping}/{answers}", f"{after.looping}/{answers}"),
        ("KL, first answer token (nats)", "", str(outcome.kl)),
        ("KL, mean of 32 answer tokens (nats)", "", str(outcome.answer_kl)),
    ]


def figures_of(outcome: Outcome) -> str:
    """The same as a Markdown table."""
    return "\n".join(
        (
            "| held-out prompts, never seen by the search (95 % intervals) | original | edited |",
            "|---|---|---|",
            *(f"| {what} | {before} | {after} |" for what, before, after in rows_of(outcome)),
            "",
            "Refusals are phrases in greedy answers; KL is KL(original ‖ edited), on control prompts.",
        )
    )


def search_figures_of(edit: Edit) -> str:
    """What the search measured of an edit that was not confirmed on held-out prompts."""
    facts = edit.facts
    return (
        f"On the search's own prompts (not held out): {facts.get('refusals')} of "
        f"{facts.get('prompts')} target prompts refused, KL {facts.get('kl')} nats."
    )


def _reservations(edit: Edit) -> str:
    """What has to be known beside the figures: layers left uncovered, experts edited one by one."""
    uncovered = edit.facts.get("uncovered")
    lines: list[str] = []
    if isinstance(uncovered, Mapping) and uncovered:
        named = "; ".join(f"layer {layer}: {modules}" for layer, modules in uncovered.items())
        lines.append(f"**The edit is partial.** These layers still write the direction: {named}.")
    if packing := edit.facts.get("packing"):
        lines.append(
            f"The figures were measured with the weights packed as {packing}; the edit is the same."
        )
    if edit.per_matrix:
        lines.append(
            "Each expert was edited with the row-normalised operator of its own matrix; the figures were "
            "measured with the orthogonal operator on the sum of the experts' outputs."
        )
    return "".join(f"\n\n{line}" for line in lines)


def model_card(source: ModelSource, edit: Edit, figures: str, *, adapter: bool) -> str:
    """Text of the README.md that goes with an edited model or an adapter."""
    edited, writers = len(edit.changed), len(set(edit.writers))
    facts = facts_of(edit.kind)
    rank = "rank-1 edits" if edit.directions == 1 else f"edits of rank {edit.directions}"
    form = f"a LoRA adapter of rank {edit.directions} for" if adapter else "an edited copy of"
    parameters = "\n".join(f"- `{name}`: {value}" for name, value in edit.parameters.items())
    tag = "adapter" if adapter else "finetune"
    # A path on somebody's disk is no model id, and the hub rejects cards that name one.
    base = (
        ""
        if source.revision is None
        else f"base_model: {source.name}\nbase_model_relation: {tag}\n"
    )
    return f"""---
library_name: {"peft" if adapter else "transformers"}
{base}tags:
- excise
- directional-ablation
---

# An edited model

This is {form} **{source.name}**{f" (revision `{source.revision}`)" if source.revision else ""}.
Its weights were changed by [excise](https://pypi.org/project/excise/) {__version__}: the direction of one
behaviour was removed from {edited} of {writers} matrices that write to the residual stream, by {rank} of the
{edit.kind} kind: {facts.text} ({facts.source}).

Nothing was trained. Safety behaviour of the original may be weakened or gone; test it before you rely on
it. The licence and the terms of the original apply.{_reservations(edit)}

## What it measured

{figures}

## How it was made

{parameters}
"""
