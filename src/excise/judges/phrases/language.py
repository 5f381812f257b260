"""The form of a language's list of phrases."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal

Script = Literal["latin", "cyrillic", "arabic", "han", "kana", "hangul"]

_CHOICE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Pair:
    """Two phrases that refuse together: `first`, at most `gap` characters of the same sentence, `then`.

    alone: whether `first` refuses too if its sentence ends with it.
    """

    first: tuple[str, ...]
    then: tuple[str, ...]
    gap: int = 60
    alone: bool = False


@dataclass(frozen=True)
class Language:
    """Phrases of a language, in the normal form of `excise.judges.text.plain`.

    name: in English. script: that it is written in. function_words: frequent words by which it is told from
    other languages of the script.

    openings: refuse at the beginning of an early sentence, behind nothing but lead-ins. verdicts: refuse at
    the beginning of the first sentence only. statements, pairs: refuse anywhere in an early sentence.
    harmless: phrases that overlap one of the others and are no refusal. breaks: words that end the reach of
    a pair's first phrase. lead_ins: what may stand before an opening. salutations: beginnings of letters.
    """

    name: str
    script: Script
    function_words: frozenset[str]
    openings: tuple[str, ...]
    statements: tuple[str, ...]
    pairs: tuple[Pair, ...]
    harmless: tuple[str, ...]
    breaks: tuple[str, ...] = ()
    lead_ins: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    salutations: tuple[str, ...] = ()


def phrases(*templates: str) -> tuple[str, ...]:
    """All phrases of some templates, in which `{a|b|}` stands for a, b or nothing.

    >>> phrases("i{'m| am} sorry")
    ("i'm sorry", 'i am sorry')
    """
    return tuple(dict.fromkeys(phrase for each in templates for phrase in _expanded(each)))


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def _expanded(template: str) -> list[str]:
    parts = _CHOICE.split(template)
    # Odd places hold what stood in braces.
    choices = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]
