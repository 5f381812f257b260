"""The report of bench/answers.py."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.said import DRAWS, FAULT, Way

FEW = 8
"""As many answers as are told one by one."""
WIDTH = 120
TERMS = f"""
*Reference*: what the way is compared with. *virtual*: hooks on the same original, as it is stored.
*exact*: the edit written into the matrices in float64, and the whole model run in float64. *arithmetic*:
the largest difference of a logit between this runner and float64, on the model without the edit.
*storing*: the largest move of a logit when every edited number is moved at random by up to half a unit in
the last place of its stored type; the model runs in float64, and the figure is the largest of {DRAWS}
draws. *Rounding explains* 2 · (arithmetic + storing): both runs have arithmetic errors, and a few draws
miss the largest move. **no** would mark a larger difference, or an answer that differs where the gap is
more than twice that.
"""
PARTED = """
Prompts are counted from 0, target prompts first; tokens are counted in the answer. *Gap*: how much higher
the reference's logit of its own token is than that of the other token, when the whole answer runs in one
pass. In bfloat16 one pass rounds differently from decoding token by token, so a gap can be negative.
"""
COMPARED = f"""
*Edited numbers rounded at random*: answers that stay the same if every edited number is rounded at random
to the stored type and the model runs in float64. *Unedited*: answers of the model without any edit that
equal those in float64, for each runner. *A fault of 1 %*: how far a logit moves if every strength is
{FAULT - 1:.0%} higher.
"""


@dataclass(frozen=True)
class Group:
    """All ways on one original.

    fault: see Exact. rounded: how many answers stay when every edited number is rounded at random. unedited:
    how many answers of the model without an edit are those of float64, by what ran it.
    """

    stored: str
    fault: float
    ways: tuple[Way, ...]
    rounded: int
    unedited: Mapping[str, int]


def table(groups: Sequence[Group]) -> list[str]:
    """One row a way."""
    rows = [
        "| stored in | what | reference | same answers | largest difference of a logit | rounding explains "
        "| arithmetic, storing |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        for way in group.ways:
            total, rounding = len(way.said.answers), way.rounding
            rows.append(
                f"| {group.stored} | {way.name} | {way.held_to} | {total - len(way.partings)} of {total} "
                f"| {way.difference:.2g} | {rounding.bound:.2g}{'' if way.explained else ' **no**'} "
                f"| {rounding.arithmetic:.2g}, {rounding.storing:.2g} |"
            )
    return rows


def parted(groups: Sequence[Group]) -> list[str]:
    """Where answers are other ones: one row for each, or one for all of a way where they are many."""
    found = [(group, way) for group in groups for way in group.ways if way.partings]
    if not found:
        return ["No answer is another one."]
    rows = [
        "| stored in | what | prompt | first token that differs | gap |",
        "|---|---|---|---|---|",
    ]
    for group, way in found:
        places = [(str(one.prompt), str(one.token), f"{one.gap:.2g}") for one in way.partings]
        if len(places) > FEW:
            tokens, gaps = (
                [getattr(one, name) for one in way.partings] for name in ("token", "gap")
            )
            prompts = ", ".join(prompt for prompt, _, _ in places)
            ends = f"{min(tokens)} to {max(tokens)}", f"{min(gaps):.2g} to {max(gaps):.2g}"
            places = [(prompts, *ends)]
        rows += [f"| {group.stored} | {way.name} | {' | '.join(place)} |" for place in places]
    return rows


def for_comparison(groups: Sequence[Group]) -> list[str]:
    """What rounding alone does to answers, and what a fault would do to logits."""
    rows = [
        "| stored in | edited numbers rounded at random | unedited | a fault of 1 % |",
        "|---|---|---|---|",
    ]
    for group in groups:
        total = len(group.ways[0].said.answers)
        runners = ", ".join(f"{name} {count}" for name, count in group.unedited.items())
        rows.append(
            f"| {group.stored} | {group.rounded} of {total} | {runners} of {total} | {group.fault:.2g} |"
        )
    return rows


def page(groups: Sequence[Group], command: str, measured: str) -> str:
    """The whole report. measured: on what, of what edit, where."""
    return "\n\n".join(
        (
            "# Do all forms of an edit answer alike?",
            _filled(f"`{command}`. The demonstration model with {measured}"),
            "\n".join(table(groups)),
            _filled(TERMS),
            "## Answers that differ",
            _filled(PARTED),
            "\n".join(parted(groups)),
            "## For comparison",
            _filled(COMPARED),
            "\n".join(for_comparison(groups)) + "\n",
        )
    )


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH)
