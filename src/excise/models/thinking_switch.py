"""Switches thinking off by the variable that a model's own chat template has for it.

Templates of hybrid models have a variable such as `enable_thinking`, `thinking`, `reasoning_effort` or a
budget. The variable and its value are found by rendering the template with candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from excise.errors import ModelError
from excise.models.chat import Chat
from excise.models.template import literals, template_text, variables
from excise.models.thoughts import Mark, closing_of, ends_closed, left_open
from excise.prompts.sets import Prompt

_ABOUT_THOUGHTS = re.compile(r"think|thought|reason|reflect|effort|(^|_)cot(_|$)", re.I)
_AGAINST_THOUGHTS = re.compile(r"disable|skip|without|(^|_)no_?(think|reason|thought)", re.I)
_OFF_WORDS = ("none", "off", "no", "disabled", "disable", "nothink", "no_think", "no-think")
_REASONING, _ANSWER = "What was thought, 7.", "What was answered, 8."


def asks_for_thinking(arguments: Mapping[str, JsonValue]) -> bool:
    """True if template arguments switch thinking on."""
    return any(
        value is True and _ABOUT_THOUGHTS.search(name) and not _AGAINST_THOUGHTS.search(name)
        for name, value in arguments.items()
    )


def without_thinking(chat: Chat, prompts: Sequence[Prompt]) -> Chat | None:
    """`chat` with thinking switched off by the template; None if the template has no switch.

    If the switch only appends text to the prompts, that text becomes the response prefix; otherwise the
    template is called with the switch. Both ways give the same prompts.
    """
    plain = replace(chat, response_prefix="")
    before = [plain.text(prompt) for prompt in prompts]
    for name, value in _candidates(chat):
        off = replace(plain, call=plain.call.with_arguments({name: value}))
        try:
            after = [off.text(prompt) for prompt in prompts]
            if after == before or not _is_off(plain, off, prompts[0], name, value):
                continue
        except ModelError:
            # The template takes no such value.
            continue
        added = {text.removeprefix(start) for text, start in zip(after, before, strict=True)}
        extends = all(text.startswith(start) for text, start in zip(after, before, strict=True))
        return replace(plain, response_prefix=added.pop()) if extends and len(added) == 1 else off
    return None


def closing_text(chat: Chat, mark: Mark, said: str) -> str:
    """The text that closes the chain of thought that `said` has opened, in the template's own form."""
    text = template_text(chat.tokenizer, chat.call)
    return closing_of(mark, said, (*literals(text), *_from_history(chat)))


def _candidates(chat: Chat) -> Iterator[tuple[str, JsonValue]]:
    """Variables of the template, with values that may switch thinking off; likely values first."""
    text = template_text(chat.tokenizer, chat.call)
    names = sorted(
        name
        for name in variables(text) - chat.call.arguments.keys()
        if _ABOUT_THOUGHTS.search(name)
    )
    for name in names:
        yield name, bool(_AGAINST_THOUGHTS.search(name))
    words = [word for word in _OFF_WORDS if word in literals(text)]
    for name in names:
        yield from ((name, word) for word in words)
        yield name, 0


def _is_off(plain: Chat, off: Chat, prompt: Prompt, name: str, value: JsonValue) -> bool:
    """True if the template, called with the switch, does not start a chain of thought."""
    before, after = plain.generation_prompt(prompt), off.generation_prompt(prompt)
    if left_open(after) is not None:
        return False
    if ends_closed(after) or left_open(before) is not None:
        return True
    if isinstance(value, bool):
        # The switch changes an earlier part, such as the system prompt; it is off if the opposite value is
        # the default.
        on = replace(plain, call=plain.call.with_arguments({name: not value}))
        return on.text(prompt) == plain.text(prompt)
    return isinstance(value, str)


def _from_history(chat: Chat) -> tuple[str, ...]:
    """An empty chain of thought as the template renders it in earlier turns; empty if it renders none."""
    plain = replace(chat, response_prefix="")
    try:
        shown = plain.transcript("Hello", reasoning=_REASONING, answer=_ANSWER)
    except ModelError:
        return ()
    before, found, _ = shown.partition(_ANSWER)
    return (before.replace(_REASONING, ""),) if found and _REASONING in before else ()
