"""The columns of tabular sources: which holds the prompts, and which the groups."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

DEFAULT_COLUMN = "text"
CHAT_COLUMNS = ("messages", "conversations", "conversation")
"""Usual names of columns of conversations, read in this order if no column is named or called `text`."""
_DEFAULT_GROUPS = "topic"


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    group_by: holds the group of each prompt; None reads `topic` if there is such a column.
    """

    prompts: str = DEFAULT_COLUMN
    group_by: str | None = None

    def of_prompts(self, there: Sequence[str], where: str) -> str:
        """The column of prompts among those that are `there`. Raises PromptError."""
        name = self.prompts
        if name == DEFAULT_COLUMN and name not in there:
            name = next((each for each in CHAT_COLUMNS if each in there), name)
        check_column(name, there, where)
        return name

    def of_groups(self, there: Sequence[str]) -> str | None:
        """The column of groups, None if there is no such column or more than one."""
        name = self.group_by or _DEFAULT_GROUPS
        return name if list(there).count(name) == 1 else None


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
