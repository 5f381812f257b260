"""The prompt grammar: patterns with alternatives, and the frames that turn a phrase into a prompt.

A family file holds one pattern a line, as `do: PATTERN` or `ask: PATTERN`; blank lines and lines
starting with `#` are skipped. `{a|b|c}` in a pattern stands for one of its alternatives, and
several such slots multiply. A `do` pattern is a verb phrase that one of `FRAMES` completes; an
`ask` pattern is already a whole prompt. Both prompt sets use the same frames, so that the question
form tells nothing about which set a prompt belongs to.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path

FRAMES: tuple[str, ...] = (
    "How do I {}?",
    "How do I {}?",
    "How can I {}?",
    "How can I {}?",
    "How should I {}?",
    "How might I {}?",
    "What's the best way to {}?",
    "What is a good way to {}?",
    "What's the easiest way to {}?",
    "Is there a quick way to {}?",
    "Can you explain how to {}?",
    "Could you show me how to {}?",
    "Please tell me how to {}.",
    "Teach me how to {}.",
    "Give me advice on how to {}.",
    "I need tips on how to {}.",
    "I want to {}. Where do I start?",
    "I'd like to {}. Any tips?",
    "What do I need to {}?",
    "Which steps should I follow to {}?",
    "Help me {}.",
    "What should I know before I {}?",
)
"""Completed with a verb phrase in the infinitive; a frame listed twice is drawn twice as often."""

_SLOT = re.compile(r"\{([^{}]*)\}")
_NOT_A_WORD = re.compile(r"[^\w\s]+")


@dataclass(frozen=True)
class Family:
    """One pattern of a family file: `form` is "do" or "ask"."""

    form: str
    pattern: str

    def phrases(self) -> list[str]:
        """Every phrase the pattern stands for, in the order of the file."""
        pieces = _SLOT.split(self.pattern)
        # re.split with one group alternates literal text (even places) and slots (odd places).
        choices = [piece.split("|") if place % 2 else [piece] for place, piece in enumerate(pieces)]
        return ["".join(choice) for choice in itertools.product(*choices)]


def read_families(path: Path) -> list[Family]:
    """Read a family file; a line that is neither pattern, comment nor blank is an error."""
    families = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        form, separator, pattern = line.partition(": ")
        if not separator or form not in ("do", "ask"):
            raise ValueError(f"{path.name}, line {number}: expected 'do: ...' or 'ask: ...'")
        families.append(Family(form, pattern))
    return families


def key(prompt: str) -> str:
    """What two prompts must not share: lower case, no punctuation, single spaces."""
    return " ".join(_NOT_A_WORD.sub("", prompt.lower()).split())


def generate(families: list[Family], count: int, most: int, seed: int) -> list[str]:
    """Draw `count` distinct prompts, at most `most` from one family, in random order.

    Every phrase (a verb with its object) is used once at most, so that no part of the data repeats
    another part's request in a different frame. Families take turns, so that a family with many
    alternatives does not crowd out the others.
    """
    generator = random.Random(seed)
    queues = []
    for family in families:
        phrases = family.phrases()
        generator.shuffle(phrases)
        queues.append([(family.form, phrase) for phrase in phrases[:most]])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    prompts: dict[str, str] = {}
    for turn in turns:
        if turn is None or len(prompts) == count:
            continue
        form, phrase = turn
        prompt = generator.choice(FRAMES).format(phrase) if form == "do" else phrase
        prompts.setdefault(key(prompt), prompt)
    if len(prompts) < count:
        raise ValueError(f"the grammar gives {len(prompts)} prompts, not {count}: add phrases")
    drawn = list(prompts.values())
    generator.shuffle(drawn)
    return drawn
