"""Benchmarks of lm-evaluation-harness on local task files: no network, against loops of transformers."""

from __future__ import annotations

import json
import math
import random
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager

import excise
from cli_helpers import failure
from conftest import WORDS, write_edited
from excise.anatomy.writers import examine
from excise.benchmarks import benchmark as module
from excise.benchmarks import tasks as finding
from excise.benchmarks.events import BenchmarkProgress
from excise.benchmarks.options import BenchmarkOptions
from excise.benchmarks.score import BenchmarkScore
from excise.cli.main import main
from excise.edits.edit import Edit
from excise.events import Event, Note
from excise.scorers.statistics import mcnemar, sign_flips
from excise.store.directory import RunDirectory
from test_realisations import random_edit

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

DOCUMENTS = 24
CHOOSE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: choices
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
CONTINUE = """
task: continue
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["now"], max_gen_toks: 3, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
READ = """
task: read
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
"""
BOTH = """
group: both
task: [choose, other]
aggregate_metric_list: [{metric: acc, weight_by_size: WEIGHTED}]
"""


@pytest.fixture
def without_own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness takes 9 seconds to find its own tasks."""
    monkeypatch.setattr(finding, "TaskManager", partial(TaskManager, include_defaults=False))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task files, with their documents."""
    folder = tmp_path_factory.mktemp("tasks")
    rows, fewer = folder / "rows.jsonl", folder / "fewer.jsonl"
    documents = [
        {
            "question": " ".join(WORDS[(7 * row + word) % len(WORDS)] for word in range(4)),
            "choices": [
                " ".join(WORDS[(3 * row + 11 * choice + word) % len(WORDS)] for word in range(2))
                for choice in range(4)
            ],
            "answer": row % 4,
        }
        for row in range(DOCUMENTS)
    ]
    for path, kept in ((rows, documents), (fewer, documents[5:15])):
        path.write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    files = {"choose": CHOOSE, "continue": CONTINUE, "read": READ}
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text.replace("ROWS", str(rows)), encoding="utf-8")
    other = CHOOSE.replace("task: choose", "task: other").replace("ROWS", str(fewer))
    (folder / "other.yaml").write_text(other, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> excise.LoadedModel:
    return excise.load(model_folder, excise.LoadOptions(dtypes=("float32",)))


@pytest.fixture(scope="module")
def edit(loaded: excise.LoadedModel) -> Edit:
    return random_edit(loaded.model, examine(loaded.model), "orthogonal").scaled(3)


def rows_of(tasks: Path, name: str = "rows") -> list[dict[str, object]]:
    lines = (tasks / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@torch.no_grad()
def likelihood(loaded: excise.LoadedModel, context: str, continuation: str) -> float:
    """The log-likelihood of a continuation, one text at a time."""
    before, whole = (
        loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (context, context + continuation)
    )
    found = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return float(sum(found[place - 1, whole[place]] for place in range(len(before), len(whole))))


def rendered(loaded: excise.LoadedModel, question: object) -> str:
    messages = [{"role": "user", "content": question}]
    return str(
        loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )


def chosen(loaded: excise.LoadedModel, row: dict[str, object], *, plain: bool) -> tuple[int, int]:
    """The choices of highest likelihood: of the whole text, and for each byte."""
    context = str(row["question"]) if plain else rendered(loaded, row["question"])
    choices: list[str] = row["choices"]  # type: ignore[assignment]
    # The harness puts a space before a choice unless the context ends in one.
    gap = " " if plain else ""
    found = [likelihood(loaded, context, f"{gap}{choice}") for choice in choices]
    by_byte = [each / len(choice) for each, choice in zip(found, choices, strict=True)]
    return found.index(max(found)), by_byte.index(max(by_byte))


@pytest.mark.parametrize("plain", [False, True], ids=["chat template", "plain text"])
def test_scores_are_those_of_a_plain_loop(
    loaded: excise.LoadedModel, edit: Edit, tasks: Path, plain: bool
) -> None:
    options = BenchmarkOptions(tasks=tasks, plain_text=plain, batch_size=5)
    before = excise.benchmark(loaded, ["choose"], options)
    after = excise.benchmark(loaded, ["choose"], options, edit=edit)
    for scores, each in ((before, None), (after, edit)):
        rows = rows_of(tasks)
        if each is None:
            picked = [chosen(loaded, row, plain=plain) for row in rows]
        else:
            with each.on(loaded.model):
                picked = [chosen(loaded, row, plain=plain) for row in rows]
        assert [(score.task, score.metric) for score in scores] == [
            ("choose", "acc"),
            ("choose", "acc_norm"),
        ]
        for score, picks in zip(scores, zip(*picked, strict=True), strict=True):
            right = [float(pick == row["answer"]) for pick, row in zip(picks, rows, strict=True)]
            assert score.values == tuple(right)
            assert score.value == statistics.mean(right)
            deviation = statistics.stdev(right) / math.sqrt(DOCUMENTS)
            assert score.standard_error == pytest.approx(deviation)
            assert score.documents == DOCUMENTS
    assert before[0].values != after[0].values
    assert after[0].p_value(before[0]) == mcnemar(
        [value == 1 for value in after[0].values], [value == 1 for value in before[0].values]
    )


def test_a_virtual_edit_scores_as_the_saved_model_and_leaves_no_trace(
    loaded: excise.LoadedModel, edit: Edit, tasks: Path, model_folder: Path, tmp_path: Path
) -> None:
    write_edited(edit, model_folder, tmp_path / "edited")
    loaded.tokenizer.save_pretrained(tmp_path / "edited")
    baked = excise.load(tmp_path / "edited", excise.LoadOptions(dtypes=("float32",)))
    names, options = ["choose", "continue", "read"], BenchmarkOptions(tasks=tasks)
    ids = torch.arange(5)[None]
    logits = loaded.model(ids).logits
    weights = {name: id(each) for name, each in loaded.model.named_parameters()}
    virtual = excise.benchmark(loaded, names, options, edit=edit)
    assert torch.equal(loaded.model(ids).logits, logits)
    assert {name: id(each) for name, each in loaded.model.named_parameters()} == weights
    saved = excise.benchmark(baked, names, options)
    for one, other in zip(virtual, saved, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)
        assert one.values == pytest.approx(other.values, rel=1e-4)


def test_perplexity_is_paired_by_the_likelihood_of_each_document(
    loaded: excise.LoadedModel, edit: Edit, tasks: Path
) -> None:
    options = BenchmarkOptions(tasks=tasks, plain_text=True)
    (before,) = excise.benchmark(loaded, ["read"], options)
    (after,) = excise.benchmark(loaded, ["read"], options, edit=edit)
    # Each document begins behind the end-of-text token.
    end = str(loaded.tokenizer.eos_token)
    found = [likelihood(loaded, f"{end} ", str(row["question"])) for row in rows_of(tasks)]
    assert before.values == pytest.approx(found, rel=1e-4)
    assert before.value == pytest.approx(math.exp(-sum(found) / (4 * DOCUMENTS)), rel=1e-4)
    assert before.standard_error is not None
    assert before.standard_error > 0
    assert before.higher_is_better is False
    assert before.p_value(after) == sign_flips(before.values, after.values)


def test_answers_that_are_generated_are_scored_too(loaded: excise.LoadedModel, tasks: Path) -> None:
    options = BenchmarkOptions(tasks=tasks, limit=6)
    (score,) = excise.benchmark(loaded, ["continue"], options)
    assert (score.metric, score.documents, len(score.values)) == ("exact_match", 6, 6)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_group_is_the_mean_of_its_tasks(
    loaded: excise.LoadedModel,
    edit: Edit,
    tasks: Path,
    weighted: bool,
    without_own_tasks: None,
) -> None:
    group = tasks / "both.yaml"
    group.write_text(BOTH.replace("WEIGHTED", str(weighted).lower()), encoding="utf-8")
    try:
        options = BenchmarkOptions(tasks=tasks)
        scores = excise.benchmark(loaded, ["both"], options)
        others = excise.benchmark(loaded, ["both"], options, edit=edit)
    finally:
        group.unlink()
    first, second = (
        next(each for each in scores if (each.task, each.metric) == (name, "acc"))
        for name in ("choose", "other")
    )
    assert scores[0].task == "both"
    assert scores[0].documents == DOCUMENTS + 10
    values = [*first.values, *second.values]
    expected = statistics.mean(values) if weighted else (first.value + second.value) / 2
    assert scores[0].value == pytest.approx(expected)
    assert statistics.mean(scores[0].values) == pytest.approx(expected)
    assert first.standard_error is not None
    assert second.standard_error is not None
    share = DOCUMENTS / (DOCUMENTS + 10) if weighted else 0.5
    error = math.hypot(share * first.standard_error, (1 - share) * second.standard_error)
    assert scores[0].standard_error == pytest.approx(error)
    assert scores[0].p_value(others[0]) is not None


def test_it_is_quiet_and_tells_progress(
    loaded: excise.LoadedModel, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        print("heard")

    excise.benchmark(
        loaded, ["choose", "read"], BenchmarkOptions(tasks=tasks, limit=3), emit=listen
    )
    said = capfd.readouterr()
    assert set(said.out.split()) == {"heard"}
    assert said.err == ""
    assert events[-1] == BenchmarkProgress(15, 15)
    counts = [event.done for event in events if isinstance(event, BenchmarkProgress)]
    assert counts == sorted(set(counts))


def test_random_generators_are_as_they_were(loaded: excise.LoadedModel, tasks: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    excise.benchmark(loaded, ["choose"], BenchmarkOptions(tasks=tasks, limit=2))
    assert draws() == expected


def test_a_smaller_batch_is_tried_if_memory_runs_out(
    loaded: excise.LoadedModel, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BenchmarkOptions(tasks=tasks)
    expected = excise.benchmark(loaded, ["choose"], options)
    forward = type(loaded.model).forward

    def narrow(self: object, input_ids: torch.Tensor, *rest: object, **named: object) -> object:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, *rest, **named)

    monkeypatch.setattr(type(loaded.model), "forward", narrow)
    notes: list[Event] = []
    assert excise.benchmark(loaded, ["choose"], options, emit=notes.append) == expected
    texts = [event.text for event in notes if isinstance(event, Note)]
    assert texts == [f"out of memory; benchmarks go on with {size} at a time" for size in (4, 2)]


def test_p_values_need_the_same_metric_and_numbers() -> None:
    score = BenchmarkScore("a", "acc", "", 0.5, None, (1.0, 0.0), 2, 0)
    with pytest.raises(ValueError, match="beside b acc"):
        score.p_value(BenchmarkScore("b", "acc", "", 0.5, None, (1.0, 0.0), 2, 0))
    none = BenchmarkScore("a", "acc", "", 0.5, None, (), 2, 0)
    assert score.p_value(none) is none.p_value(none) is None
    assert score.p_value(BenchmarkScore("a", "acc", "", 0.5, None, (math.nan, 0.0), 2, 0)) is None


@pytest.mark.parametrize(
    ("name", "file", "told"),
    [
        ("chose", "", "chose: no such benchmark; the nearest names are choose"),
        ("broken", "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: nowhere.jsonl}\n",
         "broken: the benchmark cannot be loaded (Unable to find"),
        ("raising", CHOOSE.replace("choose", "raising") + "process_docs: !function raising.boom\n",
         "raising: the benchmark cannot be loaded (boom)"),
    ],
)  # fmt: skip
def test_a_wrong_benchmark_is_one_line(
    tasks: Path, tmp_path: Path, model_folder: Path, name: str, file: str, told: str,
    capsys: pytest.CaptureFixture[str], without_own_tasks: None,
) -> None:  # fmt: skip
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = str(tasks / "rows.jsonl")
    (folder / "choose.yaml").write_text(CHOOSE.replace("ROWS", rows), encoding="utf-8")
    if file:
        (folder / f"{name}.yaml").write_text(file.replace("ROWS", rows), encoding="utf-8")
        (folder / f"{name}.py").write_text("def boom(documents):\n    raise ValueError('boom')\n")
    arguments = ["evaluate", str(model_folder), "--benchmarks", name]
    assert told in failure([*arguments, "--benchmark-tasks", str(folder)], capsys)


def test_without_the_extra_one_line_says_what_to_install(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    line = failure(["evaluate", str(model_folder), "--benchmarks", "piqa"], capsys)
    assert line.endswith("benchmarks need lm-evaluation-harness: pip install 'excise[eval]'")


@pytest.fixture
def measured(tasks: Path) -> list[str]:
    return ["--benchmarks", "choose", "--benchmark-tasks", str(tasks), "--dtype", "float32"]


def test_a_run_is_scored_before_and_after(
    finished_run: Path, tasks: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    del measured[-2:]
    assert main(["evaluate", str(finished_run), *measured, "--benchmark-limit", "10"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "with the model's chat template" in out
    assert "acc_norm 10" in out.replace("│", "").replace("  ", " ")
    assert "p < 0.05" in out
    assert main(["evaluate", f"{finished_run}:fewest", *measured, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = shown["benchmarks"]
    assert [row["metric"] for row in rows] == ["acc", "acc_norm"]
    assert all(row["difference"] == row["after"] - row["before"] for row in rows)
    assert all(0 < row["p_value"] <= 1 for row in rows)
    assert shown["model"].startswith(f"{finished_run}:")
    assert shown["chat_template"]


def test_a_run_and_an_edit_file_are_measured_on_prompts_too(
    finished_run: Path, prompt_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished_run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    chosen = json.loads((finished_run / "result.json").read_text(encoding="utf-8"))["chosen"]
    assert shown["parts"]["held_out"]["refusals_edited"] == chosen["held_out"]["refusals"]
    assert shown["parts"]["held_out"]["kl"] == pytest.approx(
        chosen["held_out"]["kl"]["mean"], rel=1e-3
    )
    file = tmp_path / "edit.safetensors"
    file.write_bytes(RunDirectory(finished_run).edit_path(chosen["trial"]).read_bytes())
    assert main(["evaluate", str(file), *prompt_flags, "--max-new-tokens=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == shown["parts"]


def test_models_are_scored_alone_or_against_their_original(
    model_folder: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(model_folder), *measured]
    assert main([*arguments, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["against"] is None
    assert main([*arguments, "--json", "--benchmark-plain-text", f"--against={model_folder}"]) == 0
    pair = json.loads(capsys.readouterr().out)
    assert not pair["chat_template"]
    assert [row["p_value"] for row in pair["benchmarks"]] == [1.0, 1.0]
    assert main(arguments) == 0
    assert "score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "name its original (--against ORIGINAL), or benchmarks (--benchmarks NAME,…)"),
        (["--benchmark-limit", "3"], "--benchmark-limit: goes with --benchmarks"),
        (["--benchmarks=a", "--max-new-tokens=3"], "--max-new-tokens: does not affect benchmarks"),
        (["--benchmarks=a", "--benchmark-limit=0"], "benchmark limit 0: must be at least 1"),
        (["--benchmarks=a", "--benchmark-tasks=none"], "none: no such folder of task files"),
        (["--benchmarks=a", "--benchmark-tasks=."], "holds no task file"),
        (["--benchmarks=a", "--force"], "--force: goes with an edit file"),
    ],
)
def test_mistakes_are_one_line(
    model_folder: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in failure(["evaluate", str(model_folder), *flags], capsys)


def test_neither_a_file_nor_a_variable_names_a_folder_whose_functions_run(
    model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("excise.toml").write_text('benchmark_tasks = "tasks"\n', encoding="utf-8")
    assert "no such setting" in failure(["evaluate", str(model_folder), "--benchmarks=a"], capsys)
    Path("excise.toml").unlink()
    monkeypatch.setenv("EXCISE_BENCHMARK_TASKS", "tasks")
    assert "no such setting" in failure(["evaluate", str(model_folder), "--benchmarks=a"], capsys)


@pytest.mark.slow
def test_names_are_compared_with_those_of_the_harness(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = failure(["evaluate", str(model_folder), "--benchmarks", "arc_easi"], capsys)
    assert "arc_easi: no such benchmark; the nearest names are arc_easy" in line
