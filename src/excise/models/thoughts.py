"""Chains of thought: the tags that mark them, text that closes them, and answers without them.

Text between the tags is not part of the answer. If a chain of thought is open at the end of a prompt, the
first tokens belong to it, and directions, refusals and KL measured there would describe the thought.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ANALYSIS, _FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"


@dataclass(frozen=True)
class Mark:
    """The tags of a chain of thought. closed: an empty chain of thought."""

    opening: str
    closing: str
    closed: str


def _spaced(opening: str, closing: str) -> Mark:
    """Tags with the white space that most models are trained with."""
    return Mark(opening, closing, f"{opening}\n\n{closing}\n\n")


def _joined(opening: str, closing: str) -> Mark:
    return Mark(opening, closing, opening + closing)


_MARKS: tuple[Mark, ...] = (
    _spaced("<think>", "</think>"),
    _spaced("<thinking>", "</thinking>"),
    _joined("<thought>", "</thought>"),
    _joined("[THINK]", "[/THINK]"),
    # Harmony, the format of gpt-oss.
    Mark(_ANALYSIS, _FINAL, f"{_ANALYSIS}<|end|><|start|>assistant{_FINAL}"),
    # Gemma 4.
    _joined("<|channel>thought\n", "<channel|>"),
    _joined("<unused94>thought\n", "<unused95>"),
    _joined("<seed:think>", "</seed:think>"),
    _joined("<|inner_prefix|>", "<|inner_suffix|>"),
    _joined("<|START_THINKING|>", "<|END_THINKING|>"),
    _spaced("<|begin_of_thought|>", "<|end_of_thought|>"),
    _joined("◁think▷", "◁/think▷"),
)
"""The tags of published models; `_TAG` finds other tags."""
_TAG = re.compile(
    r"(?P<left>[<\[])(?P<name>[\w:.-]*(?:think|thought|reason)[\w:.-]*)(?P<right>[>\]])", re.I
)
"""An opening tag that is not in the list; its closing tag has a slash before the name."""


def opened_by(answer: str) -> Mark | None:
    """The tags of the chain of thought that an answer begins with; None if it begins otherwise."""
    beginning = answer.lstrip()
    tag = _TAG.match(beginning)
    other = None if tag is None else _of_tag(tag)
    return next((mark for mark in _MARKS if beginning.startswith(mark.opening)), other)


def left_open(beginning: str) -> Mark | None:
    """The tags of a chain of thought that is open at the end; None if no chain of thought is open.

    beginning: the text that the template has put after the last prompt. Tags inside prompts do not count.
    """
    marks = (*_MARKS, *map(_of_tag, _TAG.finditer(beginning)))
    last = max(marks, key=lambda mark: beginning.rfind(mark.opening))
    place = beginning.rfind(last.opening)
    return None if place < 0 or last.closing in beginning[place:] else last


def ends_closed(beginning: str) -> bool:
    """True if the text that the template has put after the last prompt ends with a closing tag."""
    end = beginning.rstrip()
    tags = [tag[0] for tag in _CLOSING_TAG.finditer(end)]
    return any(end.endswith(closing) for closing in (*(mark.closing for mark in _MARKS), *tags))


def closing_of(mark: Mark, said: str, known: Sequence[str] = ()) -> str:
    """The text that closes the chain of thought at the end of `said`.

    said: text that ends with the opening tag and white space. known: texts in which the model's template may
    show an empty chain of thought; its form is used, and otherwise `mark.closed`.
    """
    shown = [closed for text in known if (closed := _shown(mark, text)) is not None]
    forms = [*shown, mark.closed, _spaced(mark.opening, mark.closing).closed]
    opened = said[said.rindex(mark.opening) :]
    for closed in forms:
        if closed.startswith(opened):
            return closed[len(opened) :]
    return forms[0][len(mark.opening) :].lstrip()


def without_thoughts(answer: str, *, opened: bool = False) -> str:
    """An answer without its chains of thought; an unclosed chain of thought extends to the end.

    opened: whether the prompt has already opened a chain of thought.
    """
    if opened:
        closings = [(answer.find(mark.closing), mark.closing) for mark in _MARKS]
        closings += [(tag.start(), tag[0]) for tag in _CLOSING_TAG.finditer(answer)]
        found = min(((place, text) for place, text in closings if place >= 0), default=None)
        if found is None:
            return ""
        answer = answer[found[0] + len(found[1]) :]
    kept = ""
    while (next_one := _next_thought(answer)) is not None:
        place, mark = next_one
        kept += answer[:place]
        _, closing, answer = answer[place:].partition(mark.closing)
        if not closing:
            return kept
    return kept + answer


def _next_thought(answer: str) -> tuple[int, Mark] | None:
    """The position of the next chain of thought: a listed tag anywhere, or another tag at the beginning."""
    known = [(place, mark) for mark in _MARKS if (place := answer.find(mark.opening)) >= 0]
    if known:
        return min(known, key=lambda one: one[0])
    mark = opened_by(answer)
    return None if mark is None else (answer.index(mark.opening), mark)


def unfinished(answer: str, *, opened: bool = False) -> bool:
    """True if an answer ends before its chain of thought does."""
    return bool(answer.strip()) and not without_thoughts(answer, opened=opened).strip()


_CLOSING_TAG = re.compile(r"[<\[]/[\w:.-]*(?:think|thought|reason)[\w:.-]*[>\]]", re.I)


def _of_tag(tag: re.Match[str]) -> Mark:
    opening = tag[0]
    known = next((mark for mark in _MARKS if mark.opening == opening), None)
    return known or _spaced(opening, f"{tag['left']}/{tag['name']}{tag['right']}")


def _shown(mark: Mark, text: str) -> str | None:
    """An empty chain of thought in `text`, with the white space inside and after it."""
    pattern = rf"{re.escape(mark.opening)}\s*{re.escape(mark.closing)}\s*"
    found = re.search(pattern, text.replace("\\n", "\n"))
    return None if found is None else found[0]
