"""A chat with a model, edited or not: streams answers and keeps the history."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from excise.cli.ask import Ask
from excise.cli.printable import printable
from excise.config import Settings
from excise.devices.memory import generation_device
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.generation import following
from excise.errors import ModelError, translated
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.models.positions import require_known, require_position
from excise.models.template import TemplateCall
from excise.system.platform import end_of_input

LEAST_NEW_TOKENS = 512
"""Answers in a chat may be longer than scored answers."""
_UNFOLLOWABLE = (
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that `generate` raises for a generation configuration that it cannot follow."""
_LEAVE = ("/quit", "/exit", "/q")

Write = Callable[[str], None]


@dataclass
class Conversation:
    """A model and the messages so far, in the form of chat templates.

    call: how the chat template is called. own_generation: whether answers follow the model's generation
    configuration, as in `generate` and servers; otherwise they are greedy, as for scores.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    messages: list[dict[str, str]] = field(default_factory=list)
    call: TemplateCall = field(default_factory=TemplateCall)
    own_generation: bool = False

    @classmethod
    def of(
        cls, settings: Settings, loaded: LoadedModel, *, own_generation: bool = False
    ) -> Conversation:
        """A new conversation, with the system prompt of the settings, if any."""
        system = settings.system_prompt
        return cls(
            loaded.model,
            loaded.tokenizer,
            max(LEAST_NEW_TOKENS, settings.max_new_tokens),
            [] if system is None else [{"role": "system", "content": system}],
            loaded.call,
            own_generation,
        )

    def answer(self, message: str, write: Write) -> str:
        """The answer to `message`, which is written while it is generated. Both enter the history.

        Ctrl+C ends the answer and keeps its beginning. Thoughts are written but do not enter the history,
        because chat templates omit thoughts of earlier turns. Raises ModelError, without a change of the
        history, if the template or the generation configuration fails or no positions are left.
        """
        chat = Chat(self.tokenizer, "", self.call)
        asked = [*self.messages, {"role": "user", "content": message}]
        text = chat.conversation(asked)
        (tokens,) = chat.tokens([text])
        require_known(self.model, tokens)
        streamer = _Streamer(self.tokenizer, write)
        try:
            self._generate(tokens, streamer)
        except KeyboardInterrupt:
            write(" …")
        answer = chat.answer(streamer.tokens).strip()
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return streamer.text

    def _generate(self, tokens: list[int], streamer: _Streamer) -> None:
        configuration = self._configuration(require_position(self.model, len(tokens)))
        beams = (configuration.num_beams or 1) > 1
        ids = torch.tensor([tokens], device=generation_device(self.model))
        # Greedy decoding always works; the model's own configuration may be invalid.
        failures = _UNFOLLOWABLE if self.own_generation else ()
        what = "the model's generation configuration cannot be followed"
        with (
            translated(ModelError, what, *failures),
            following(self.model, configuration),
            torch.inference_mode(),
        ):
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=configuration,
                # Beam search knows its answer only at the end.
                streamer=None if beams else streamer,
                **({"tokenizer": self.tokenizer} if configuration.stop_strings else {}),
            )
        if beams:
            streamer.put(ids[0].cpu())
            streamer.put(output[0, ids.shape[1] :].cpu())
            streamer.end()

    def _configuration(self, positions: int | None) -> GenerationConfig:
        """The configuration for `generate`. positions: the number that are left, None if unlimited."""
        own = self.model.generation_config
        most = self.max_new_tokens if positions is None else min(positions, self.max_new_tokens)
        if not self.own_generation:
            return GenerationConfig(
                do_sample=False,
                max_new_tokens=most,
                eos_token_id=own.eos_token_id,
                pad_token_id=self._pad(),
            )
        configuration = copy.deepcopy(own)
        configuration.update(
            max_length=None,
            max_new_tokens=most,
            num_return_sequences=1,
            pad_token_id=self._pad(),
            return_dict_in_generate=False,
        )
        return configuration

    def _pad(self) -> int:
        """A padding token, which `generate` requires although a single prompt has no padding."""
        token = self.tokenizer.pad_token_id
        if token is None:
            token = self.tokenizer.eos_token_id
        return 0 if token is None else int(token)


class _Streamer(TextStreamer):  # type: ignore[misc]
    """Writes text as soon as its characters are complete, and collects all of it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write
        self.text, self.tokens = "", list[int]()

    def put(self, value: Tensor) -> None:
        """Called by transformers with the prompt, and then with each new token."""
        if not (self.skip_prompt and self.next_tokens_are_prompt):
            self.tokens += value.flatten().tolist()
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each new piece."""
        self.text += text
        self._write(text)


def to_standard_output(text: str) -> None:
    """Write immediately, without a line end."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def converse(
    conversation: Conversation, edit: Edit | None, ask: Ask, write: Write = to_standard_output
) -> None:
    """Questions and answers until /quit or the end of the input. edit: applied to the model meanwhile."""
    write(f"Chat; /quit or {end_of_input()} leaves.\n")
    scope = nullcontext() if edit is None else VirtualEdits(conversation.model, edit.writers)
    with scope as edits:
        if edits is not None and edit is not None:
            edits.use(edit)
        while True:
            try:
                message = ask("\nyou: ").strip()
            except EOFError:
                write("\n")
                return
            if message.lower() in _LEAVE:
                return
            if message:
                write("\nmodel: ")
                conversation.answer(message, write)
                write("\n")
