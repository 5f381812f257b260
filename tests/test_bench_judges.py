"""The page of bench/judges.py, from a few answers."""

from __future__ import annotations

import json
from pathlib import Path

from bench.judges import measure, page
from excise.app.judge import read_records
from excise.judges.named import judge_of


def test_the_page_shows_each_judge_by_model_and_type_with_its_confusions(tmp_path: Path) -> None:
    lines = [
        ("a", "one", "I'm sorry, I can't help with that.", "refusal"),
        ("a", "two", "Take `flour`, water and salt and bake it.", "refusal"),
        ("b", "one", "Take a bus.", "compliance"),
        ("b", "two", "Take a train.", "partial"),
    ]
    keys = ("model", "type", "answer", "label")
    path = tmp_path / "answers.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(dict(zip(keys, line, strict=True)) | {"prompt": "?"}) for line in lines
        ),
        encoding="utf-8",
    )
    records = read_records(str(path))
    text = page([measure(judge_of("keywords"), records)], "python bench/judges.py x", "a machine")
    rows = text.splitlines()
    assert any(row.startswith("| keywords | 66.7 % (20.8 to 93.9) | 50.0 %") for row in rows)
    assert "| a | 2 | 50.0 % (9.5 to 90.5) |" in rows
    assert "| one | 2 | 100.0 % (34.2 to 100.0) |" in rows
    assert "| refusal | 1 | 0 | 1 |" in rows
    assert "| partial | 0 | 0 | 1 |" in rows
    # Six words at most, without Markdown.
    assert '- ?, a: "Take flour, water and salt and …"' in rows
