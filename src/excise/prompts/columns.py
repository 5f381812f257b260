"""Checks the column of prompts in tabular sources."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from excise.errors import PromptError

_ANSWERS = re.compile(
    "answers?|assistant|chosen|completions?|continuation|expected|explanation|generated|generation|gold|gpt|"
    "labels?|model|outputs?|prediction|rationale|reasoning|reference|refusal|rejected|reply|replies|"
    "responses?|results?|solution|targets?|thoughts?"
)
"""Words in names of columns with answers."""
_PROMPTS = (
    # AdvBench and JailbreakBench have goal, XSTest, StrongREJECT and most others prompt, Alpaca instruction,
    # WildJailbreak vanilla.
    re.compile("prompts?|instructions?|questions?|goals?|query|queries|requests?|vanilla"),
    # HarmBench has Behavior, which is a category beside JailbreakBench's Goal.
    re.compile("behaviou?rs?|texts?|inputs?|user|human|sentence|content|message"),
)
"""Last words of names of prompt columns in public data sets, most reliable first."""
_NEAR = 0.8
"""Similarity from which a name counts as a misspelling."""


def check_column(column: str, columns: Iterable[str], where: str) -> None:
    """Raise a `PromptError` that lists the columns unless exactly one is called `column`."""
    there = list(columns)
    if there.count(column) == 1:
        return
    if column in there:
        raise PromptError(f"{where}: there is more than one column {column}; rename one of them")
    meant = likely_column(column, there)
    hint = "choose one with column (--column NAME)"
    if meant is not None:
        shown = f"'{meant}'" if re.search(r"[^\w.-]", meant) else meant
        hint = f"did you mean {meant}? give column (--column {shown})"
    raise PromptError(
        f"{where}: no column {column}, there is {', '.join(there) or 'no column at all'}; {hint}"
    )


def likely_column(column: str, columns: Sequence[str]) -> str | None:
    """The column that `column` may be a misspelling of, or else the only typical column of prompts.

    Columns of answers are never suggested. None without a candidate, or with several.
    """
    named = {one: _words(one) for one in columns}
    eligible = {
        one: words for one, words in named.items() if not any(map(_ANSWERS.fullmatch, words))
    }
    plain = {"".join(words): one for one, words in eligible.items()}
    near = difflib.get_close_matches("".join(_words(column)), plain, n=1, cutoff=_NEAR)
    if near:
        return plain[near[0]]
    for names in _PROMPTS:
        # The last word decides: a forbidden_prompt is a prompt, a prompt_id is not.
        found = [one for one, words in eligible.items() if words and names.fullmatch(words[-1])]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _words(name: str) -> list[str]:
    """The words of a name such as `forbidden_prompt` or `ForbiddenPrompt`, in lower case."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", parted.lower())


def texts_of(rows: Sequence[object], column: str, where: str) -> list[str]:
    """The rows as texts, stripped; those without text are left out.

    Raises PromptError if a row holds something else than text.
    """
    texts: list[str] = []
    for number, row in enumerate(rows, start=1):
        if row is None:
            continue
        if not isinstance(row, str):
            raise PromptError(
                f"{where}: row {number}: column {column} holds {_kind(row)}, not text; "
                "choose another with column (--column NAME)"
            )
        if row.strip():
            texts.append(row.strip())
    return texts


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return f"{value!r}"[:40]
