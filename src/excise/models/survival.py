"""Is a prompt's text still there once it was rendered and encoded?

Templates may leave content out, and tokenizers whose files are missing drop all that they do not know: what
is measured then has nothing to do with the prompts. Normal forms, letters' case, white space and how a
tokenizer spells bytes do not count as losses.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from excise.errors import ModelError, shortened

_INVISIBLE = ("Z", "C")
"""Unicode categories (first letter) that tokenizers may drop or exchange: separators, control and format."""
_MOST_UNKNOWN = 0.5
"""Share of a text's characters that may be unknown to the tokenizer; beyond it the model cannot read it."""
_SHOWN = 40


def folded(text: str) -> str:
    """A text without what normalisation changes: compatibility form, no case, no accents, no white space."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(
        letter
        for letter in letters
        if (category := unicodedata.category(letter))[0] not in _INVISIBLE
        and category != "Mn"
        and letter != "\u2581"
    )


def holds(whole: str, text: str) -> bool:
    """True if `text` stands in `whole`."""
    return text in whole or folded(text) in folded(whole)


def require_rendered(text: str, rendered: str) -> None:
    """Raise ModelError if a chat template has lost the text of a prompt."""
    if not holds(rendered, text):
        raise ModelError(
            f"the chat template leaves out the text of the prompt {_quoted(text)}; give another one with "
            "--chat-template FILE"
        )


def require_encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, rendered: str, tokens: Sequence[int]
) -> None:
    """Raise ModelError if `tokens`, of the rendered prompt, have lost the text of the prompt.

    Words that the tokenizer maps to its unknown token are lost too, but a few of them are ordinary where a
    vocabulary is small; where they are the larger part of a text, it is lost.
    """
    decoded = tokenizer.decode(
        list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    if holds(str(decoded), text):
        return
    if tokenizer.is_fast:
        dropped, unknown = _uncovered(tokenizer, text, rendered)
    else:
        dropped, unknown = _missing_words(tokenizer, text, str(decoded))
    if dropped or unknown > _MOST_UNKNOWN:
        raise ModelError(
            f"the tokenizer loses the text of the prompt {_quoted(text)}: its files (tokenizer.json, …) are "
            "missing, or belong to another model"
        )


def _uncovered(tokenizer: PreTrainedTokenizerBase, text: str, rendered: str) -> tuple[int, float]:
    """Of the text's visible characters: how many no token covers, and the share that unknown ones cover."""
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    known, unknown = set[int](), set[int]()
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        (unknown if token == tokenizer.unk_token_id else known).update(range(start, end))
    start = rendered.rfind(text.strip())
    if start < 0:
        # The template has changed white space or the like; the whole of it stands for the prompt.
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
    """The same by words, for tokenizers that do not say where a token's text stood."""
    words = [folded(word) for word in text.split()]
    whole = folded(decoded)
    missing = [word for word in words if word not in whole]
    share = sum(map(len, missing)) / max(1, sum(map(len, words)))
    has_unknown = tokenizer.unk_token is not None and tokenizer.unk_token in decoded
    return (0, share) if has_unknown else (len(missing), 0.0)


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f'"{shortened(line, _SHOWN)}"'
