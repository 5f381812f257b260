"""Texts and data of strangers: on the terminal, in a model card, and in the numbers that they claim."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from huggingface_hub import ModelCard
from rich.table import Table
from rich.text import Text

from excise.checkpoint.source import ModelSource
from excise.cli import printable as module
from excise.cli.conversation import to_standard_output
from excise.cli.main import main
from excise.cli.printable import PrintableConsole, PrintableRecord, ask_person, printable
from excise.cli.screen import write_json
from excise.edits.edit import Edit
from excise.errors import PromptError, RunError, SaveError
from excise.prompts import parquet
from excise.prompts.read import PromptDefaults, read
from excise.prompts.source import PromptSource
from excise.report.card import figures_in, model_card
from excise.report.front_matter import original_card
from excise.report.profile import place
from excise.report.terms import terms_of

FIGURES: Mapping[str, object] = {
    "refusals": 1,
    "prompts": 8,
    "control_refusals": 0,
    "control_prompts": 8,
    "empty": 0,
    "looping": 0,
}
ESTIMATE = {"mean": 0.1, "low": 0.0, "high": 0.2}
EDITED: Mapping[str, object] = {**FIGURES, "kl": ESTIMATE, "answer_kl": ESTIMATE}
pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x08\x9b31mred\u202eesrever\ud800\x00"
"""Sets the title, clears the screen, goes back, colours, turns the reading order round."""


def is_harmless(text: str) -> bool:
    return all(one.isprintable() or one in "\n\t" for one in text)


def edit(**changes: object) -> Edit:
    unit = torch.eye(4)[:1]
    plain = Edit("orthogonal", ("model.layers.0.mlp.down_proj",), unit, unit, torch.ones(1))
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_control_characters_become_pictures() -> None:
    assert printable("a\x1b[2Jb\tc\nd") == "a␛[2Jb\tc\nd"
    assert is_harmless(printable(HOSTILE))
    ordinary = "Grüße, 你好, مرحبا, שלום 👩‍👩‍👧 — a\u00a0b"
    assert printable(ordinary) == ordinary


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_sends_none_but_its_own(terminal: bool) -> None:
    stream = io.StringIO()
    console = PrintableConsole(file=stream, width=60, force_terminal=terminal, markup=False)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "red"))
    console.print(table)
    console.print(HOSTILE)
    shown = stream.getvalue()
    for mark in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\x00", "\r", "\u202e"):
        assert mark not in shown
    assert "␛[2J" in shown
    assert terminal == ("\x1b[31m" in shown)


def test_answers_questions_errors_and_json_send_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to_standard_output(HOSTILE)
    assert main([HOSTILE.replace("\x00", ""), "--yes"]) == 2
    captured = capsys.readouterr()
    assert is_harmless(captured.out)
    assert is_harmless(captured.err)
    assert "title" in captured.err
    write_json({"text": HOSTILE})
    out = capsys.readouterr().out
    assert is_harmless(out)
    assert json.loads(out) == {"text": HOSTILE}
    asked: list[str] = []
    monkeypatch.setattr(module, "input", lambda text: asked.append(text) or "y", raising=False)
    assert ask_person(HOSTILE) == "y"
    assert is_harmless(asked[0])


def test_what_libraries_log_of_files_is_shown_too() -> None:
    before = logging.getLogRecordFactory()
    try:
        assert main(["runs"]) == 0
        assert logging.getLogRecordFactory() is PrintableRecord
        record = logging.getLogger("any").makeRecord(
            "any", logging.WARNING, "file", 1, "model %s", (HOSTILE,), None
        )
        assert is_harmless(record.getMessage())
    finally:
        logging.setLogRecordFactory(before)


def test_an_edits_texts_are_text_in_a_card(tmp_path: Path) -> None:
    markup = "x\n\n# Safe <script>alert(1)</script> **certified** [here](http://e) | `a` ![i](j)"
    facts: Mapping[str, object] = {
        "refusals": markup,
        "prompts": markup,
        "kl": markup,
        "packing": markup,
        "uncovered": {markup: markup},
        "asked_with": {
            "response_prefix": markup,
            "template_arguments": {markup: markup},
            "generation_config": {markup: markup},
        },
    }
    foreign = edit(parameters={markup: markup, f"`{markup}": 1.5}, facts=facts)
    folder = tmp_path / markup.replace("/", "-").replace("\n", " ")
    source = ModelSource(str(folder), tmp_path, None, None)
    text = model_card(source, foreign, figures_in(foreign), adapter=False)
    card = ModelCard(text)
    headings = [line for line in card.text.splitlines() if line.startswith("#")]
    assert [one.split()[1] for one in headings] == ["x", "What", "How"]
    for mark in ("<script>", "**certified**", "[here]", "![i]"):
        spans = card.text.split("`")
        # In a code span nothing has a meaning; everywhere else each mark is escaped.
        assert all(mark not in outside for outside in spans[::2])
    assert "1.5" in card.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"trial": None},
        {"kl": "low"},
        {"held_out": {"a": 1}},
        {"held_out": {"original": FIGURES, "edited": FIGURES}},
        {"held_out": {"original": {**FIGURES, "empty": "<script>"}, "edited": EDITED}},
        {"held_out": {"original": FIGURES, "edited": {**EDITED, "kl": [1]}}},
    ],
)
def test_figures_of_an_edit_file_are_numbers_or_it_is_damaged(wrong: Mapping[str, object]) -> None:
    facts = {"trial": 1, "refusals": 1, "kl": 0.1, "prompts": 8}
    whole = {**facts, "held_out": {"original": FIGURES, "edited": EDITED}}
    assert "1/8" in figures_in(edit(facts=whole))
    with pytest.raises(RunError, match="damaged"):
        figures_in(edit(facts={**whole, **wrong}))


@pytest.mark.parametrize(
    "front",
    [
        "a: &a [x, x]\nlicense: [*a, *a]",
        "license: &l mit\nlicense_name: *l",
        "tags: [{a: b}]",
        "x: " + "[" * 50_000,
    ],
)
def test_front_matter_cannot_grow(tmp_path: Path, front: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n\nwords\n", encoding="utf-8")
    source = ModelSource("owner/model", tmp_path, None, "0" * 40)
    text = model_card(source, edit(), "none", adapter=True)
    assert "words" in text
    assert len(text) < 20_000 + len(front)


def test_a_card_that_is_a_link_is_not_read_into_another(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(SaveError, match="symbolic link out of the folder"):
        original_card(ModelSource("model", folder, None, None))


def test_a_licence_that_is_a_link_goes_along_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LICENSE").write_text("terms", encoding="utf-8")
    source = ModelSource("model", folder, None, None)
    assert terms_of(source) == {"LICENSE": "terms"}
    (folder / "NOTICE").symlink_to(tmp_path / "secret")
    with pytest.raises(SaveError, match="symbolic link out of the folder"):
        terms_of(source)


def test_the_layer_in_a_name_is_no_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huge = f"model.layers.{'9' * 12}.mlp.down_proj"
    assert place(huge)[0] == 0
    assert place("model.layers.9999.mlp.down_proj")[0] == 9999
    unit = torch.eye(4)[:2]
    names = ("model.layers.0.mlp.down_proj", huge)
    path = tmp_path / "edit.safetensors"
    Edit("orthogonal", names, unit, unit, torch.ones(2)).save(path)
    assert main(["show", str(path)]) == 0
    assert len(capsys.readouterr().out) < 20_000


@pytest.mark.parametrize("field", ["u", "v", "strengths"])
def test_an_edit_of_numbers_that_are_none_is_damaged(tmp_path: Path, field: str) -> None:
    path = tmp_path / "edit.safetensors"
    values = getattr(edit(), field).clone()
    values.view(-1)[0] = float("nan")
    edit(**{field: values}).save(path)
    with pytest.raises(RunError, match="not finite"):
        Edit.load(path)


def test_a_parquet_file_can_stand_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    column = pyarrow.DictionaryArray.from_arrays([0] * 20_000, ["word " * 200_000])
    for as_written in (True, False):
        pyarrow.parquet.write_table(
            pyarrow.table({"text": column}), path, compression="zstd", store_schema=as_written
        )
        assert path.stat().st_size < 1_000_000  # 20 GB of text.
        with pytest.raises(PromptError, match="holds more than"):
            read(PromptSource(source=str(path)), PromptDefaults())
    monkeypatch.setattr(parquet, "MOST_ROWS", 10)
    rows = pyarrow.table({"text": pyarrow.nulls(11, pyarrow.string())})
    pyarrow.parquet.write_table(rows, path)
    with pytest.raises(PromptError, match="holds more than 10 rows"):
        read(PromptSource(source=str(path)), PromptDefaults())


def test_lines_nested_deeply_are_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(PromptError, match=r"line 1: .*nested too deeply"):
        read(PromptSource(source=str(path)), PromptDefaults())


@pytest.mark.parametrize("name", ["../outside.arrow", "/outside.arrow", "a\\b.arrow", 5])
def test_a_saved_data_set_names_files_of_its_own(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(str(folder))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / state["_data_files"][0]["filename"]).rename(tmp_path / "outside.arrow")
    state["_data_files"][0]["filename"] = name
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(PromptError, match="which is not a file in it"):
        read(PromptSource(source=str(folder)), PromptDefaults())
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "dataset_dict.json").write_text(json.dumps({"splits": ["../saved"]}))
    with pytest.raises(PromptError, match="which is not a file in it"):
        read(PromptSource(source=str(whole), split="train"), PromptDefaults())


def test_what_a_saved_data_set_points_at_is_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"no picture")
    features = datasets.Features({"text": datasets.Image()})
    data = datasets.Dataset.from_dict({"text": [{"path": str(secret), "bytes": None}]}, features)
    data.save_to_disk(str(tmp_path / "saved"))
    opened: list[object] = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    with pytest.raises(PromptError, match="neither text nor a list of chat messages"):
        read(PromptSource(source=str(tmp_path / "saved")), PromptDefaults())
    assert str(secret) not in map(str, opened)


def test_every_test_that_the_security_page_names_is_there() -> None:
    tests = Path(__file__).parent
    named = set(re.findall(r"`(test_\w+)`", (tests.parent / "SECURITY.md").read_text("utf-8")))
    written = {
        name
        for path in tests.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) > 30
    assert named <= written, sorted(named - written)
