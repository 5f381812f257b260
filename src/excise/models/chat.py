"""Prompts as the model sees them: chat template, generation prompt and response prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from excise.errors import ModelError, translated
from excise.models.lost_text import exact_text, require_encoded, require_rendered
from excise.models.template import Message, TemplateCall, messages_of, render
from excise.models.thoughts import left_open, opened_by, unfinished, without_thoughts
from excise.prompts.sets import Prompt

_HELLO = "Hello"


@dataclass(frozen=True)
class Chat:
    """Turns prompts into token ids, and answers into text.

    response_prefix: text that every answer begins with; the model reads it, and scores leave it out.
    """

    tokenizer: PreTrainedTokenizerBase
    response_prefix: str = ""
    call: TemplateCall = field(default_factory=TemplateCall)

    def text(self, prompt: Prompt) -> str:
        """The rendered prompt, with generation prompt and response prefix.

        Raises ModelError if the template fails, or leaves out the prompt's text or the system prompt.
        """
        messages = messages_of(prompt.text, prompt.system_prompt, prompt.earlier)
        rendered = render(self.tokenizer, messages, self.call)
        for message in messages:
            # Templates leave out the thoughts of earlier answers.
            if message["role"] != "assistant":
                require_rendered(message["content"], rendered)
        return rendered + self.response_prefix

    def conversation(self, messages: Sequence[Message]) -> str:
        """A rendered conversation, with the generation prompt.

        Raises ModelError if the template fails, or leaves out the text of the last turn.
        """
        rendered = render(self.tokenizer, messages, self.call)
        require_rendered(messages[-1]["content"], rendered)
        return rendered

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt. All special tokens come from the chat template.

        Raises ModelError as `text` does, and if the tokenizer loses a prompt's text.
        """
        texts = [self.text(prompt) for prompt in prompts]
        encoded = self.tokens(texts)
        for prompt, text, tokens in zip(prompts, texts, encoded, strict=True):
            require_encoded(self.tokenizer, prompt.text, text, tokens)
        return encoded

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts."""
        if not texts:
            return []
        # Tokenizers written in Rust raise plain Exception.
        with translated(ModelError, "the tokenizer fails on a prompt", Exception):
            encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [list(ids) for ids in encoded]

    def test_prompt(self, system_prompt: str | None = None) -> list[int]:
        """Token ids of a short prompt, to test a model with."""
        hello = render(self.tokenizer, messages_of(_HELLO, system_prompt), self.call)
        return self.tokens([hello])[0]

    def decode(self, tokens: Sequence[int], *, special_tokens: bool = False) -> str:
        """The text of tokens, chains of thought included."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special_tokens))

    def appended_text(self, context: Sequence[int], tokens: Sequence[int]) -> str:
        """The text that `tokens` append to the text of `context`, special tokens included.

        Decoding `tokens` alone may lose the space before the first word.
        """
        before, whole = (
            exact_text(self.tokenizer, each) for each in (context, [*context, *tokens])
        )
        if whole.startswith(before):
            return whole[len(before) :]
        return exact_text(self.tokenizer, tokens)

    @cached_property
    def added_tokens(self) -> frozenset[int]:
        """Ids of special and added tokens: tokens that the tokenizer never merges with their neighbours."""
        return frozenset((*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids))

    def transcript(self, prompt: str, *, reasoning: str, answer: str) -> str:
        """A rendered user turn, with an answer and the reasoning before the answer."""
        said = {"role": "assistant", "content": answer, "reasoning_content": reasoning}
        turns = [*messages_of(prompt, None), said]
        return render(self.tokenizer, turns, self.call, generation_prompt=False)

    def answer(self, tokens: Sequence[int]) -> str:
        """The text of an answer, without chains of thought and special tokens."""
        whole = self.decode(tokens, special_tokens=True)
        if (text := without_thoughts(whole, opened=self.thought_open)) == whole:
            return self.decode(tokens)
        for token in sorted(self.tokenizer.all_special_tokens, key=len, reverse=True):
            text = text.replace(token, "")
        return text

    def unfinished(self, tokens: Sequence[int]) -> bool:
        """True if an answer ends before its chain of thought does."""
        whole = self.decode(tokens, special_tokens=True)
        thinks = self.thought_open or opened_by(whole) is not None
        return thinks and unfinished(whole, opened=self.thought_open)

    @cached_property
    def thought_open(self) -> bool:
        """True if the template opens a chain of thought, so that answers continue it."""
        return left_open(self.generation_prompt(Prompt(_HELLO))) is not None

    def generation_prompt(self, prompt: Prompt) -> str:
        """The text between the prompt and its answer: generation prompt and response prefix."""
        messages = messages_of(prompt.text, prompt.system_prompt, prompt.earlier)
        rendered = render(self.tokenizer, messages, self.call)
        return rendered.rpartition(prompt.text.strip())[2] + self.response_prefix
