"""Prompts as the model sees them: chat template, generation prompt, and the start of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from excise.prompts.sets import Prompt

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
        messages = [{"role": "user", "content": prompt.text}]
        if prompt.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": prompt.system_prompt})
        rendered = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return str(rendered) + self.response_prefix

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt. The template brings the special tokens; none are added."""
        texts = [self.text(prompt) for prompt in prompts]
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """An answer's text, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def common_response_prefix(answers: Sequence[str]) -> str:
    """What all `answers` begin with, to be skipped; a chain of thought among it is closed.

    The cut falls on white space, so that no word is torn; answers that are all the same give nothing,
    since then there would be nothing left to judge.
    """
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*answers, strict=False))
    prefix = "".join(letters[0] for letters in columns)
    for opening, closed in _CLOSED_THOUGHTS.items():
        if prefix.lstrip().startswith(opening):
            return closed
    if len(set(answers)) < 2:
        return ""
    cut = max(prefix.rfind(" "), prefix.rfind("\n"))
    return prefix[: cut + 1].rstrip(" ")
