"""Loading a tokenizer, with the chat template that is to be used and how it is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from excise.checkpoint.foreign import own_code
from excise.checkpoint.source import ModelSource
from excise.checkpoint.words import require_fetched_words, require_objects
from excise.errors import ModelError, first_line
from excise.models.chat import Chat
from excise.models.options import LoadOptions
from excise.models.template import TemplateCall, settled, template_file

_SPECIAL = re.compile(r"<(?!0x).*>|\[.*\]", re.DOTALL)
"""What special tokens look like; bytes that a vocabulary lacks as text (`<0x0A>`) are none."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that encodes prompts.

    call: how its chat template is called. given: the template's text if the user gave a file in place of the
    model's own. system_prompt: goes before every prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    call: TemplateCall
    given: str | None
    system_prompt: str | None = None

    def hello(self) -> list[int]:
        """Token ids of a short prompt, to try a model with."""
        return Chat(self.tokenizer, "", self.call).hello(self.system_prompt)


def load_tokenizer(source: ModelSource, options: LoadOptions = LoadOptions()) -> LoadedTokenizer:
    """The tokenizer of a model, with its chat template tried.

    Raises ModelError if there is no tokenizer or no template, or it does not take prompts.
    """
    if source.gguf is None:
        require_fetched_words(source.folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=options.trust_remote_code, **source.gguf_arguments
        )
    except Exception as error:
        # The library in Rust raises nothing narrower for a damaged file.
        if needs_its_own_code(error):
            raise own_code(source.name, source.folder) from error
        if source.gguf is None:
            require_objects(source.folder)
        raise ModelError(f"{source.name}: no usable tokenizer ({first_line(error)})") from error
    _require_words(source, tokenizer)
    try:
        if tokenizer.chat_template is None and source.gguf is None:
            tokenizer.chat_template = template_file(source.folder)
        call, given = settled(
            tokenizer, options.chat_template, options.template_arguments, options.system_prompt
        )
    except ModelError as error:
        raise ModelError(f"{source.name}: {error}") from error
    return LoadedTokenizer(tokenizer, call, given, options.system_prompt)


def _require_words(source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a tokenizer that knows nothing but special tokens.

    transformers builds such a one where the files are missing that hold the vocabulary.
    """
    words = (word for word in tokenizer.get_vocab() if not _SPECIAL.fullmatch(word))
    if not any(map(str.isalnum, "".join(words))):
        raise ModelError(
            f"{source.name}: the tokenizer has no vocabulary; its files (tokenizer.json, or the like) are "
            "missing"
        )


def needs_its_own_code(error: Exception) -> bool:
    """True if transformers refused to run code that comes with a model."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)
