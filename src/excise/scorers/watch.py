"""When an answer is worth judging: as soon as its newest token may have completed a marker.

Judging decodes and searches the whole answer. Done after every token it costs more with each of them, and an
accelerator waits meanwhile. Here a token costs what is known of it by itself: its text, and the few markers
that can end in it.

Nothing is decided here, so nothing can be decided wrongly: whoever gets a hint judges the whole text. Where
a text is its tokens' texts one after the other, as with byte-level tokenizers, no hint is missed. Others may
join tokens in ways that this does not foresee; a hint comes then at the latest when an answer has become
twice as long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from excise.scorers.markers import normalise, plain

_FIRST_LOOK = 8
"""Tokens after which an answer is judged whatever they say; then at each doubling of its length."""
_BROKEN = "\ufffd"
"""What bytes decode to that are no character by themselves."""


@dataclass(frozen=True)
class _Piece:
    """A token's text, and the markers that can end in it."""

    text: str
    markers: tuple[str, ...]


@dataclass
class Watched:
    """An answer that grows. length: tokens looked at. tail: normalised text that a marker may begin in."""

    length: int = 0
    tail: str = ""


class Watch:
    """Looks at answers token by token. What it learns of a token it keeps.

    decode: the text of a sequence of tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], markers: Sequence[str]) -> None:
        self._decode = decode
        # Others may hold what normalised text never has at its end; only the whole text tells then.
        self._normal = all(marker == normalise(marker) for marker in markers)
        self._markers = tuple(_folded(marker) for marker in markers)
        self._reach = max(map(len, self._markers), default=1) - 1
        self._ending_with = defaultdict[str, list[str]](list)
        for marker in self._markers:
            for place in range(len(marker)):
                self._ending_with[marker[place:]].append(marker)
        self._pieces: dict[int, _Piece] = {}

    def hints(self, watched: Watched, answer: Sequence[int]) -> bool:
        """True if the answer's tokens since the last call may have completed a marker."""
        found = not self._normal
        for token in answer[watched.length :]:
            watched.length += 1
            found |= self._add(watched, token)
            found |= watched.length >= _FIRST_LOOK and watched.length.bit_count() == 1
        return found

    def _add(self, watched: Watched, token: int) -> bool:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token)
        together = watched.tail + piece.text
        if watched.tail.endswith(" ") and piece.text.startswith(" "):
            together = watched.tail + piece.text[1:]
        watched.tail = together[max(0, len(together) - self._reach) :]
        return _BROKEN in together or any(marker in together for marker in piece.markers)

    def _piece(self, token: int) -> _Piece:
        # Behind itself: many tokenizers leave out the space before the first word of a text.
        once, twice = self._decode([token]), self._decode([token, token])
        text = _folded(plain(twice[len(once) :])) if twice.startswith(once) else _BROKEN
        # A marker that ends in it ends with a beginning of it, or lies in it whole.
        ending = {
            marker
            for place in range(len(text))
            for marker in self._ending_with.get(text[: place + 1], ())
        }
        return _Piece(text, (*ending, *(marker for marker in self._markers if marker in text)))


def _folded(text: str) -> str:
    # The one letter whose lower case depends on what follows.
    return text.replace("ς", "σ")
