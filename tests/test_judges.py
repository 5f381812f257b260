"""Judges by name, functions as judges, checks of verdicts, and agreement with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import excise
from excise.errors import JudgeError, PromptError, SettingsError
from excise.events import Event, Note
from excise.judges.judge import verdicts_of
from excise.judges.named import JudgeName, judge_of
from excise.judges.verdict import Exchange, Outcome, Verdict
from excise.scorers.agreement import Agreement

EXCHANGES = [Exchange("How?", "I'm sorry, I can't help with that."), Exchange("How?", "Like this.")]


def outcomes(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.outcome for verdict in verdicts]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf:owner/name", JudgeName("hf", "owner/name")),
        ("hf:owner/name@v1.0", JudgeName("hf", "owner/name", "v1.0")),
        ("llm:./models/judge.gguf", JudgeName("llm", "./models/judge.gguf")),
        (
            "openai:http://localhost:8000/v1/#owner/name:7b",
            JudgeName("openai", "owner/name:7b", url="http://localhost:8000/v1"),
        ),
        (
            "openai:https://[::1]:443/v1#m",
            JudgeName("openai", "m", url="https://[::1]:443/v1"),
        ),
    ],
)
def test_names_are_taken_apart(text: str, parsed: JudgeName) -> None:
    assert JudgeName.parse(text) == parsed


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    assert JudgeName.parse(f"llm:{folder}").revision == "home"
    folder.mkdir()
    assert JudgeName.parse(f"llm:{folder}") == JudgeName("llm", str(folder))


@pytest.mark.parametrize(
    "name", ["", "gpt-4", "hf", "keywords:", "builtin", "openai:ftp://host/#m"]
)
def test_other_names_are_refused_with_the_valid_forms(name: str) -> None:
    with pytest.raises(SettingsError, match=r"judge '.*': not .*openai:") as raised:
        judge_of(name)
    assert "\n" not in str(raised.value)


def test_a_judge_by_name_judges_exchanges_and_records() -> None:
    records = [{"prompt": each.prompt, "answer": each.answer, "id": 7} for each in EXCHANGES]
    assert outcomes(excise.judge(EXCHANGES, "keywords")) == ["refusal", "compliance"]
    assert excise.judge(iter(records), "keywords") == excise.judge(EXCHANGES, "keywords")
    assert excise.judge([], "keywords") == []


@pytest.mark.parametrize("record", [{"prompt": "a"}, {"prompt": "a", "answer": 1}])
def test_a_record_without_prompt_or_answer_is_named(record: dict[str, object]) -> None:
    with pytest.raises(PromptError, match="record 1: needs the texts prompt and answer"):
        excise.judge([EXCHANGES[0], record], "keywords")


@pytest.mark.parametrize(
    ("returned", "outcome"),
    [
        (True, "refusal"),
        (False, "compliance"),
        ("partial", "partial"),
        (Verdict("refusal", 0.7, "why"), "refusal"),
    ],
)
def test_a_function_is_a_judge(returned: bool | str | Verdict, outcome: Outcome) -> None:
    seen: list[tuple[str, str]] = []

    def one(prompt: str, answer: str) -> bool | str | Verdict:
        seen.append((prompt, answer))
        return returned

    (verdict,) = excise.judge(EXCHANGES[:1], one)
    assert verdict.outcome == outcome
    assert seen == [("How?", "I'm sorry, I can't help with that.")]
    assert verdict.probability == (0.7 if isinstance(returned, Verdict) else 1)


@pytest.mark.parametrize("returned", [None, 1, "yes", "Refusal", [], {}])
def test_nonsense_of_a_function_names_the_exchange(returned: object) -> None:
    def one(prompt: str, answer: str) -> object:
        return returned

    with pytest.raises(
        JudgeError, match=r"judge one: returns .* for the prompt 'How\?' with"
    ) as raised:
        excise.judge(EXCHANGES, one)  # type: ignore[arg-type]
    assert "return True for a refusal" in str(raised.value)


def test_a_function_that_raises_is_one_line() -> None:
    def one(prompt: str, answer: str) -> bool:
        raise ZeroDivisionError("by\nzero")

    with pytest.raises(
        JudgeError, match=r"judge one: raises ZeroDivisionError \(by\) for the prompt"
    ):
        excise.judge(EXCHANGES, one)


@dataclass
class Fixed:
    """A judge that returns what it was made with."""

    verdicts: list[Verdict]
    name: str = "fixed"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        return self.verdicts


YES, NO = Verdict("refusal", 1, ""), Verdict("compliance", 0.5, "")


def test_an_object_is_a_judge() -> None:
    assert excise.judge(EXCHANGES, Fixed([YES, NO])) == [YES, NO]


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([YES], "gave 1 verdicts on 2 answers"),
        ([YES, None], "gave None for the prompt"),
        ([YES, Verdict("refused", 1, "")], "a verdict has an outcome"),  # type: ignore[arg-type]
        ([YES, Verdict("refusal", float("nan"), "")], "a probability from 0 to 1"),
        ([YES, Verdict("refusal", 1.5, "")], "a probability from 0 to 1"),
    ],
)
def test_unsound_verdicts_are_refused(verdicts: list[Verdict], message: str) -> None:
    with pytest.raises(JudgeError, match=f"judge fixed: .*{message}"):
        excise.judge(EXCHANGES, Fixed(verdicts))


def test_a_judge_that_disagrees_with_itself_is_noted_once() -> None:
    events: list[Event] = []
    exchanges = [*EXCHANGES, *EXCHANGES, EXCHANGES[0]]
    verdicts_of(Fixed([YES, NO, NO, YES, NO]), exchanges, events.append)
    (note,) = events
    assert isinstance(note, Note)
    assert "judge fixed disagrees with itself on 2 answers" in note.text
    events.clear()
    verdicts_of(Fixed([YES, NO, YES, NO, YES]), exchanges, events.append)
    assert events == []


def test_agreement_by_hand() -> None:
    pairs: list[tuple[Outcome, Outcome]] = [
        *[("refusal", "refusal")] * 6,
        *[("refusal", "partial")] * 2,
        *[("refusal", "compliance")] * 2,
        *[("compliance", "compliance")] * 9,
        ("compliance", "refusal"),
        *[("partial", "partial")] * 3,
        ("partial", "compliance"),
    ]
    found = Agreement.of(pairs)
    shares = (found.agreement, found.recall, found.precision)
    assert [(each.count, each.of) for each in shares if each] == [(17, 20), (8, 10), (8, 9)]
    # refusal 2·6/(10+7), partial 2·3/(4+5), compliance 2·9/(10+12)
    assert found.macro_f1 == pytest.approx((12 / 17 + 6 / 9 + 18 / 22) / 3)
    assert found.answers == 24


def test_agreement_without_a_class() -> None:
    found = Agreement.of([("compliance", "compliance"), ("partial", "refusal")])
    assert (found.recall, found.precision) == (None, None)
    # Only the classes among the labels count: compliance 1, partial 0.
    assert found.macro_f1 == 0.5
    assert Agreement.of([("partial", "partial")]).agreement is None
