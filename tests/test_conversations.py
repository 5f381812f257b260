"""Rows that hold conversations, read from each form of table: the prompts, and one line for wrong rows."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

import excise
from conftest import tiny_tokenizer
from excise.config import PromptSource
from excise.errors import PromptError
from excise.models.chat import Chat
from excise.prompts import parquet
from excise.prompts.read import KindSources, PromptDefaults, PromptSources, load_parts, read
from excise.prompts.sets import Prompt, PromptSet
from excise.store.directory import prompts_digest
from hub_stand_in import HubStandIn, run_python


def message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


ROWS: list[dict[str, Any]] = [
    {"messages": [message("user", "how do i bake")], "topic": "food"},
    {
        "messages": [
            message("system", "help"),
            message("user", "hello"),
            message("assistant", "yes"),
            message("user", " the cake "),
        ],
        "topic": "food",
    },
    {"messages": [message("user", "sing"), message("assistant", "no")], "topic": "songs"},
    {"messages": [message("user", "read")], "topic": None},
]
PROMPTS = (
    Prompt("how do i bake"),
    Prompt("the cake", "help", (("user", "hello"), ("assistant", "yes"))),
    Prompt("sing"),
    Prompt("read"),
)
GROUPS = ["food", "food", "songs", None]
NOTE = "1 conversation ends with an answer of the assistant, which is left out."


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as the form of table that the path's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            for row in rows:
                cells = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                table.writerow(cells)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.fixture(params=["a.jsonl", "a.json", "a.csv", "a.parquet", "saved"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def found(source: object, **shared: Any) -> PromptSet:
    return read(PromptSource.model_validate(source), PromptDefaults(**shared))


def groups_of(prompts: PromptSet) -> list[str | None]:
    return [prompt.group for prompt in prompts]


def error_of(path: Path, **shared: Any) -> str:
    with pytest.raises(PromptError) as caught:
        found(str(path), **shared)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path.parent))


def test_every_form_gives_the_same_conversations_and_groups(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / form, ROWS)
    prompts = found(str(path))
    assert prompts.prompts == PROMPTS
    assert groups_of(prompts) == GROUPS
    assert prompts.notes == (NOTE,)
    assert found({"source": str(path), "split": "[1:3]"}).prompts == PROMPTS[1:3]
    assert groups_of(found({"source": str(path), "split": "[1:3]"})) == GROUPS[1:3]


def test_other_names_of_columns_are_given(form: str, tmp_path: Path) -> None:
    renamed = [{"chat": row["messages"], "language": row["topic"]} for row in ROWS]
    path = written(tmp_path / form, renamed)
    if form.endswith(".csv"):
        # A text that looks like JSON is a text, unless the column is known to hold conversations.
        assert found(str(path), column="chat")[0].text.startswith("[")
        return
    prompts = found(str(path), column="chat", group_by="language")
    assert (prompts.prompts, groups_of(prompts)) == (PROMPTS, GROUPS)
    assert "no column text, there is chat, language" in error_of(path)
    for name in ("conversation", "conversations"):
        other = written(tmp_path / f"{name}{form}", [{name: row["messages"]} for row in ROWS])
        assert found(str(other)).prompts == PROMPTS


def test_names_of_sharegpt_are_roles(form: str, tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    rows = [
        {
            "conversations": [
                {"from": names[each["role"]], "value": each["content"]} for each in row["messages"]
            ]
        }
        for row in ROWS
    ]
    assert found(str(written(tmp_path / form, rows))).prompts == PROMPTS


@pytest.mark.parametrize("form", ["a.jsonl", "a.parquet", "saved"])
def test_contents_may_be_lists_of_text_parts(form: str, tmp_path: Path) -> None:
    def parts(text: object) -> list[dict[str, object]]:
        return [{"type": "text", "text": half} for half in (str(text)[:2], str(text)[2:])]

    rows = [
        {"messages": [message(each["role"], parts(each["content"])) for each in row["messages"]]}
        for row in ROWS
    ]
    assert found(str(written(tmp_path / form, rows))).prompts == PROMPTS


def test_texts_go_before_conversations_where_a_table_has_both(form: str, tmp_path: Path) -> None:
    path = written(tmp_path / form, [{"text": "bake", **row} for row in ROWS])
    assert {prompt.text for prompt in found(str(path))} == {"bake"}
    assert found(str(path), column="messages").prompts == PROMPTS


def test_text_around_prompts_is_around_the_last_message(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ROWS)
    prompts = found(str(path), prefix="> ", suffix="!", system_prompt="Shared.")
    assert prompts[1] == Prompt("> the cake!", "help", PROMPTS[1].earlier)
    assert prompts[0] == Prompt("> how do i bake!", "Shared.")


def test_rows_without_text_are_left_out(tmp_path: Path) -> None:
    rows = [*ROWS[:2], {"messages": []}, {"messages": None}, {"messages": [message("user", " ")]}]
    assert found(str(written(tmp_path / "a.jsonl", rows))).prompts == PROMPTS[:2]


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (
            [message("user", "a"), message("tool", "b")],
            "a conversation has to end with a message of the user; this one ends with tool",
        ),
        (
            [message("user", "a"), message("assistant", "b"), message("assistant", "c")],
            "a conversation has to end with a message of the user; this one ends with assistant",
        ),
        ([message("assistant", "b")], "a conversation has to end with a message of the user; this"),
        ([message("system", "b")], "a conversation has to end with a message of the user"),
        (
            [message("user", "a"), message("assistant", None), message("user", "b")],
            "message 2: {'role': 'assistant', 'content': None} is not a prompt; give",
        ),
        (
            [message("user", [{"type": "image", "url": "x"}])],
            "{'role': 'user', 'content': [{'type': 'image', 'url': 'x'}]}",
        ),
        ([{"role": "user"}], "{'role': 'user'} is not a prompt; give a string, or chat messages"),
        ({"a": 1}, "holds {'a': 1}, neither text nor"),
        (["a", "b"], "holds ['a', 'b'], neither text nor a list of chat messages; choose another"),
        ([[message("user", "a")]], "holds [[{'role': 'user'"),
        (5, "holds 5, neither text nor a list of chat messages"),
    ],
)
def test_a_wrong_conversation_is_one_line_with_its_row(
    cell: object, fault: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.jsonl", [*ROWS[:2], {"messages": cell}])
    assert error_of(path).startswith("/a.jsonl: row 3: column messages")
    assert fault in error_of(path)
    with pytest.raises(PromptError, match=r"row 3: column messages"):
        found(f"{path}[2:]")


def test_wrong_tables_of_conversations(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('messages\n"[{""role"": ""user"",]"\n', encoding="utf-8")
    assert "/a.csv: row 1: column messages: not JSON: " in error_of(path)
    path = tmp_path / "a.json"
    for content, fault in (
        ("{}", "/a.json: not a list of rows"),
        ("[]", "/a.json: not a list of rows"),
        ('[{"text": "a"}, 5]', "/a.json: row 2: not a JSON object"),
        ('[{"text": "a"}, {"b": "c"}]', "/a.json: row 2: no column text, there is b"),
        ("[1", "/a.json: not JSON (character 3)"),
    ):
        path.write_text(content, encoding="utf-8")
        assert error_of(path).startswith(fault)
    pyarrow.parquet.write_table(pyarrow.table({"text": [{"a": "b"}]}), tmp_path / "a.parquet")
    assert "row 1: column text holds {'a': 'b'}, neither" in error_of(tmp_path / "a.parquet")


def test_a_parquet_file_of_conversations_can_stand_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.parquet"
    long = [{"messages": [message("user", "word " * 200_000)] * 100}] * 20
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(long), path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(PromptError, match=r"holds more than .* MiB of text in messages"):
        found(str(path))
    monkeypatch.setattr(parquet, "MOST_ROWS", 10)
    many = [{"messages": [message("user", "word")] * 11}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many), path)
    with pytest.raises(PromptError, match="holds more than 10 rows"):
        found(str(path))


def test_conversations_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder / "train.parquet", ROWS)
    features = datasets.Features(
        {"text": datasets.Value("string"), "topic": datasets.ClassLabel(names=["food", "songs"])}
    )
    classes = tmp_path / "classes"
    (classes / "data").mkdir(parents=True)
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "topic": [1, 0]}, features)
    data.to_parquet(str(classes / "data" / "train-00000-of-00001.parquet"))
    code = """
from excise import read_prompts
for name in ("owner/chats:train", "owner/classes[:2]"):
    prompts = read_prompts(name)
    print(list(prompts), [prompt.group for prompt in prompts], prompts.notes)
"""
    with HubStandIn() as hub:
        hub.add_dataset("owner/chats", folder)
        hub.add_dataset("owner/classes", classes)
        done = run_python(code, hub.environment(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    chats, named = done.stdout.splitlines()
    expected = [replace(each, group=group) for each, group in zip(PROMPTS, GROUPS, strict=True)]
    assert chats == f"{expected} {GROUPS} {(NOTE,)}"
    assert named.endswith("['songs', 'food'] ()")


def test_rows_in_memory_are_those_of_files(tmp_path: Path) -> None:
    rows = [{**row, "messages": [*row["messages"]]} for row in ROWS * 3]
    for number, row in enumerate(rows):
        row["messages"] = [*row["messages"][:-1], message("user", f"bake {number}")]
    path = str(written(tmp_path / "a.jsonl", rows))
    control = [f"ordinary {number}" for number in range(12)]
    of_file = excise.Prompts.of(excise.read_prompts(path), control)
    in_memory = excise.Prompts.of(rows, control)
    assert of_file.target.train.prompts == in_memory.target.train.prompts
    assert groups_of(of_file.target.train) == groups_of(in_memory.target.train)
    with pytest.raises(PromptError, match=r"target, row 1: no column text, there is goal; did you"):
        excise.Prompts.of([{"goal": "a"}] * 12, control)
    with pytest.raises(PromptError, match="has to end with a message of the user"):
        excise.Prompts.of([row["messages"] for row in ROWS[2:]], control)


def test_earlier_turns_and_system_prompts_reach_template_and_digest(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", ROWS)
    prompts = found(str(path))
    assert Chat(tiny_tokenizer()).text(prompts[1]) == (
        "<|system|> help <|end|> <|user|> hello <|end|> <|assistant|> yes <|end|> "
        "<|user|> the cake <|end|> <|assistant|> "
    )
    digests = set()
    for changed in ({}, {"role": "user", "content": "help"}, message("system", "no")):
        rows = json.loads(json.dumps(ROWS * 3))
        for number, row in enumerate(rows):
            row["messages"][-1] = message("user", f"text {number}")
            if changed and number == 1:
                row["messages"][0] = changed
        target = KindSources(whole=PromptSource(source=str(written(tmp_path / "b.jsonl", rows))))
        digests.add(prompts_digest(load_parts(PromptSources(target, target_of(tmp_path)))))
    assert len(digests) == 3


def target_of(folder: Path) -> KindSources:
    path = folder / "control.txt"
    path.write_text("\n".join(f"ordinary {number}" for number in range(12)), encoding="utf-8")
    return KindSources(whole=PromptSource(source=str(path)))


def test_a_run_says_how_many_answers_were_left_out(tmp_path: Path) -> None:
    rows = [
        {"messages": [message("user", f"text {number}"), message("assistant", "no")]}
        for number in range(12)
    ]
    target = KindSources(whole=PromptSource(source=str(written(tmp_path / "a.jsonl", rows))))
    prompts = load_parts(PromptSources(target, target_of(tmp_path)))
    assert prompts.notes == (
        "target: 12 conversations end with an answer of the assistant, which is left out.",
    )
