"""Finds the response prefix: the common beginning of all answers, which is given to the model and not judged.

A common beginning does not depend on the prompt, and the KL of its first token is 0 for every edit. A marker,
or the beginning of a marker, is never part of the prefix.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from excise.judges.text import normalise
from excise.models.chat import Chat
from excise.models.thinking_switch import asks_for_thinking, closing_text, without_thinking
from excise.models.thoughts import left_open, opened_by
from excise.prompts.sets import Prompt

_ROUNDS = 6
"""Most rounds of answers; the limit ends the search for a model whose prefix never ends."""

Ask = Callable[[Chat], Sequence[Sequence[int]]]
"""Gives the beginnings of the answers to some prompts with a chat, as token ids."""


def with_common_beginning(
    chat: Chat, prompts: Sequence[Prompt], ask: Ask, markers: Sequence[str]
) -> Chat:
    """`chat` with the response prefix after which answers differ, and with thinking closed or switched off.

    ask: answers `prompts`. markers: normalised phrases, which are never skipped.
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
    # The same text follows every prompt, which is wrong if only some prompts open a thought.
    return replace(chat, response_prefix=closings.pop()) if len(closings) == 1 else chat


def _closed_by_answers(
    chat: Chat, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> Chat | None:
    """`chat` with the thought closed that answers begin with; None if it stays open.

    A thought that all answers close with the same text is an ordinary common beginning. A thought of only
    some answers can only be switched off by the template.
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
    if mark is None or any(each != mark for each in marks):
        return None
    space = texts[0][: texts[0].index(mark.opening)]
    text = space + mark.opening + closing_text(chat, mark, mark.opening)
    return replace(chat, response_prefix=chat.response_prefix + text)


def common_beginning(
    chat: Chat, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], markers: Sequence[str]
) -> str:
    """The part of the common beginning of all `answers` that may be skipped; may be empty.

    It ends between tokens and not inside a word. Equal answers are not skipped, because nothing would be left
    to judge.
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
        # Encoded together with the prompt, the text has other tokens than the answer. The space at its end
        # belongs to the next word; the rest is skipped.
        return piece.rstrip(" ")
    return ""


def _open_thoughts(
    chat: Chat, answers: Sequence[Sequence[int]], shared: Sequence[int]
) -> list[str]:
    """The texts of answers that begin with a thought that the common beginning leaves open."""
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
    """True if some answer continues a word after `shared`."""
    if shared[-1] in chat.added_tokens:
        return False
    text = chat.appended_text(prompt, shared)
    nexts = {answer[len(shared)] for answer in answers if len(answer) > len(shared)}
    return any(
        token not in chat.added_tokens
        and _joins(text[-1:], chat.appended_text([*prompt, *shared], [token])[:1])
        for token in nexts
    )


def _joins(left: str, right: str) -> bool:
    """True if two characters belong to one word. A wide character (Chinese, Japanese) is a word."""
    return all(
        letter.isalnum() and unicodedata.east_asian_width(letter) not in ("W", "F")
        for letter in (left, right)
    )


def _hides_marker(skipped: str, markers: Sequence[str], *, word_end: bool) -> bool:
    """True if the skipped text contains a marker or the beginning of a marker.

    word_end: whether the text ends a word, so that no letter can follow.
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
