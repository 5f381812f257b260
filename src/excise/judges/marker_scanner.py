"""Finds the tokens after which an answer has to be judged: those that may have made its verdict certain.

A verdict is certain from a marker on, or soon after: the characters behind it may belong to the phrase or
take it back. To judge an answer means to decode it and search it for phrases. After every token this would
cost more with each token, while an accelerator waits. The scanner does little work for each token: it keeps
the token's text and the few markers that can end in it.

The scanner decides no verdict: the whole text is judged whenever a marker may be complete or has just
appeared. If a text is the concatenation of its tokens' texts, as with byte-level tokenizers, the scanner
misses no marker. Other tokenizers may join tokens differently; their answers are judged at each doubling of
the length at the latest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from excise.judges.text import normalise, plain

_FIRST_LOOK = 8
"""Number of tokens after which an answer is always judged, and again at each doubling of its length."""
_BROKEN = "\ufffd"
"""The character to which incomplete bytes decode."""


@dataclass
class ScanState:
    """The scan of an answer.

    length: tokens scanned. tail: normalised text in which a marker may begin. alert: number of characters
    during which the answer is judged after every token.
    """

    length: int = 0
    tail: str = ""
    alert: int = 0


class MarkerScanner:
    """Scans answers token by token. It keeps the text of each token that it has seen.

    decode: returns the text of a sequence of tokens. reach: number of characters behind a marker within
    which the verdict may become certain.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], markers: Sequence[str], reach: int = 0
    ) -> None:
        self._decode, self._alert = decode, reach
        # Other markers may end in characters that `_add` strips; then the whole text is judged each time.
        self._normal = all(marker == normalise(marker) for marker in markers)
        self._markers = frozenset(_folded(marker) for marker in markers)
        self._lengths = {len(marker) for marker in self._markers}
        self._reach = max(map(len, self._markers), default=1) - 1
        self._ending_with = defaultdict[str, list[str]](list)
        for marker in self._markers:
            for place in range(len(marker)):
                self._ending_with[marker[place:]].append(marker)
        # The text of each token, and the markers that can end in it.
        self._pieces: dict[int, tuple[str, tuple[str, ...]]] = {}

    def may_hold_marker(self, state: ScanState, answer: Sequence[int]) -> bool:
        """True if the answer's tokens since the last call may have completed a marker."""
        found = not self._normal
        for token in answer[state.length :]:
            state.length += 1
            found |= self._add(state, token)
            found |= state.length >= _FIRST_LOOK and state.length.bit_count() == 1
        return found

    def _add(self, state: ScanState, token: int) -> bool:
        if token not in self._pieces:
            self._pieces[token] = self._piece(token)
        text, markers = self._pieces[token]
        if state.tail.endswith(" "):
            text = text.removeprefix(" ")
        together = state.tail + text
        state.tail = together[max(0, len(together) - self._reach) :]
        state.alert -= len(text)
        if any(marker in together for marker in markers):
            state.alert = self._alert
            return True
        return state.alert > 0 or _BROKEN in together

    def _piece(self, token: int) -> tuple[str, tuple[str, ...]]:
        # Decoded behind itself, because many tokenizers drop the space before the first word of a text.
        once, twice = self._decode([token]), self._decode([token, token])
        text = _folded(plain(twice[len(once) :])) if twice.startswith(once) else _BROKEN
        # A marker that ends in this text ends with a beginning of the text, or lies in the text whole.
        ends = range(1, len(text) + 1)
        found = {marker for end in ends for marker in self._ending_with.get(text[:end], ())}
        inside = {text[max(0, end - length) : end] for end in ends for length in self._lengths}
        return text, tuple(found | (inside & self._markers))


def _folded(text: str) -> str:
    # The lower case of sigma depends on what follows; no other letter's does.
    return text.replace("ς", "σ")
