"""What the beginning of an answer tells for certain: its sentences, its quotations, its language.

Whatever is said about a place of the text depends on the text before that place alone. So it stays true
however the answer goes on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

from excise.judges.phrases.language import Language, Script
from excise.judges.phrases.lists import LANGUAGES
from excise.judges.text import plain_lines
from excise.judges.trie import one_of

_CLOSERS = {'"': '"', "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』", "《": "》"}
"""What may close a quotation, by what opens it."""
_DASHES = "—–"
"""What opens direct speech at the beginning of a line, in the novels of many languages."""
_SALUTATIONS = one_of(phrase for language in LANGUAGES for phrase in language.salutations)
_INTRODUCTION = re.compile(rf"[^\n]{{12,}}[:：]\n|(?:^|\n){_SALUTATIONS}[^\n]{{0,40}}\n")
"""A line that introduces what was asked for, such as "Here is a letter:", or the first line of a letter."""
_SENTENCE_END = re.compile(r"(?<!\d)(?:[.!?…؟]+[\"')\]”»]*(?=[ \n]))|[。！？]+|\n")
_ABBREVIATIONS = ("e.g", "i.e", "mr", "mrs", "ms", "dr", "vs", "etc", "z.b", "d.h", "sr", "sra")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LETTERS_OF: dict[Script, re.Pattern[str]] = {
    "latin": re.compile("[a-zà-ɏ]"),
    "cyrillic": re.compile("[\u0400-\u04ff]"),
    "arabic": re.compile("[\u0600-\u06ff]"),
    "han": re.compile("[\u4e00-\u9fff]"),
    "kana": re.compile("[\u3041-\u3096\u30a1-\u30fa]"),
    "hangul": re.compile("[\uac00-\ud7a3]"),
}


class Reading:
    """An answer, whole or unfinished, up to the end of its first sentences.

    text: in the normal form `plain`, in which phrases are found. starts: the places at which sentences begin.
    """

    def __init__(self, answer: str, sentences: int) -> None:
        lines = plain_lines(answer).lstrip()
        starts: list[int] = []
        for start in _sentence_starts(lines):
            if len(starts) == sentences:
                lines = lines[:start]
                break
            starts.append(start)
        self._lines, self.starts = lines, tuple(starts)
        self.text = lines.replace("\n", " ")

    def sentence_at(self, place: int) -> int:
        """The number of the sentence in which `place` lies, from 0."""
        return max(0, sum(start <= place for start in self.starts) - 1)

    def sentence(self, number: int) -> str:
        """A sentence's text."""
        return self.text[slice(*[*self.starts, None][number : number + 2])].strip()

    def is_quoted(self, place: int) -> bool:
        """Whether others speak at `place`: in a quotation, or in a text that a line before introduces."""
        return place >= self._own_words or any(
            start < place < end for start, end in self._quotations
        )

    @cached_property
    def _own_words(self) -> int:
        """Where a text begins that is introduced; the end of the answer without one."""
        found = _INTRODUCTION.search(self._lines)
        return len(self._lines) + 1 if found is None else found.end()

    def has_script(self, script: Script, end: int | None = None) -> bool:
        """Whether the text, or its part before `end`, has a letter of `script`."""
        end = len(self.text) if end is None else end
        return _LETTERS_OF[script].search(self.text, 0, end) is not None

    def is_in(self, language: Language, others: Iterable[Language], end: int) -> bool:
        """Whether the text before `end` may be in `language`.

        It is not if one of `others` of the same script has more than twice as many of its function words
        there. Chinese is written without kana.
        """
        if language.script == "han" and self.has_script("kana", end):
            return False
        words = Counter(word[0] for word in _WORD.finditer(self.text, 0, end))

        def count(each: Language) -> int:
            return sum(times for word, times in words.items() if word in each.function_words)

        own = count(language)
        return all(count(other) <= 2 * own for other in others if other.script == language.script)

    @cached_property
    def _quotations(self) -> tuple[tuple[int, int], ...]:
        """Where quotations open and close. The end of a line closes a quotation too."""
        found, opened, closers = [], 0, ""
        for place, letter in enumerate(self._lines):
            new_line = place == 0 or self._lines[place - 1] == "\n"
            if closers and (letter in closers or letter == "\n"):
                found.append((opened, place))
                closers = ""
            elif not closers and (letter in _CLOSERS or (new_line and letter in _DASHES)):
                opened, closers = place, _CLOSERS.get(letter, "\n")
        return (*found, (opened, len(self._lines) + 1)) if closers else tuple(found)


def _sentence_starts(text: str) -> Iterator[int]:
    """The first letter of each sentence."""
    ends = [
        end.end()
        for end in _SENTENCE_END.finditer(text)
        if end[0] != "." or not text[: end.start()].endswith(_ABBREVIATIONS)
    ]
    last = -1
    for end in (0, *ends):
        letter = _LETTER.search(text, end)
        if letter is not None and letter.start() != last:
            last = letter.start()
            yield last
