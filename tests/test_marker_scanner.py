"""Hints token by token, against judging the whole text after every token."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from conftest import WORDS, random_prompts, tiny_model, tiny_tokenizer
from excise.judges.keywords import KeywordJudge
from excise.judges.marker_scanner import MarkerScanner, ScanState
from excise.judges.markers import FORMER_MARKERS
from excise.models.chat import Chat
from excise.scorers.refusals import JudgingParameters, MarkerJudge, Refusals
from refusal_texts import ANSWERS, REFUSALS

MARKERS = (*FORMER_MARKERS, "ος", "x")
TEXTS = (
    "Well — I’m  **sor**ry",
    "I\n\n can’t\u00a0help you",
    "Of course 😀 I 👩‍🔬 am\t un_able_ to",
    "ΛΌΓΟΣ ΛΟΓΟΣ then",
    "As\u2003an *AI*",
    "sorrow and *** sorr *y*",
    "not İ something I can",
    "not some*thing* I’m able",
    "Unethical? It is not appropriate.",
    "nothing of the kind, 日本語 never",
    "x",
)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in the vocabularies of byte-level tokenizers."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def cut_anywhere(texts: Sequence[str], seed: int) -> tuple[Chat, list[list[int]]]:
    """Texts cut into tokens between any two bytes, characters torn apart too."""
    chance, letters = random.Random(seed), byte_letters()
    words: dict[str, int] = {}
    cut: list[list[int]] = []
    for text in texts:
        data, tokens = text.encode(), []
        while data:
            length = chance.choice((1, 1, 2, 3, 5, 9))
            word = "".join(letters[byte] for byte in data[:length])
            tokens.append(words.setdefault(word, len(words)))
            data = data[length:]
        cut.append(tokens)
    tokenizer = Tokenizer(models.BPE(words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    chat = Chat(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [chat.decode(tokens) for tokens in cut] == list(texts)
    return chat, cut


def first_judged(
    decode: Callable[[Sequence[int]], str],
    tokens: Sequence[int],
    scanner: MarkerScanner,
    markers: Sequence[str] | None,
) -> tuple[int | None, int]:
    """After how many tokens a marker is seen, and how often the whole text was judged until then."""
    state, judged = ScanState(), 0
    for length in range(1, len(tokens) + 1):
        if scanner.may_hold_marker(state, tokens[:length]):
            judged += 1
            if KeywordJudge(markers).certain(decode(tokens[:length])):
                return length, judged
    return None, judged


def slow_reference(
    decode: Callable[[Sequence[int]], str], tokens: Sequence[int], markers: Sequence[str] | None
) -> int | None:
    """After how many tokens the whole text holds a marker."""
    for length in range(1, len(tokens) + 1):
        if KeywordJudge(markers).certain(decode(tokens[:length])):
            return length
    return None


@pytest.mark.parametrize("seed", range(30))
def test_bytes_cut_anywhere_are_judged_as_soon_as_the_whole_text_would_be(seed: int) -> None:
    chance = random.Random(seed)
    texts = ["".join(chance.choices(TEXTS, k=chance.randint(1, 3))) for _ in range(8)]
    chat, cut = cut_anywhere(texts, seed)
    markers = [marker for marker in MARKERS if chance.random() < 0.7]
    scanner = MarkerScanner(chat.decode, markers)
    for tokens in cut:
        expected = slow_reference(chat.decode, tokens, markers)
        assert first_judged(chat.decode, tokens, scanner, markers)[0] == expected


@pytest.mark.parametrize("seed", range(20))
def test_built_in_phrases_are_judged_as_soon_as_the_whole_text_would_be(seed: int) -> None:
    chance = random.Random(seed)
    pools = [text for table in (REFUSALS, ANSWERS) for group in table.values() for text in group]
    texts = ["\n".join(chance.choices((*pools, *TEXTS), k=chance.randint(1, 3))) for _ in range(8)]
    chat, cut = cut_anywhere(texts, seed)
    judge = KeywordJudge()
    scanner = MarkerScanner(chat.decode, judge.cues, judge.reach)
    for tokens in cut:
        expected = slow_reference(chat.decode, tokens, None)
        found, _ = first_judged(chat.decode, tokens, scanner, None)
        assert found == expected


def test_an_ordinary_answer_is_hardly_ever_judged() -> None:
    text = "To bake a good loaf you will need flour, water, salt and yeast, and some patience. " * 4
    chat, (tokens,) = cut_anywhere([text], 0)
    found, judged = first_judged(
        chat.decode, tokens, MarkerScanner(chat.decode, FORMER_MARKERS), FORMER_MARKERS
    )
    # At each doubling of its length, and at next to nothing else.
    assert found is None
    assert judged <= 10
    assert len(tokens) > 80


def test_markers_that_are_not_normal_are_judged_at_every_token() -> None:
    chat, (tokens,) = cut_anywhere(["I am sorry\nbut no"], 1)
    markers = ["sorry "]
    found = first_judged(chat.decode, tokens, MarkerScanner(chat.decode, markers), markers)
    expected = slow_reference(chat.decode, tokens, markers)
    assert expected is not None
    assert found == (expected, expected)


def test_words_that_a_decoder_joins_with_spaces() -> None:
    chat = Chat(tiny_tokenizer())
    chance = random.Random(0)
    markers = ("can't help", "sorry", "one two three")
    scanner = MarkerScanner(chat.decode, markers)
    seen = 0
    for _ in range(60):
        tokens = chat.tokenizer(" ".join(chance.choices(WORDS, k=20)))["input_ids"]
        expected = slow_reference(chat.decode, tokens, markers)
        assert first_judged(chat.decode, tokens, scanner, markers)[0] == expected
        seen += expected is not None
    assert 0 < seen < 60


def test_tokens_that_join_in_unforeseen_ways_are_judged_late_and_no_worse() -> None:
    """A decoder that swaps the last two words: no token's own text tells what is there."""
    words = ["sorry", "i", "am", *"abcdefghijklmnopq"]

    def decode(tokens: Sequence[int]) -> str:
        said = [words[token] for token in tokens]
        return "".join(reversed(said[-2:])) + " ".join(said[:-2])

    markers = ("am i",)
    tokens = [*range(3, 9), 2, 1, *range(9, 19)]
    expected = slow_reference(decode, tokens, markers)
    found, _ = first_judged(decode, tokens, MarkerScanner(decode, markers), markers)
    assert expected is not None
    assert found is not None
    assert expected < found <= 2 * expected


class Babble(Chat):
    """Decodes random tokens to phrases of which refusals and harmless sentences are made."""

    def decode(self, tokens: Sequence[int], *, special_tokens: bool = False) -> str:
        parts = (
            *(
                " i",
                " can't",
                " cannot",
                " I'm sorry",
                " sorry",
                " help",
                " to hear",
                ",",
                ".",
                "\n",
            ),
            *(
                " if",
                " but",
                ' "',
                " provide",
                " stress",
                " you",
                " with that",
                " no",
                " as",
                " dear",
            ),
        )
        return "".join(parts[token % len(parts)] for token in tokens)


@pytest.mark.parametrize(
    ("kind", "markers"), [(Chat, ("red", "seven", "egg photo")), (Babble, None)]
)
def test_a_jury_that_waits_for_hints_gives_the_verdicts_of_one_that_does_not(
    kind: type[Chat], markers: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chat = tiny_model(), kind(tiny_tokenizer())
    prompts = random_prompts(30)

    def judged() -> list[Refusals]:
        limits = (None, 4)
        return [
            MarkerJudge(model, chat, markers).answer([prompts], JudgingParameters(15, limit), 7)[0]
            for limit in limits
        ]

    quick = judged()
    assert 0 < quick[0].count < 30
    monkeypatch.setattr(MarkerScanner, "may_hold_marker", lambda *_: True)
    assert judged() == quick
    # Hints that never come cost tokens, not verdicts.
    monkeypatch.setattr(MarkerScanner, "may_hold_marker", lambda *_: False)
    whole = judged()[0]
    assert whole.refused == quick[0].refused
    assert sum(map(len, whole.tokens)) > sum(map(len, quick[0].tokens))


def test_what_is_known_of_tokens_is_kept() -> None:
    chat, (tokens,) = cut_anywhere(["all of it was said before"], 3)
    decoded: list[int] = []

    def decode(some: Sequence[int]) -> str:
        decoded.append(len(some))
        return chat.decode(some)

    scanner = MarkerScanner(decode, FORMER_MARKERS)
    for _ in range(2):
        first_judged(chat.decode, tokens, scanner, FORMER_MARKERS)
    assert len(decoded) == 2 * len(set(tokens))
