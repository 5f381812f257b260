"""Prompts as the model sees them: chat template, generation prompt, and the start of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from excise.prompts.sets import Prompt
from excise.scores.markers import DEFAULT_MARKERS, normalise

_CLOSED_THOUGHTS: dict[str, str] = {
    "<think>": "<think>\n\n</think>\n\n",
    "<thought>": "<thought></thought>",
    "[THINK]": "[THINK][/THINK]",
    "<|channel|>analysis<|message|>": (
        "<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>"
    ),
}
"""Opening of a chain of thought → the same thought closed at once, so that what follows is the answer."""


@dataclass(frozen=True)
class Chat:
    """How prompts become token ids.

    response_prefix: text that every answer begins with; it is given to the model and not counted.
    """

    tokenizer: PreTrainedTokenizerBase
    response_prefix: str = ""

    def text(self, prompt: Prompt) -> str:
        """The prompt in the model's chat template, up to where the answer starts."""
        rendered = render(self.tokenizer, prompt.text, prompt.system_prompt)
        return rendered + self.response_prefix

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt. The template brings the special tokens; none are added."""
        texts = [self.text(prompt) for prompt in prompts]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def decode(self, tokens: Sequence[int], *, special_tokens: bool = False) -> str:
        """An answer's text, special tokens left out unless they are asked for."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special_tokens))


def render(tokenizer: PreTrainedTokenizerBase, text: str, system_prompt: str | None) -> str:
    """One user turn in the model's chat template, up to where the answer starts.

    Raises jinja2.TemplateError if the template is broken or does not know the system role.
    """
    messages = [{"role": "user", "content": text}]
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def response_prefix(prompts: Sequence[str], answers: Sequence[str]) -> str:
    """What is to be given to the model before every answer; empty if nothing.

    prompts: rendered, up to where the answer starts. answers: their beginnings, special tokens included.
    A chain of thought is closed at once, whether the model opens it or the template has done so.
    Otherwise it is what all answers begin with, up to white space, so that no word is torn.
    """
    shared = _common_beginning(answers)
    for opening, closed in _CLOSED_THOUGHTS.items():
        if shared.lstrip().startswith(opening):
            return closed
        if all(prompt.rstrip().endswith(opening) for prompt in prompts):
            return closed.removeprefix(opening)
    # Answers that are all the same leave nothing to judge once they are skipped; and what holds a
    # marker, or may be the beginning of one, has to be judged.
    if len(set(answers)) < 2:
        return ""
    cut = max(shared.rfind(" "), shared.rfind("\n"))
    skipped = shared[: cut + 1].rstrip(" ")
    first_words = {marker.split()[0] for marker in DEFAULT_MARKERS}
    return "" if first_words & set(normalise(skipped).split()) else skipped


def _common_beginning(texts: Sequence[str]) -> str:
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in columns)
