"""A model's chat template: choosing it, calling it, and looking into it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from excise.errors import ModelError, first_line, translated
from excise.models.lost_text import holds
from excise.system.json_files import read_json_object
from excise.system.paths import expanded

_PROBE, _SYSTEM_PROBE = "The text of a prompt, 7", "The text of a system prompt, 8"
_IN_PARTS = (
    frozenset[str](),
    frozenset(("system", "user", "assistant")),
    frozenset(("user", "assistant")),
)
"""Roles whose content is passed as a list of parts; tried in this order."""
_LONGEST = 1 << 20
"""Bytes of a template file. Without a limit, reading a device would never end."""
_OF_PROCESSORS = ("chat_template.json", "processor_config.json")
_OTHER = "give another one with chat_template (--chat-template FILE)"

_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
"""transformers' own tag around answers, which Jinja does not know."""

Message = Mapping[str, str]


@dataclass(frozen=True)
class TemplateCall:
    """How a chat template is called.

    name: of a named template; None for the default template. arguments: template variables beside the
    messages. in_parts: roles whose content is passed as a list of parts.
    """

    name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    in_parts: frozenset[str] = frozenset()

    def with_arguments(self, arguments: Mapping[str, Any]) -> TemplateCall:
        """The same call with further arguments."""
        return replace(self, arguments={**self.arguments, **arguments})


def messages_of(
    text: str, system_prompt: str | None, earlier: Sequence[tuple[str, str]] = ()
) -> list[Message]:
    """The system prompt, if any, earlier turns as roles and texts, and one user message."""
    system = [] if system_prompt is None else [("system", system_prompt)]
    turns = [*system, *earlier, ("user", text)]
    return [{"role": role, "content": content} for role, content in turns]


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    call: TemplateCall,
    *,
    generation_prompt: bool = True,
) -> str:
    """The rendered `messages`.

    A template is a program that comes with the model: any exception that it raises becomes a ModelError.
    """
    try:
        rendered = tokenizer.apply_chat_template(
            conversation_of(messages, call),
            chat_template=call.name,
            add_generation_prompt=generation_prompt,
            tokenize=False,
            **call.arguments,
        )
    except Exception as error:
        says = first_line(error)
        if not isinstance(error, TemplateError):
            says = f"{type(error).__name__}: {says}"
        raise ModelError(
            f"the chat template does not take such prompts ({says}); {_OTHER}, or no system prompt"
        ) from error
    return str(rendered)


def conversation_of(messages: Sequence[Message], call: TemplateCall) -> list[dict[str, Any]]:
    """The messages in the form that the template takes."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if message["role"] in call.in_parts
        else dict(message)
        for message in messages
    ]


def _text_of(path: Path) -> str:
    """The text of a template file. Raises OSError, or ValueError if it is not text or too large."""
    if path.exists() and (not path.is_file() or path.stat().st_size > _LONGEST):
        raise ValueError("not a file, or too large for a template")
    return path.read_text(encoding="utf-8")


def choose_template(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    arguments: Mapping[str, Any],
    system_prompt: str | None,
) -> tuple[TemplateCall, str | None]:
    """How to call the chat template, and the text of a template file.

    template: the name of one of the model's templates, or a Jinja file, which replaces them.
    Content is passed as text if the template renders it, else as a list of parts. Raises ModelError if there
    is no template, if several have no default, or if the template leaves out content.
    """
    own = tokenizer.chat_template
    named = own if isinstance(own, dict) else {}
    names = ", ".join(sorted(named))
    text = None
    if template is not None and template not in named:
        what = "cannot be read"
        if named:
            what += f", and the model has no template of this name ({names})"
        at = {"setting": "chat_template", "value": template}
        with translated(ModelError, what, OSError, ValueError, **at):
            text = _text_of(expanded(template))
        tokenizer.chat_template = text
    elif own is None:
        raise ModelError(
            "no chat template; give a Jinja file with chat_template (--chat-template FILE)"
        )
    elif named and template is None and "default" not in named:
        raise ModelError(
            f"several chat templates ({names}) and no default; choose one with chat_template "
            "(--chat-template NAME)"
        )
    call = TemplateCall(None if text is not None else template, arguments)
    return _surviving(tokenizer, call, system_prompt), text


def _surviving(
    tokenizer: PreTrainedTokenizerBase, call: TemplateCall, system_prompt: str | None
) -> TemplateCall:
    """`call` with content in the first form that the template renders completely."""
    messages = messages_of(_PROBE, None if system_prompt is None else _SYSTEM_PROBE)
    failure: ModelError | None = None
    for in_parts in _IN_PARTS:
        tried = replace(call, in_parts=in_parts)
        try:
            rendered = render(tokenizer, messages, tried)
        except ModelError as error:
            failure = failure or error
            continue
        if all(holds(rendered, message["content"]) for message in messages):
            return tried
    if failure is not None:
        raise failure
    plain = render(tokenizer, messages, call)
    what = "a system prompt" if holds(plain, _PROBE) else "the text of prompts"
    raise ModelError(f"the chat template leaves out {what}, given as a text or in parts; {_OTHER}")


def template_text(tokenizer: PreTrainedTokenizerBase, call: TemplateCall) -> str:
    """The Jinja source of the template that `call` uses."""
    return str(tokenizer.get_chat_template(call.name))


def variables(text: str) -> frozenset[str]:
    """The input variables of a template; empty if it cannot be parsed."""
    return frozenset(meta.find_undeclared_variables(_parsed(text)))


def literals(text: str) -> tuple[str, ...]:
    """The string constants of a template and the text between its tags."""
    tree = _parsed(text)
    values = [node.value for node in tree.find_all(nodes.Const)]
    between = [node.data for node in tree.find_all(nodes.TemplateData)]
    return (*(value for value in values if isinstance(value, str)), *between)


def _parsed(text: str) -> nodes.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    try:
        return environment.parse(_GENERATION.sub("", text))
    except TemplateError:
        return environment.parse("")


def template_file(folder: Path) -> str | None:
    """The chat template in the files of a checkpoint's image processor; None if they have no template.

    Older processors store it as JSON. Raises ModelError for a damaged file.
    """
    for name in _OF_PROCESSORS:
        path = folder / name
        if path.is_file() and isinstance(
            text := read_json_object(path, ModelError).get("chat_template"), str
        ):
            return text
    return None
