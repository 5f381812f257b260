"""Reading prompt sets from the disk, slices, splits, and bad input. Nothing here needs a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from excise.config import PromptSource, Settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import PromptError
from excise.prompts.read import PromptDefaults, load_parts, read
from excise.prompts.sets import Prompt, PromptSet
from excise.prompts.source import parse_split
from excise.prompts.splits import Parts, Prompts, cut_held_out, drop_repeated, split_whole

TEXTS = ["first", "second", "third", "fourth"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_lines(path: Path, texts: list[str]) -> Path:
    return write(path, "".join(f"{text}\n" for text in texts))


def texts_of(source: Any, **shared: Any) -> list[str]:
    prompt_set = read(PromptSource.model_validate(source), PromptDefaults(**shared))
    return [prompt.text for prompt in prompt_set.prompts]


def error_of(source: Any, **shared: Any) -> str:
    with pytest.raises(PromptError) as caught:
        texts_of(source, **shared)
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbered(name: str, numbers: range) -> PromptSet:
    return PromptSet(name, tuple(Prompt(f"prompt {number}") for number in numbers), "here")


# Sources


@pytest.fixture(params=[".txt", ".jsonl", ".csv", ".parquet", "saved", "saved dict"])
def four_prompts(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same four prompts, in each of the forms; a source that reads them."""
    form: str = request.param
    path = tmp_path / f"prompts{form.replace(' ', '_')}"
    if form == ".txt":
        write_lines(path, TEXTS)
    elif form == ".jsonl":
        write_lines(path, [json.dumps({"text": text, "other": 1}) for text in TEXTS])
    elif form == ".csv":
        write_lines(path, ["other,text", *(f'1,"{text}"' for text in TEXTS)])
    elif form == ".parquet":
        table = pyarrow.table({"text": TEXTS, "other": [1] * len(TEXTS)})
        pyarrow.parquet.write_table(table, path)
    else:
        data = datasets.Dataset.from_dict({"text": TEXTS})
        saved = datasets.DatasetDict(train=data) if form == "saved dict" else data
        saved.save_to_disk(str(path))
    return str(path)


def test_every_form_gives_the_same_prompts(four_prompts: str) -> None:
    assert texts_of(four_prompts) == TEXTS
    assert texts_of(f"{four_prompts}[1:3]") == ["second", "third"]


def test_every_form_refuses_a_slice_beyond_its_end(four_prompts: str) -> None:
    assert "asks for 400 prompts, the split has 4" in error_of(f"{four_prompts}[:400]")


def test_a_text_file_may_hold_blank_lines_a_mark_and_line_ends_of_any_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone\r\n\n   \n  two\u2028half \nthree".encode())
    assert texts_of(str(path)) == ["one", "two\u2028half", "three"]


def test_prefix_suffix_and_system_prompt_are_the_sets_own_or_else_the_shared_ones(
    tmp_path: Path,
) -> None:
    path = str(write_lines(tmp_path / "a.txt", [" hello "]))
    shared = PromptDefaults(prefix="> ", suffix=" !", system_prompt="Shared.")
    assert read(PromptSource(source=path), shared).prompts == (Prompt("> hello !", "Shared."),)
    own = PromptSource(source=path, prefix="", suffix="?", system_prompt="Own.")
    assert read(own, shared).prompts == (Prompt("hello?", "Own."),)
    none = PromptSource(source=path, system_prompt="")
    assert read(none, shared).prompts[0].system_prompt is None


def test_the_column_is_the_sets_own_or_else_the_shared_one(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.csv", "goal,text\nsteal,x\n"))
    assert texts_of(path, column="goal") == ["steal"]
    assert texts_of({"source": path, "column": "goal"}, column="text") == ["steal"]


def test_rows_without_text_are_dropped_after_slicing(tmp_path: Path) -> None:
    rows = ["a", "  ", None, "b", "c"]
    path = write_lines(tmp_path / "a.jsonl", [json.dumps({"text": row}) for row in rows])
    assert texts_of(f"{path}[:4]") == ["a", "b"]


def test_a_set_says_where_it_is_from(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", TEXTS)
    prompt_set = read(PromptSource.model_validate(f"{path}[:2]"), PromptDefaults(), "target train")
    assert (prompt_set.name, prompt_set.origin) == ("target train", f"{path}[:2]")
    assert (len(prompt_set), prompt_set.revision) == (2, None)


# Slices


@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        (None, range(10)),
        ("train", range(10)),
        ("train[:4]", range(4)),
        ("[4:6]", range(4, 6)),
        ("[8:]", range(8, 10)),
        ("[-2:]", range(8, 10)),
        ("[:-2]", range(8)),
        ("[:50%]", range(5)),
        ("[50%:]", range(5, 10)),
        ("[ 1 : 2 ]", range(1, 2)),
    ],
)
def test_a_slice_takes(expression: str | None, taken: range) -> None:
    assert parse_split(expression, "here").take(range(10), "here") == list(taken)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[:11]", "here: [:11] asks for 11 prompts, the split has 10; ask for fewer"),
        ("t[5:15]", "here: t[5:15] asks for prompts up to 15, the split has 10; ask for fewer"),
        ("[-11:]", "here: [-11:] asks for 11 prompts, the split has 10; ask for fewer"),
        ("[:110%]", "here: [:110%] asks for 11 prompts, the split has 10; ask for fewer"),
        ("[4:4]", "here: [4:4] names no prompt, the split has 10; the first number must be less"),
        ("[6:4]", "here: [6:4] names no prompt"),
        (
            "[4]",
            "here: [4] is not a split; write for example train, train[:400], [10:20] or [:50%]",
        ),
        ("a[:1]+b", "here: a[:1]+b is not a split"),
        ("[:x]", "here: [:x] is not a split"),
    ],
)
def test_a_slice_that_cannot_be_taken(expression: str, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_split(expression, "here").take(range(10), "here")
    assert str(caught.value).startswith(message)


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: the file is empty; it needs prompts"),
        ("a.csv", " \n\n", "a.csv: the file is empty"),
        ("a.csv", "text\n", "a.csv: holds no text"),
        ("a.txt", b"one\ntw\xe9\n", "a.txt: not UTF-8: byte 6, on line 2, is 0xe9; save the file"),
        ("a.txt", b"\xef\xbb\xbfone\n\xff", "a.txt: not UTF-8: byte 7, on line 2, is 0xff"),
        ("a.txt", "one".encode("utf-16"), "a.txt: not UTF-8: byte 0, on line 1, is 0xff"),
        ("a.csv", b"text\n\xe9\n", "a.csv: not UTF-8: byte 5, on line 2"),
        ("a.csv", "texts,goal\na,b\n", "no column text, there is texts, goal; did you mean texts?"),
        ("a.csv", "a,text\n1,x\n2\n", "a.csv: line 3: fewer fields than the header has columns"),
        ("a.csv", 'text\n"a" b\n', "a.csv: line 2: not CSV: "),
        (
            "a.jsonl",
            '{"goal": "x"}',
            "a.jsonl: line 1: no column text, there is goal; did you mean goal?",
        ),
        ("a.jsonl", '{"text": "x"}\n\n{"text": ', "a.jsonl: line 3: not JSON (character 10): "),
        (
            "a.jsonl",
            '"x"\n',
            'a.jsonl: line 1: not a JSON object; write one for each prompt, as {"te',
        ),
        ("a.jsonl", '{"text": 5}', "a.jsonl: row 1: column text holds 5, neither text nor a list"),
        ("a.jsonl", '{"text": ["x"]}', "a.jsonl: row 1: column text holds ['x'], neither text nor"),
        ("a.parquet", "PAR1", "a.parquet: not a parquet file, or a damaged one: "),
        (
            "a.md",
            "x",
            "a.md: prompts are read from .txt, .jsonl, .json, .csv, .parquet, not from .md",
        ),
    ],
)
def test_a_bad_file(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    assert message in error_of(str(path))


@pytest.mark.parametrize("name", ["absent.txt", "./absent", "some/where/absent", "/tmp/absent.csv"])
def test_a_file_that_is_missing_is_not_looked_for_on_the_hub(name: str) -> None:
    assert "no such file" in error_of(name)


def test_a_parquet_file_without_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"txt": ["a"]}), path)
    assert "no column text, there is txt; did you mean txt?" in error_of(str(path))


def not_utf8() -> pyarrow.Array:
    """Texts as a damaged file holds them: nothing checks them while they are read."""
    texts = pyarrow.array([b"first", b"sec\xffnd"], pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), len(texts), texts.buffers())


def test_texts_that_are_not_utf_8_in_a_table(tmp_path: Path) -> None:
    table = pyarrow.table({"text": not_utf8()})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert "not a parquet file, or a damaged one" in error_of(str(tmp_path / "p.parquet"))
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    assert "saved: damaged (" in error_of(str(tmp_path / "saved"))


def test_lengths_in_a_saved_table_that_lead_out_of_it(tmp_path: Path) -> None:
    sound = pyarrow.array(TEXTS)
    ends = pyarrow.array([0, 1 << 30, 11, 16, 22], pyarrow.int32()).buffers()[1]
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(), len(TEXTS), [None, ends, sound.buffers()[2]]
    )
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    (path,) = (tmp_path / "saved").glob("*.arrow")
    table = pyarrow.table({"text": texts})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)
    assert "saved: damaged (" in error_of(str(tmp_path / "saved"))


def test_a_column_that_stands_twice_is_neither_of_the_two(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["one"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    write(tmp_path / "p.csv", "text,text\none,two\n")
    for name in ("p.parquet", "p.csv"):
        assert f"{name}: there is more than one column text" in error_of(str(tmp_path / name))


def test_a_file_has_no_named_splits(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt", TEXTS)
    assert "a file has no split train; leave it out" in error_of(f"{path}:train[:2]")


def test_a_folder_that_datasets_did_not_save(tmp_path: Path) -> None:
    assert "not a folder saved by datasets" in error_of(str(tmp_path))


def test_a_damaged_folder(tmp_path: Path) -> None:
    write(tmp_path / "state.json", "{")
    assert "state.json: damaged: not JSON" in error_of(str(tmp_path))


def test_the_splits_and_columns_of_a_saved_folder(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"text": TEXTS})
    folder = str(tmp_path / "saved")
    datasets.DatasetDict(train=data, test=data.select(range(2))).save_to_disk(folder)
    assert texts_of(f"{folder}:test") == TEXTS[:2]
    assert "no split dev, it has train, test" in error_of(f"{folder}:dev")
    unnamed = error_of(f"{folder}[:2]")
    assert f"name a split, it has train, test; write {folder}:train[:2]" in unnamed
    assert "no column goal, there is text" in error_of(f"{folder}:train", column="goal")
    alone = str(tmp_path / "alone")
    data.save_to_disk(alone)
    assert "no split dev, it holds one data set" in error_of(f"{alone}:dev")


# Parts


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (6, (4, 1, 1)),
        (60, (40, 10, 10)),
        (599, (401, 99, 99)),
        (600, (400, 100, 100)),
        (900, (400, 100, 100)),
    ],
)
def test_one_set_is_split_three_ways(count: int, sizes: tuple[int, int, int]) -> None:
    parts = split_whole(numbered("target", range(count)), seed=0)
    assert (len(parts.train), len(parts.search), len(parts.held_out)) == sizes
    every = [*parts.train.prompts, *parts.search.prompts, *parts.held_out.prompts]
    assert len(set(every)) == sum(sizes)
    assert [parts.train.name, parts.held_out.name] == ["target train", "target held-out"]


def test_the_seed_alone_decides_how_a_set_is_shuffled() -> None:
    whole = numbered("target", range(60))
    assert split_whole(whole, seed=1) == split_whole(whole, seed=1)
    assert split_whole(whole, seed=1) != split_whole(whole, seed=2)


@pytest.mark.parametrize(("count", "cut"), [(8, 2), (40, 10), (400, 100), (1000, 100)])
def test_held_out_prompts_are_cut_off_the_end_of_train(count: int, cut: int) -> None:
    whole = numbered("target train", range(count))
    train, held_out = cut_held_out(whole, "target held-out")
    assert held_out.prompts == whole.prompts[count - cut :]
    assert train.prompts + held_out.prompts == whole.prompts
    assert held_out.origin == f"here, the last {cut}"


def test_no_prompt_stays_in_two_parts() -> None:
    parts, notes = drop_repeated(
        Parts(
            numbered("train", range(10)),
            numbered("search", range(8, 14)),
            numbered("held-out", range(9, 20)),
        )
    )
    assert parts.train == numbered("train", range(10))
    assert parts.search == numbered("search", range(10, 14))
    assert parts.held_out == numbered("held-out", range(14, 20))
    assert notes == [
        "2 prompts are in both train and search; dropped from search.",
        "1 prompt is in both train and held-out; dropped from held-out.",
        "4 prompts are in both search and held-out; dropped from held-out.",
    ]


def loaded(folder: Path, **sets: list[str]) -> Prompts:
    """`load_parts` on text files with these lines; a control set is added if there is none."""
    sets = {"control": [f"ordinary {number}" for number in range(12)]} | sets
    if any(name.startswith("control_") for name in sets):
        del sets["control"]
    files = {name: str(write_lines(folder / f"{name}.txt", lines)) for name, lines in sets.items()}
    return load_parts(prompt_sources(Settings.model_validate({"model": "m"} | files)))


def test_sets_that_are_all_given_are_taken_as_they_are(tmp_path: Path) -> None:
    parts = loaded(
        tmp_path, target_train=list("abcd"), target_search=list("ef"), target_held_out=list("gh")
    )
    assert [prompt.text for prompt in parts.target.train.prompts] == list("abcd")
    assert [prompt.text for prompt in parts.target.search.prompts] == list("ef")
    assert [prompt.text for prompt in parts.target.held_out.prompts] == list("gh")
    assert (len(parts.control.train), parts.notes) == (8, ())


def test_a_note_says_that_held_out_prompts_were_cut_off(tmp_path: Path) -> None:
    parts = loaded(tmp_path, target_train=list("abcdefgh"), target_search=list("xy"))
    assert [prompt.text for prompt in parts.target.held_out.prompts] == list("gh")
    assert parts.notes == (
        "target: no held-out set is given, so the last 2 of the 8 train prompts are held out.",
    )


def test_notes_say_what_was_dropped_and_what_is_in_both_kinds(tmp_path: Path) -> None:
    parts = loaded(
        tmp_path,
        target_train=list("abcd"),
        target_search=list("ax"),
        target_held_out=list("yz"),
        control_train=list("ABCD"),
        control_search=["y"],
        control_held_out=["E"],
    )
    assert len(parts.target.search) == 1
    assert parts.notes == (
        "target: 1 prompt is in both train and search; dropped from search.",
        "1 prompt is in both target and control ('y'); none was dropped.",
    )


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"target": list("abcde")}, "target: search has 0 prompts"),
        (
            {"target_train": list("abc"), "target_search": ["x"], "target_held_out": ["y"]},
            "target: train has 3 prompts",
        ),
        (
            {"target_train": list("abcd"), "target_search": ["a"], "target_held_out": ["y"]},
            "target: search has 0 prompts",
        ),
        (
            {"target_train": list("abcd"), "target_search": ["x"], "target_held_out": ["x"]},
            "target: held-out has 0 prompts",
        ),
        ({"target": list("abcdef"), "control": list("abc")}, "control: train has 3 prompts"),
    ],
)
def test_too_few_prompts(sets: dict[str, list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError) as caught:
        loaded(tmp_path, **sets)
    assert str(caught.value).startswith(message)
    assert "needed; give more prompts" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "meant"),
    [
        ("goal,target", "goal"),  # AdvBench
        ("Index,Goal,Target,Behavior,Category,Source", "Goal"),  # JailbreakBench
        ("Behavior,FunctionalCategory,SemanticCategory,ContextString,BehaviorID", "Behavior"),
        ("id,prompt,type,label,focus,note", "prompt"),  # XSTest
        ("category,source,forbidden_prompt", "forbidden_prompt"),  # StrongREJECT
        ("instruction,input,output", "instruction"),  # Alpaca
        ("vanilla,adversarial,completion,data_type", "vanilla"),  # WildJailbreak
        ("prompt,response_0,response_1", "prompt"),
        ("question,best_answer,correct_answers", "question"),  # TruthfulQA
        ("inputs,targets", "inputs"),  # FLAN
        ("user_input,model_output", "user_input"),  # ToxicChat
        ("ForbiddenPrompt,Answer", "ForbiddenPrompt"),
        ("chosen,rejected", None),
        ("target", None),
        ("prompt_id,turns", None),
        ("en_prompt,de_prompt", None),
        ("test,context", None),
    ],
)
def test_the_column_that_is_proposed_holds_prompts_and_never_answers(
    tmp_path: Path, columns: str, meant: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{columns}\n{','.join('x' for _ in columns.split(','))}\n")
    message = error_of(str(path))
    assert f"no column text, there is {columns.replace(',', ', ')}; " in message
    if meant is None:
        assert message.endswith("choose one with column (--column NAME)")
    else:
        assert message.endswith(f"did you mean {meant}? give column (--column {meant})")


def test_a_misspelt_column_is_told_unless_it_would_be_one_of_answers() -> None:
    from excise.prompts.columns import likely_column

    assert likely_column("promt", ["prompt", "question"]) == "prompt"
    assert likely_column("behavior", ["Behavior", "goal"]) == "Behavior"
    assert likely_column("targets", ["goal", "target"]) == "goal"
    assert likely_column("respons", ["response", "label"]) is None
