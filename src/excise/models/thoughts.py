"""Chains of thought: how models mark them, what closes one at once, and answers without them.

What a thinking model says between its marks is no answer. Where a thought stands open, the first tokens of
an "answer" are the thought's, and so are the directions, refusals and KL that are measured there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_ANALYSIS, _FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"


@dataclass(frozen=True)
class Mark:
    """How a chain of thought is written. closed: the text of one that was closed at once."""

    opening: str
    closing: str
    closed: str


def _spaced(opening: str, closing: str) -> Mark:
    """The habit that most models were trained with."""
    return Mark(opening, closing, f"{opening}\n\n{closing}\n\n")


_MARKS: tuple[Mark, ...] = (
    _spaced("<think>", "</think>"),
    _spaced("<thinking>", "</thinking>"),
    Mark("<thought>", "</thought>", "<thought></thought>"),
    Mark("[THINK]", "[/THINK]", "[THINK][/THINK]"),
    # Harmony, the format of gpt-oss.
    Mark(_ANALYSIS, _FINAL, f"{_ANALYSIS}<|end|><|start|>assistant{_FINAL}"),
    # Gemma 4.
    Mark("<|channel>thought\n", "<channel|>", "<|channel>thought\n<channel|>"),
    Mark("<unused94>thought\n", "<unused95>", "<unused94>thought\n<unused95>"),
    Mark("<seed:think>", "</seed:think>", "<seed:think></seed:think>"),
    Mark("<|inner_prefix|>", "<|inner_suffix|>", "<|inner_prefix|><|inner_suffix|>"),
    Mark("<|START_THINKING|>", "<|END_THINKING|>", "<|START_THINKING|><|END_THINKING|>"),
    Mark(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        "<|begin_of_thought|>\n\n<|end_of_thought|>\n\n",
    ),
    Mark("◁think▷", "◁/think▷", "◁think▷◁/think▷"),
)
"""The marks of published models; those of Mark's habit that are not listed are found by `_TAG`."""
_TAG = re.compile(
    r"(?P<left>[<\[])(?P<name>[\w:.-]*(?:think|thought|reason)[\w:.-]*)(?P<right>[>\]])", re.I
)
"""An opening mark of a model that is not in the list, closed by the same with a slash before its name."""


def opened_by(answer: str) -> Mark | None:
    """The mark that an answer begins with; None if it does not begin with a thought."""
    beginning = answer.lstrip()
    for mark in _MARKS:
        if beginning.startswith(mark.opening):
            return mark
    tag = _TAG.match(beginning)
    return None if tag is None else _of_tag(tag)


def left_open(beginning: str) -> Mark | None:
    """The mark of a thought that stands open at the end; None if there is none.

    beginning: what a template has put behind the last prompt: in prompts themselves, marks open nothing.
    """
    last: tuple[int, Mark] | None = None
    for mark in (*_MARKS, *map(_of_tag, _TAG.finditer(beginning))):
        place = beginning.rfind(mark.opening)
        if place >= 0 and (last is None or place > last[0]):
            last = place, mark
    if last is None or last[1].closing in beginning[last[0] :]:
        return None
    return last[1]


def ends_closed(beginning: str) -> bool:
    """True if what a template has put behind the last prompt ends with a thought that is closed already."""
    end = beginning.rstrip()
    tags = [tag[0] for tag in _CLOSING_TAG.finditer(end)]
    return any(end.endswith(closing) for closing in (*(mark.closing for mark in _MARKS), *tags))


def closing_of(mark: Mark, said: str, known: Sequence[str] = ()) -> str:
    """What has to follow `said`, which ends in an opened thought, to close it at once.

    said: text up to the opening and white space behind it. known: texts in which the model's template may
    show how it writes a closed thought; without one it is written as the mark's habit is.
    """
    shown = [closed for text in known if (closed := _shown(mark, text)) is not None]
    forms = [*shown, mark.closed, _spaced(mark.opening, mark.closing).closed]
    opened = said[said.rindex(mark.opening) :]
    for closed in forms:
        if closed.startswith(opened):
            return closed[len(opened) :]
    return forms[0][len(mark.opening) :].lstrip()


def without_thoughts(answer: str, *, opened: bool = False) -> str:
    """An answer's text without its chains of thought; a thought that is not closed goes on to the end.

    opened: whether the prompt has opened one already.
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
    """Where the next thought begins: with a known mark anywhere, with another one at the beginning."""
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
    """A closed thought that stands in `text`, with the white space inside and behind it."""
    pattern = rf"{re.escape(mark.opening)}\s*{re.escape(mark.closing)}\s*"
    found = re.search(pattern, text.replace("\\n", "\n"))
    return None if found is None else found[0]
