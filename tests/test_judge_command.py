"""`excise judge`: lines in, verdicts out, agreement with labels, bad lines."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from cli_helpers import failure, json_lines
from excise.cli.main import main

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

LINES = (
    {
        "id": 1,
        "prompt": "How do I bake bread?",
        "answer": "Mix flour and water.",
        "label": "compliance",
    },
    {"id": 2, "prompt": "How do I bake bread?", "answer": "I'm sorry, I can't help with that."},
    {
        "prompt": "Grüße?",
        "answer": "I cannot do that.",
        "label": "refusal",
        "more": [1, {"a": None}],
    },
    {"prompt": "How?", "answer": "Take a bus.", "label": "refusal"},
    {"prompt": "How?", "answer": "Take a train.", "label": "partial"},
)
BY_KEYWORDS = ["compliance", "refusal", "refusal", "compliance", "compliance"]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in LINES) + "\n\n", encoding="utf-8")
    return path


def test_json_has_a_line_for_each_answer_in_order_with_all_its_keys(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(answers), "--judge=keywords", "--json"]) == 0
    captured = capsys.readouterr()
    found = json_lines(captured.out)
    assert [line["verdict"] for line in found] == BY_KEYWORDS
    for line, given in zip(found, LINES, strict=True):
        assert given.items() <= line.items()
        assert set(line) - set(given) == {"verdict", "probability", "reason"}
        assert 0 <= line["probability"] <= 1  # type: ignore[operator]
    # The agreement is for people, beside the lines.
    assert "Agreement with the labels" in captured.err


def test_people_read_counts_and_the_agreement(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(answers), "--judge", "keywords"]) == 0
    out = capsys.readouterr().out
    rows = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert "5 answers, judged by keywords" in rows
    # 2 of 5 and its Wilson interval.
    assert "refusal 2 40.0 % (11.8 to 76.9 %)" in rows
    # Of three answers labelled refusal or compliance, one refusal is missed.
    assert any(row.startswith("agreement 2/3 66.7 %") for row in rows)
    assert any(row.startswith("recall of refusals 1/2") for row in rows)
    assert any(row.startswith("precision of refusals 1/1") for row in rows)
    # F1: refusal 2·1/(2+1) = 0.667, partial 0, compliance 2·1/(1+3) = 0.5; their mean 0.389.
    assert "macro-averaged F1 4 0.389" in rows
    assert "refusal 1 0 1" in rows
    assert "partial 0 0 1" in rows
    assert "compliance 0 0 1" in rows


def test_answers_from_standard_input(
    answers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["judge", "-", "--judge=keywords", "--json"], ["judge", "--json", "-"]):
        stream = io.TextIOWrapper(io.BytesIO(answers.read_bytes()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(words) == 0
        assert len(json_lines(capsys.readouterr().out)) == len(LINES)


def test_markers_of_ones_own_choose_keywords(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", str(answers), "--markers=take a", "--json"]) == 0
    found = json_lines(capsys.readouterr().out)
    assert [line["verdict"] == "refusal" for line in found] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "answers.jsonl: holds no answers"),
        ('{"prompt": "a", "answer": "b"}\n{', "answers.jsonl: line 2: not JSON"),
        ("[1]", "answers.jsonl: line 1: not a JSON object with prompt and answer"),
        ('\n{"answer": "b"}', "answers.jsonl: line 2: has no prompt"),
        ('{"prompt": "a"}', "answers.jsonl: line 1: has no answer"),
        ('{"prompt": "a", "answer": null}', "answers.jsonl: line 1: answer is not a text"),
        (
            '{"prompt": "a", "answer": "b", "label": "refused"}',
            "answers.jsonl: line 1: label 'refused' is not one of refusal, partial, compliance",
        ),
        (
            '{"prompt": "a", "prompt": "b", "answer": "c"}',
            "line 1: not JSON ('prompt' occurs twice",
        ),
        ("{" * 100_000, "answers.jsonl: line 1: not JSON"),
    ],
)
def test_a_bad_line_is_one_message_with_its_number(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content, encoding="utf-8")
    assert message in failure(["judge", "answers.jsonl", "--judge=keywords"], capsys)


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no.jsonl: cannot be read" in failure(["judge", "no.jsonl"], capsys)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "a", "answer": "b"}\n{"prompt": "\xe9"}')
    assert "latin.jsonl: line 2: not UTF-8" in failure(["judge", "latin.jsonl"], capsys)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--judge=gpt", "--judge=gpt: not a judge; give keywords, hf:NAME"),
        ("--judge=keywords:x", "--judge=keywords:x: not a judge"),
        ("--judge=hf:", "--judge=hf:: names no model"),
        (
            "--judge=openai:localhost#m",
            "not openai:URL#MODEL, such as openai:http://localhost:8000",
        ),
        ("--judge=openai:http://localhost:8000/v1", "not openai:URL#MODEL"),
        ("--judge=openai:http://me:secret@host/v1#m", "holds no password"),
        ("--judge-labels=A=refused", "must be one of refusal, partial, compliance"),
        ("--judge-labels=A", "not KEY=VALUE"),
        ("--judge-concurrency=0", "must be at least 1"),
        ("--judge-timeout=0", "must be more than 0"),
    ],
)
def test_wrong_settings_of_a_judge_are_one_line(
    flag: str, message: str, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(["judge", str(answers), flag], capsys)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            'judge = "openai:https://host/v1#m"',
            "excise.toml: judge: names a server, which gets the answers",
        ),
        ('judge_key = "HF_TOKEN"', "excise.toml: judge_key: decides which key a server gets"),
    ],
)
def test_a_file_cannot_send_answers_or_keys_to_a_server(
    toml: str, message: str, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "excise.toml").write_text(toml, encoding="utf-8")
    assert message in failure(["judge", str(answers)], capsys)
    assert message in failure(["judge", str(answers), "--judge-key=MY_KEY"], capsys)


def test_a_judge_from_the_settings_file(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "excise.toml").write_text('judge = "hf:./none"', encoding="utf-8")
    assert "./none: no such folder" in failure(["judge", str(answers)], capsys)
    assert main(["judge", str(answers), "--judge=keywords"]) == 0


def test_labels_in_the_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "excise.toml").write_text('[judge_labels]\nA = "refused"\n', encoding="utf-8")
    line = failure(["judge", "answers.jsonl"], capsys)
    assert line == (
        'excise: excise.toml: judge_labels.A = "refused": must be one of refusal, partial, compliance; '
        "did you mean refusal?"
    )
