"""What all answers of a model begin with: found, given to the model, and not judged.

A common beginning says nothing about a prompt, and where all answers begin alike the first token's KL is 0
whatever an edit does. What the markers look for is never skipped, nor anything that may be its beginning.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from excise.models.chat import Chat
from excise.models.thinking_switch import asks_for_thinking, closing_text, without_thinking
from excise.models.thoughts import left_open, opened_by
from excise.prompts.sets import Prompt
from excise.scorers.markers import normalise

_ROUNDS = 6
"""How often answers are asked for again behind what was found; a model that goes round in circles ends."""

Ask = Callable[[Chat], Sequence[Sequence[int]]]
"""The beginnings of the answers to some prompts, as token ids, if they are put by this chat."""


def with_common_beginning(
    chat: Chat, prompts: Sequence[Prompt], ask: Ask, markers: Sequence[str]
) -> Chat:
    """`chat` with the response prefix behind which answers differ, and thoughts closed or switched off.

    ask: asks `prompts`. markers: those in force, normalised; what they look for is not skipped.
    """
    closing = not asks_for_thinking(chat.call.arguments)
    if closing and any(left_open(chat.generation_prompt(prompt)) for prompt in prompts):
        chat, closing = _closed_by_template(chat, prompts), False
    for _ in range(_ROUNDS):
        answers = ask(chat)
        thinking = [opened_by(text) for text in _texts(chat, answers)]
        if closing and any(thinking):
            found = _closed_by_answers(chat, prompts, answers)
            if found is not None:
                chat, closing = found, False
                continue
        more = common_beginning(chat, prompts, answers, markers)
        if not more:
            return chat
        chat = replace(chat, response_prefix=chat.response_prefix + more)
    return chat


def _closed_by_template(chat: Chat, prompts: Sequence[Prompt]) -> Chat:
    """`chat` with the thought closed that the template opens."""
    off = without_thinking(chat, prompts)
    if off is not None:
        return off
    beginnings = {chat.generation_prompt(prompt) for prompt in prompts}
    closings = set[str]()
    for beginning in beginnings:
        mark = left_open(beginning)
        closings.add("" if mark is None else closing_text(chat, mark, beginning))
    # One text follows every prompt; where some prompts open a thought and others do not, none can.
    return replace(chat, response_prefix=closings.pop()) if len(closings) == 1 else chat


def _closed_by_answers(
    chat: Chat, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> Chat | None:
    """`chat` with the thought closed that answers begin with; None if that is not to be done.

    One that all answers close alike is a common beginning like another one. One that only some begin with is
    not put before the others, unless the template can switch it off.
    """
    texts = _texts(chat, answers)
    marks = [opened_by(text) for text in texts]
    shared = chat.decode(_shared(answers), special_tokens=True)
    if all(mark is not None and mark.closing in shared for mark in marks):
        return None
    off = without_thinking(chat, prompts)
    if off is not None:
        return off
    mark = marks[0]
    if mark is None or any(one != mark for one in marks):
        return None
    space = texts[0][: texts[0].index(mark.opening)]
    text = space + mark.opening + closing_text(chat, mark, mark.opening)
    return replace(chat, response_prefix=chat.response_prefix + text)


def common_beginning(
    chat: Chat, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], markers: Sequence[str]
) -> str:
    """What may be skipped of what all `answers` begin with; empty if nothing.

    It ends between tokens and where no word is torn. Answers that are all the same leave nothing to judge
    once they are skipped.
    """
    shared = _shared(answers)
    if not shared or len(set(map(tuple, answers))) < 2:
        return ""
    if any(opened_by(text) for text in _open_thoughts(chat, answers, shared)):
        return ""
    asked = chat.encode(prompts)
    texts = [chat.text(prompt) for prompt in prompts]
    for length in range(len(shared), 0, -1):
        piece = chat.appended_text(asked[0], shared[:length])
        inside = _inside_word(chat, asked[0], shared[:length], answers)
        if inside or "\ufffd" in piece or not piece.strip(" "):
            continue
        free = piece.endswith(tuple(" \n\t")) or shared[length - 1] in chat.added_tokens
        if _hides_marker(chat.response_prefix + piece, markers, word_end=not free):
            continue
        expected = [[*tokens, *shared[:length]] for tokens in asked]
        if chat.tokens([text + piece for text in texts]) == expected:
            return piece
        # Encoded as one text with the prompt, it is other tokens than the model said. The space at its end is
        # the next word's; the rest stays, or all answers would go on to begin alike.
        return piece.rstrip(" ")
    return ""


def _open_thoughts(
    chat: Chat, answers: Sequence[Sequence[int]], shared: Sequence[int]
) -> list[str]:
    """The texts of answers that begin with a thought which their common beginning does not close."""
    common = chat.decode(shared, special_tokens=True)
    return [
        text
        for text in _texts(chat, answers)
        if (mark := opened_by(text)) is not None and mark.closing not in common
    ]


def _texts(chat: Chat, answers: Sequence[Sequence[int]]) -> list[str]:
    return [chat.decode(answer, special_tokens=True) for answer in answers]


def _shared(answers: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all answers begin with."""
    shared: list[int] = []
    for tokens in zip(*answers, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return shared


def _inside_word(
    chat: Chat, prompt: Sequence[int], shared: Sequence[int], answers: Sequence[Sequence[int]]
) -> bool:
    """True if a word goes on behind `shared` in some answer."""
    if shared[-1] in chat.added_tokens:
        return False
    said = chat.appended_text(prompt, shared)
    nexts = {answer[len(shared)] for answer in answers if len(answer) > len(shared)}
    return any(
        one not in chat.added_tokens
        and _joins(said[-1:], chat.appended_text([*prompt, *shared], [one])[:1])
        for one in nexts
    )


def _joins(left: str, right: str) -> bool:
    """True if no word ends between two characters. Wide ones (Chinese, Japanese) are words by themselves."""
    return all(
        letter.isalnum() and unicodedata.east_asian_width(letter) not in ("W", "F")
        for letter in (left, right)
    )


def _hides_marker(skipped: str, markers: Sequence[str], *, word_end: bool) -> bool:
    """True if a marker stands in what is skipped, or may begin there.

    word_end: whether a word ends there, so that no letter can follow.
    """
    text = normalise(skipped)
    for marker in markers:
        if marker in text:
            return True
        for length in range(1, len(marker)):
            if text.endswith(marker[:length]) and not (
                word_end and _joins(marker[length - 1], marker[length])
            ):
                return True
    return False
