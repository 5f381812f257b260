"""Checks that a prompt's text survives the chat template and the tokenizer.

A template may leave out content, and a tokenizer with missing files drops unknown text. Measurements would
then not depend on the prompts. Unicode normalisation, case and white space may change.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from excise.errors import ModelError, shortened

_INVISIBLE = ("Z", "C")
"""First letters of Unicode categories that tokenizers may drop or replace: separators, control, format."""
_MOST_UNKNOWN = 0.5
"""The largest share of a text's characters that may become unknown tokens."""
_SHOWN = 40


def normalised(text: str) -> str:
    """A text in compatibility form, without case, accents and white space."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(
        letter
        for letter in letters
        if (category := unicodedata.category(letter))[0] not in _INVISIBLE
        and category != "Mn"
        and letter != "\u2581"
    )


def holds(whole: str, text: str) -> bool:
    """True if `whole` contains `text`, up to normalisation."""
    return text in whole or normalised(text) in normalised(whole)


def exact_text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of tokens, special tokens and all white space included."""
    return str(
        tokenizer.decode(
            list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    )


def require_rendered(text: str, rendered: str) -> None:
    """Raise ModelError if the rendered prompt does not contain the prompt's text."""
    if not holds(rendered, text):
        raise ModelError(
            f"the chat template leaves out the text of the prompt {_quoted(text)}; give another one with "
            "chat_template (--chat-template FILE)"
        )


def require_encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, rendered: str, tokens: Sequence[int]
) -> None:
    """Raise ModelError if the tokens of the rendered prompt do not contain the prompt's text.

    Unknown tokens are accepted up to half of the text, because a small vocabulary has some.
    """
    decoded = exact_text(tokenizer, tokens)
    if holds(decoded, text):
        return
    if tokenizer.is_fast:
        dropped, unknown = _uncovered(tokenizer, text, rendered)
    else:
        dropped, unknown = _missing_words(tokenizer, text, decoded)
    if dropped:
        what = "parts of it have no token; the vocabulary is too small and has no unknown token"
    elif unknown > _MOST_UNKNOWN:
        what = f"{unknown:.0%} of it becomes unknown tokens; the vocabulary is too small for these prompts"
    else:
        return
    raise ModelError(
        f"the tokenizer loses the text of the prompt {_quoted(text)}: {what}, or the tokenizer's files "
        "(tokenizer.json, …) are missing or belong to another model"
    )


def _uncovered(tokenizer: PreTrainedTokenizerBase, text: str, rendered: str) -> tuple[int, float]:
    """Of the text's visible characters: the number without a token, and the share of unknown tokens."""
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    known, unknown = set[int](), set[int]()
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        (unknown if token == tokenizer.unk_token_id else known).update(range(start, end))
    start = rendered.rfind(text.strip())
    if start < 0:
        # The template has changed white space: check the whole rendered prompt.
        start, text = 0, rendered
    places = [
        start + place
        for place, letter in enumerate(text.strip())
        if unicodedata.category(letter)[0] not in (*_INVISIBLE, "M")
    ]
    lost = [place for place in places if place not in known]
    dropped = sum(place not in unknown for place in lost)
    return dropped, (len(lost) - dropped) / max(1, len(places))


def _missing_words(
    tokenizer: PreTrainedTokenizerBase, text: str, decoded: str
) -> tuple[int, float]:
    """The same, counted in words, for tokenizers without offsets."""
    words = [normalised(word) for word in text.split()]
    whole = normalised(decoded)
    missing = [word for word in words if word not in whole]
    share = sum(map(len, missing)) / max(1, sum(map(len, words)))
    has_unknown = tokenizer.unk_token is not None and tokenizer.unk_token in decoded
    return (0, share) if has_unknown else (len(missing), 0.0)


def _quoted(text: str) -> str:
    return f'"{shortened(" ".join(text.split()), _SHOWN)}"'
