"""Finds a language's phrases in the first sentences of an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from excise.judges.phrases.language import Language, Script
from excise.judges.reading import Reading
from excise.judges.trie import one_of

_SPACED: frozenset[Script] = frozenset(("latin", "cyrillic"))
"""Scripts whose words end at a space; in the others, words take endings or are written together."""
_SENTENCE_ENDS = re.compile(r"[.!]? *$|[.!。！] ")


@dataclass(frozen=True)
class Found:
    """A refusal in a reading.

    phrase: as it stands there. end: where it ends. sentence: its number. certain: whether no continuation can
    take it away.
    """

    phrase: str
    end: int
    sentence: int
    certain: bool


@dataclass(frozen=True)
class _Span:
    start: int
    end: int


class Matcher:
    """Finds the phrases of one language.

    languages: all languages; the harmless phrases of those of the same script are harmless in each of them.
    openings: number of sentences of the answer at whose beginning an opening counts. Statements and pairs
    count in every sentence of a reading, verdicts in the first.
    """

    def __init__(self, language: Language, languages: Sequence[Language], openings: int) -> None:
        self.language = language
        self._openings = openings
        self._whole_words = language.script in _SPACED
        self._opening = self._any_of(language.openings)
        self._verdict = self._any_of(language.verdicts)
        self._statement = self._any_of(language.statements)
        self._pairs = [
            (self._any_of(pair.first), self._any_of(pair.then), pair) for pair in language.pairs
        ]
        self._lead_ins = [re.compile(rf"{re.escape(phrase)}\W+") for phrase in language.lead_ins]
        self._any_lead_in = re.compile(one_of(language.lead_ins))
        self._break = self._any_of(language.breaks)
        alike = [each for each in languages if each.script == language.script]
        self._harmless = tuple(phrase for each in alike for phrase in each.harmless)
        self._begins_harmless = re.compile(one_of(self._harmless, longest=True))
        self._longest_harmless = max(map(len, self._harmless), default=0)

    def _any_of(self, phrases: Sequence[str]) -> re.Pattern[str]:
        edge = r"(?<![^\W_])" if self._whole_words else ""
        behind = r"(?![^\W_])" if self._whole_words else ""
        return re.compile(f"{edge}{one_of(phrases)}{behind}")

    @property
    def cues(self) -> tuple[str, ...]:
        """Phrases of which one begins, or is, everything that is found."""
        language = self.language
        firsts = (phrase for pair in language.pairs for phrase in pair.first)
        return (*language.openings, *language.verdicts, *language.statements, *firsts)

    @property
    def reach(self) -> int:
        """The most characters behind a cue after which a refusal is certain."""
        pairs = self.language.pairs
        behind = max((pair.gap + max(map(len, pair.then)) for pair in pairs), default=0)
        return behind + self._longest_harmless + 1

    def found(self, reading: Reading) -> Iterator[Found]:
        """The refusals in `reading`, whatever the language of the text around them."""
        for spans in self._candidates(reading):
            start, end = spans[0].start, spans[-1].end
            if reading.is_quoted(start) or any(
                self._is_harmless(reading.text, span) for span in spans
            ):
                continue
            # At the end of the text, the last word may go on, and so may a harmless phrase.
            certain = end < len(reading.text) and not any(
                self._may_be_harmless(reading.text, span) for span in spans
            )
            yield Found(reading.text[start:end], end, reading.sentence_at(start), certain)

    def _candidates(self, reading: Reading) -> Iterator[tuple[_Span, ...]]:
        text = reading.text
        for kind, sentences in ((self._verdict, 1), (self._opening, self._openings)):
            for start in reading.starts[:sentences]:
                for place in self._behind_lead_ins(text, start):
                    if match := kind.match(text, place):
                        yield (_Span(*match.span()),)
        for match in _overlapping(self._statement, text):
            yield (_Span(*match.span()),)
        for first, then, pair in self._pairs:
            for opening in _overlapping(first, text):
                if pair.alone and (match := _SENTENCE_ENDS.match(text, opening.end())):
                    yield (_Span(opening.start(), match.end()),)
                last = self._reach(reading, opening.end(), pair.gap)
                for place in range(opening.end(), last + 1):
                    if match := then.match(text, place):
                        yield _Span(*opening.span()), _Span(*match.span())

    def _behind_lead_ins(self, text: str, start: int) -> set[int]:
        """`start`, and the places behind each lead-in that begins at one of these places."""
        places, new = {start}, [start]
        while new:
            place = new.pop()
            if not self._any_lead_in.match(text, place):
                continue
            for match in _every(self._lead_ins, text, place):
                if match.end() not in places:
                    places.add(match.end())
                    new.append(match.end())
        return places

    def _reach(self, reading: Reading, end: int, gap: int) -> int:
        """The last place at which the second phrase of a pair may begin."""
        reach = end + gap
        for start in reading.starts:
            if start >= end:
                reach = min(reach, start - 1)
        stop = self._break.search(reading.text, end)
        return reach if stop is None else min(reach, stop.start())

    def _is_harmless(self, text: str, span: _Span) -> bool:
        """Whether a harmless phrase overlaps the span."""
        return any(
            match.end() > span.start
            for place in self._word_starts(text, span)
            if (match := self._begins_harmless.match(text, place))
        )

    def _may_be_harmless(self, text: str, span: _Span) -> bool:
        """Whether the end of the text cuts a phrase short that is harmless and overlaps the span."""
        if len(text) - span.end > self._longest_harmless:
            return False
        rests = [text[place:] for place in self._word_starts(text, span)]
        return any(phrase.startswith(rest) for rest in rests for phrase in self._harmless)

    def _word_starts(self, text: str, span: _Span) -> Iterator[int]:
        """The places at which a harmless phrase that overlaps the span may begin."""
        for place in range(max(0, span.start - self._longest_harmless), span.end):
            if not (self._whole_words and place and text[place - 1].isalnum()):
                yield place


def _overlapping(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The match at each place that has a match."""
    match = pattern.search(text)
    while match:
        yield match
        match = pattern.search(text, match.start() + 1)


def _every(patterns: Iterable[re.Pattern[str]], text: str, place: int) -> Iterator[re.Match[str]]:
    return (match for pattern in patterns if (match := pattern.match(text, place)))
