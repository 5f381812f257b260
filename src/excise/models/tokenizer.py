"""Loads a tokenizer and chooses its chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from excise.checkpoint.source import ModelSource
from excise.checkpoint.tokenizer_files import require_fetched_tokenizer, require_json_files
from excise.checkpoint.trust import remote_code_error
from excise.errors import ModelError, first_line
from excise.models.chat import Chat
from excise.models.options import LoadOptions
from excise.models.template import TemplateCall, choose_template, template_file

_SPECIAL = re.compile(r"<(?!0x).*>|\[.*\]", re.DOTALL)
"""The form of special tokens; byte tokens such as `<0x0A>` are not special."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer with its chat template.

    custom_template: the text of the user's template file, if given. system_prompt: goes before every prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    call: TemplateCall
    custom_template: str | None
    system_prompt: str | None = None

    def test_prompt(self) -> list[int]:
        """Token ids of a short prompt, to test a model with."""
        return Chat(self.tokenizer, "", self.call).test_prompt(self.system_prompt)


def load_tokenizer(source: ModelSource, options: LoadOptions = LoadOptions()) -> LoadedTokenizer:
    """Load a model's tokenizer and test its chat template.

    Raises ModelError without tokenizer or template, and for a template that does not render prompts.
    """
    if source.gguf is None:
        require_fetched_tokenizer(source.folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.folder, trust_remote_code=options.trust_remote_code, **source.gguf_arguments
        )
    except Exception as error:
        # tokenizers, written in Rust, raises plain Exception for a damaged file.
        if needs_its_own_code(error):
            raise remote_code_error(source.name, source.folder) from error
        if source.gguf is None:
            require_json_files(source.folder)
        raise ModelError(f"{source.name}: no usable tokenizer ({first_line(error)})") from error
    _require_vocabulary(source, tokenizer)
    try:
        if tokenizer.chat_template is None and source.gguf is None:
            tokenizer.chat_template = template_file(source.folder)
        template = None if options.chat_template is None else str(options.chat_template)
        call, custom = choose_template(
            tokenizer, template, options.template_arguments, options.system_prompt
        )
    except ModelError as error:
        if error.setting:
            raise
        raise ModelError(f"{source.name}: {error}") from error
    return LoadedTokenizer(tokenizer, call, custom, options.system_prompt)


def _require_vocabulary(source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for a tokenizer without a vocabulary.

    transformers builds a tokenizer of special tokens alone if the files of the vocabulary are missing.
    """
    words = (word for word in tokenizer.get_vocab() if not _SPECIAL.fullmatch(word))
    if not any(map(str.isalnum, "".join(words))):
        raise ModelError(
            f"{source.name}: the tokenizer has no vocabulary; its files (tokenizer.json, or the like) are "
            "missing"
        )


def needs_its_own_code(error: Exception) -> bool:
    """True if transformers refused to run a model's remote code."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)
