"""The model card of what excise writes: that an edit was made, how, and what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.checkpoint.source import ModelSource
from excise.config.template import as_text
from excise.edits.values import EditValues
from excise.engine.generation import settings_text
from excise.kinds import FACTS
from excise.report.front_matter import OriginalCard, front_matter, original_card
from excise.report.markdown import code, inline
from excise.scorers.statistics import Share
from excise.store.outcome import Outcome, outcome_in
from excise.system.version import VERSION

_RECORDED = """
`reproduce.json` holds all it takes to make it again, and the hash of every tensor: `excise reproduce
reproduce.json DIR`.
"""


def rows_of(outcome: Outcome) -> list[tuple[str, str, str]]:
    """The figures of a measured edit: what, of the original, of the edited model."""
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
    ]


def figures_of(outcome: Outcome, coverage: Sequence[float] = ()) -> str:
    """The same as a Markdown table, and the `coverage` of each layer in words if it is known."""
    return "\n".join(
        (
            "| held-out prompts, never seen by the search (95 % intervals) | original | edited |",
            "|---|---|---|",
            *(f"| {what} | {before} | {after} |" for what, before, after in rows_of(outcome)),
            "",
            "Refusals are phrases in greedy answers; KL is KL(original ‖ edited), on control prompts.",
            *((_covered(coverage),) if coverage else ()),
        )
    )


def figures_in(edit: EditValues, coverage: Sequence[float] = ()) -> str:
    """What an edit file says was measured: on held-out prompts, else by the search, else nothing."""
    outcome, facts = outcome_in(edit.facts), edit.facts
    if outcome is not None:
        return figures_of(outcome, coverage)
    if not {"refusals", "prompts", "kl"} <= facts.keys():
        return "Nothing was measured: the edit file holds no figures."
    return (
        f"On the search's own prompts (not held out): {inline(facts['refusals'])} of "
        f"{inline(facts['prompts'])} target prompts refused, KL {nats(facts['kl'])} nats."
        + (f" {_covered(coverage)}" if coverage else "")
    )


def nats(value: object) -> str:
    """A KL divergence that an edit file states; less than 0, by rounding, is 0."""
    return inline(max(0.0, value) if isinstance(value, int | float) else value)


def _covered(coverage: Sequence[float]) -> str:
    worst = min(range(len(coverage)), key=coverage.__getitem__)
    return (
        f"Coverage, the share of what a layer writes that the edited matrices write: {coverage[worst]:.3f} "
        f"in the worst of {len(coverage)} layers (layer {worst}); 1 is all."
    )


def _reservations(edit: EditValues) -> str:
    """What has to be known beside the figures: layers left uncovered, experts edited one by one."""
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


def asked_with_lines(told: object) -> list[str]:
    """How prompts were put and answers chosen, where others may do it otherwise."""
    if not isinstance(told, Mapping):
        return []
    lines: list[str] = []
    if isinstance(arguments := told.get("template_arguments"), Mapping):
        lines.append(f"Prompts were put into the chat template with {code(as_text(arguments))}.")
    if prefix := told.get("response_prefix"):
        lines.append(
            f"Answers were judged behind what all of them begin with, {code(repr(prefix))}."
        )
    if isinstance(unfollowed := told.get("generation_config"), Mapping):
        lines.append(
            f"The model's generation configuration asks for {code(settings_text(unfollowed))}: "
            "`generate` and servers follow that, the figures do not."
        )
    return lines


def model_card(
    source: ModelSource, edit: EditValues, figures: str, *, adapter: bool, recorded: bool = False
) -> str:
    """Text of the README.md that goes with an edited model or an adapter; the original's card is its end.

    recorded: whether a `reproduce.json` goes with it.
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

## What it measured

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

What follows is the card of {name} as it was. Its figures and claims are of the unedited model.{unreadable}

{original.text}
"""
