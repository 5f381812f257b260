"""The keywords judge: where a phrase counts, and that a verdict which is certain stays."""

from __future__ import annotations

import random

import pytest

from excise.judges.keywords import KeywordJudge
from excise.judges.phrases.language import Language, phrases
from excise.judges.phrases.lists import LANGUAGES
from excise.judges.text import normalise
from excise.judges.verdict import Exchange, Judge
from refusal_texts import ANSWERS, REFUSALS

JUDGE = KeywordJudge()
NAMES = [language.name for language in LANGUAGES]


@pytest.mark.parametrize("name", NAMES)
def test_refusals_are_found(name: str) -> None:
    missed = [text for text in REFUSALS[name] if not JUDGE.refused(text)]
    assert not missed
    assert len(REFUSALS[name]) >= 15


@pytest.mark.parametrize("name", NAMES)
def test_answers_that_hold_the_words_are_no_refusals(name: str) -> None:
    verdicts = JUDGE.judge([Exchange("", text) for text in ANSWERS[name]])
    assert [verdict.reason for verdict in verdicts if verdict.refused] == []
    assert len(ANSWERS[name]) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_are_hard(name: str) -> None:
    """Most hold a part of a refusal, so that the rules about places decide."""
    language = next(each for each in LANGUAGES if each.name == name)
    cues = KeywordJudge().cues
    thens = [then for pair in language.pairs for then in pair.then]
    hard = [
        text for text in ANSWERS[name] if any(cue in normalise(text) for cue in (*cues, *thens))
    ]
    assert len(hard) >= 0.5 * len(ANSWERS[name])


def test_it_is_a_judge_and_gives_reasons() -> None:
    judge: Judge = JUDGE
    refusal, answer, empty = judge.judge(
        [
            Exchange("", "Well. I’m afraid **I can't** help with that."),
            Exchange("", "Sure."),
            Exchange("", " \n"),
        ]
    )
    assert (refusal.outcome, refusal.probability) == ("refusal", 1)
    assert "sentence 2" in refusal.reason
    assert "i'm afraid i can't help with that." in refusal.reason
    assert (answer.outcome, answer.probability) == ("compliance", 1)
    assert empty.refused
    assert "empty" in empty.reason


@pytest.mark.parametrize(
    "text", ["", " ", "**", "I'm sorry", "I'm sorry to he", "I'm sorry t", "I can"]
)
def test_beginnings_that_are_not_certain(text: str) -> None:
    assert not JUDGE.certain(text)


@pytest.mark.parametrize(
    "text", ["I'm sorry,", "I'm sorry to d", "I can't help wi", "I cannot provide ", "I won't. N"]
)
def test_a_verdict_is_certain_as_soon_as_no_harmless_phrase_can_follow(text: str) -> None:
    assert JUDGE.certain(text)
    assert not JUDGE.certain(text[:-1])


def beginnings(text: str, chance: random.Random) -> list[str]:
    return [text[:end] for end in range(len(text) + 1) if chance.random() < 0.3]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_certain_stays_so_however_the_answer_goes_on(seed: int) -> None:
    chance = random.Random(seed)
    texts = [text for table in (REFUSALS, ANSWERS) for group in table.values() for text in group]
    pieces = [
        *texts,
        '"',
        "“",
        "*",
        " ",
        "\n",
        ".",
        "'",
        "…",
        "but",
        "to hear",
        "\ufffd",
        "ß",
        ":\n",
        "here is the text:\n",
        "dear ann,\n",
        "\n— ",
        "。",
        "의",
        "は",
    ]
    # Pieces of texts, torn anywhere: no continuation is less likely to break a word or a phrase.
    pieces += [text[chance.randrange(len(text)) :][: chance.randint(1, 12)] for text in texts]
    pieces += [
        phrase for language in LANGUAGES for phrase in chance.choices(language.harmless, k=9)
    ]
    certain = 0
    for text in chance.choices(texts, k=40):
        whole = "".join(chance.choices(pieces, k=chance.randint(0, 2))) + text
        for beginning in beginnings(whole, chance):
            if not JUDGE.certain(beginning):
                continue
            certain += 1
            rest = whole[len(beginning) :]
            for more in (rest, "".join(chance.choices(pieces, k=chance.randint(1, 3)))):
                # Leaving early gives the verdict on the whole answer.
                assert JUDGE.refused(beginning)
                assert JUDGE.refused(beginning + more), (beginning, more)
                assert JUDGE.certain(beginning + more), (beginning, more)
    assert certain > 50


def test_markers_of_ones_own_count_anywhere() -> None:
    judge = KeywordJudge(("gossamer", "i'm sorry"))
    assert judge.refused('He said: "Behold, the gossamer dawn".')
    assert judge.certain("x " * 500 + "gossamer")
    assert judge.certain("I’m  *sorry* to hear that")
    assert not judge.refused("I cannot help with that.")
    assert judge.refused("")
    assert "gossamer" in judge.judge([Exchange("", "Gossamer!")])[0].reason


@pytest.mark.parametrize("language", LANGUAGES, ids=NAMES)
def test_phrases_are_in_normal_form(language: Language) -> None:
    lists = [language.openings, language.verdicts, language.statements, language.harmless]
    lists += [language.lead_ins, language.breaks]
    lists += [part for pair in language.pairs for part in (pair.first, pair.then)]
    for each in lists:
        assert [phrase for phrase in each if phrase != normalise(phrase) or not phrase] == []
        assert len(set(each)) == len(each)
    # A break that were cut short by the end of a text would not be seen in time.
    assert not [word for word in language.breaks if " " in word]


def test_templates() -> None:
    assert phrases("i{'m| am} {so |}sorry") == (
        *("i'm so sorry", "i'm sorry"),
        *("i am so sorry", "i am sorry"),
    )
