"""Chat with a model, edited or not: answers are streamed, the conversation's history is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from excise.cli.printable import printable
from excise.cli.session import Ask
from excise.config import Settings
from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.model.load import LoadedModel

LEAST_NEW_TOKENS = 512
"""A conversation's answers may be longer than those that are only scored."""
_LEAVE = ("/quit", "/exit", "/q")

Write = Callable[[str], None]


@dataclass
class Conversation:
    """A model and what was said so far, as the chat template wants it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    messages: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, loaded: LoadedModel) -> Conversation:
        """A new conversation; it begins with the settings' system prompt if there is one."""
        system = settings.system_prompt
        return cls(
            loaded.model,
            loaded.tokenizer,
            max(LEAST_NEW_TOKENS, settings.max_new_tokens),
            [] if system is None else [{"role": "system", "content": system}],
        )

    def answer(self, said: str, write: Write) -> str:
        """The greedy answer to `said`, written bit by bit as it comes. Both enter the history.

        Ctrl+C ends the answer; what there is of it stays.
        """
        self.messages.append({"role": "user", "content": said})
        text = self.tokenizer.apply_chat_template(
            self.messages, add_generation_prompt=True, tokenize=False
        )
        tokens = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        streamer = _Streamer(self.tokenizer, write)
        try:
            with torch.inference_mode():
                self.model.generate(
                    input_ids=tokens["input_ids"].to(self.model.device),
                    attention_mask=tokens["attention_mask"].to(self.model.device),
                    max_new_tokens=self.max_new_tokens,
                    # The sampling parameters that come with a model mean nothing to greedy decoding.
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=self._pad(),
                    streamer=streamer,
                )
        except KeyboardInterrupt:
            write(" …")
        self.messages.append({"role": "assistant", "content": streamer.text})
        return streamer.text

    def _pad(self) -> int:
        """Any token will do, since nothing is padded; `generate` only wants to be told."""
        token = self.tokenizer.pad_token_id
        if token is None:
            token = self.tokenizer.eos_token_id
        return 0 if token is None else int(token)


class _Streamer(TextStreamer):  # type: ignore[misc]
    """Hands on text as soon as its characters are certain, and keeps all of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each new piece."""
        self.text += text
        self._write(text)


def to_standard_output(text: str) -> None:
    """Write at once, without an end of line."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def converse(
    conversation: Conversation, edit: Edit | None, ask: Ask, write: Write = to_standard_output
) -> None:
    """Ask, answer, and so on, until /quit or the end of the input. edit: applied all the while."""
    write("Chat; /quit or Ctrl+D leaves.\n")
    scope = nullcontext() if edit is None else VirtualEdits(conversation.model, edit.writers)
    with scope as edits:
        if edits is not None and edit is not None:
            edits.use(edit)
        while True:
            try:
                said = ask("\nyou: ").strip()
            except EOFError:
                write("\n")
                return
            if said.lower() in _LEAVE:
                return
            if said:
                write("\nmodel: ")
                conversation.answer(said, write)
                write("\n")
