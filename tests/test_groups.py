"""Figures by group: which prompts belong to one, how they are split, and where the figures are shown."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

import excise
from cli_helpers import json_lines, result, rewrite
from conftest import WORDS
from excise.cli.main import main
from excise.cli.stored import settings_in
from excise.config import Inputs, PromptSource, Settings, settings_digest, study_settings
from excise.config.prompt_sources import prompt_sources
from excise.errors import PromptError, RunError
from excise.prompts.read import load_parts
from excise.prompts.sets import Prompt, PromptSet
from excise.prompts.splits import cut_held_out, split_whole
from excise.scorers.groups import MOST_GROUPS, Groups
from excise.scorers.statistics import Share, bootstrap
from excise.store.directory import RunDirectory
from excise.store.outcome import outcome_in, outcome_of

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def grouped(*sizes: int) -> PromptSet:
    """Prompts sorted by group; group g0 is the first."""
    prompts = [
        Prompt(f"prompt {group} {number}", group=f"g{group}")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    return PromptSet("target", tuple(prompts), "here")


def counted(prompts: PromptSet) -> Counter[str | None]:
    return Counter(prompt.group for prompt in prompts)


# Splits


def test_sets_without_groups_or_with_one_are_split_as_before() -> None:
    for count in (13, 60, 700):
        plain = PromptSet("t", tuple(Prompt(f"prompt 0 {n}") for n in range(count)), "here")
        shuffled = list(plain.prompts)
        random.Random(0).shuffle(shuffled)
        train, rest = (400, 100) if count >= 600 else (count - 2 * (count // 6), count // 6)
        for whole in (plain, grouped(count)):
            parts = split_whole(whole, 0)
            assert list(parts.train) == shuffled[:train]
            assert list(parts.search) == shuffled[train : train + rest]
            assert list(parts.held_out) == shuffled[train + rest : train + 2 * rest]
            kept, cut = cut_held_out(whole, "held-out")
            assert (*kept, *cut) == whole.prompts
            assert cut.origin == f"here, the last {len(cut)}"


@pytest.mark.parametrize("sizes", [(300, 60), (120, 60, 30, 30), (500, 300, 400, 24), (48,) * 12])
def test_each_part_has_its_share_of_every_group(sizes: tuple[int, ...]) -> None:
    whole = grouped(*sizes)
    parts = split_whole(whole, 0)
    cut = cut_held_out(whole, "held-out")
    for part in (parts.train, parts.search, parts.held_out, *cut):
        for group, size in enumerate(sizes):
            assert abs(counted(part)[f"g{group}"] - size * len(part) / len(whole)) <= 2
    assert len({*parts.train, *parts.search, *parts.held_out}) == min(len(whole), 600)
    assert set(cut[0]) | set(cut[1]) == set(whole)
    # Prompts of a part stay in their order.
    assert list(cut[0]) == [prompt for prompt in whole if prompt in set(cut[0])]
    assert cut[1].origin.endswith("by group")


def test_small_groups_are_not_all_in_one_part() -> None:
    parts = split_whole(grouped(*(1,) * 60), 0)
    shares = [len(counted(part)) for part in (parts.train, parts.search, parts.held_out)]
    assert shares == [40, 10, 10]
    parts = split_whole(grouped(100, *(2,) * 50), 0)
    for part in (parts.search, parts.held_out):
        assert abs(counted(part)["g0"] - 100 / 6) <= 2


# Columns


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet"])
def test_groups_are_texts_and_numbers_in_one_line(form: str, tmp_path: Path) -> None:
    cells: list[object] = [" a  b\nc ", "", None, "d"]
    rows = [{"text": f"t {n}", "topic": cell} for n, cell in enumerate(cells)]
    path = tmp_path / f"a.{form}"
    if form == "csv":
        path.write_text('text,topic\nt 0," a  b\nc "\nt 1,\nt 2\nt 3,d\n', encoding="utf-8")
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = "\n".join(map(json.dumps, rows)) if form == "jsonl" else json.dumps(rows)
        path.write_text(lines, encoding="utf-8")
    found = [prompt.group for prompt in excise.read_prompts(path)]
    assert found == ["a b c", None, None, "d"]


def test_a_group_is_named_or_the_topic(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "a", "language": 1}, {"text": "b", "topic": ["x"], "language": 2.5}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    # A row may lack the topic; a list names no group.
    assert [prompt.group for prompt in excise.read_prompts(path)] == [None, None]
    named = excise.read_prompts(path, group_by="language")
    assert [prompt.group for prompt in named] == ["1", "2.5"]
    assert named.prompts == excise.read_prompts(path).prompts
    with pytest.raises(
        PromptError, match=r"no column goal to group by, there is text, language, topic; choose"
    ):
        excise.read_prompts(path, group_by="goal")
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(PromptError, match="no column goal to group by, there is no column at all"):
        excise.read_prompts(tmp_path / "a.txt", group_by="goal")


def table(path: Path, column: str, first: int) -> str:
    lines = [f"{WORDS[first + n]} {WORDS[first + n + 1]},{'xy'[n % 2]}" for n in range(24)]
    path.write_text("\n".join([f"text,{column}", *lines]), encoding="utf-8")
    return str(path)


def test_a_shared_column_of_groups_is_in_one_set_at_least(tmp_path: Path) -> None:
    given = {"target": table(tmp_path / "t.csv", "kind", 0)}
    given |= {"control": table(tmp_path / "c.csv", "sort", 30), "model": "m"}
    prompts = load_parts(prompt_sources(Settings.model_validate({**given, "group_by": "kind"})))
    assert counted(prompts.target.held_out).keys() == {"x", "y"}
    assert counted(prompts.control.held_out).keys() == {None}
    with pytest.raises(PromptError, match=r"no set has a column topic with values; choose another"):
        load_parts(prompt_sources(Settings.model_validate({**given, "group_by": "topic"})))
    own = PromptSource(source=given["control"], group_by="sort")
    settings = Settings.model_validate({**given, "control": own, "group_by": "kind"})
    prompts = load_parts(prompt_sources(settings))
    assert counted(prompts.control.held_out).keys() == {"x", "y"}


def test_a_study_without_a_column_of_groups_is_what_it_was_before_there_were_any() -> None:
    plain = Settings(model="m", target="t.csv", control="c.csv")  # type: ignore[arg-type]
    stored = study_settings(plain)
    assert "group_by" not in stored
    assert stored["target"] == {
        **dict.fromkeys(("split", "column", "prefix", "suffix", "system_prompt", "revision")),
        "source": "t.csv",
    }
    by_kind = plain.model_copy(update={"group_by": "kind"})
    assert settings_digest(by_kind) != settings_digest(plain)
    own = plain.model_copy(update={"target": PromptSource(source="t.csv", group_by="kind")})
    assert settings_digest(own) != settings_digest(plain)


@pytest.mark.parametrize("field", ["group_by", "objectives", "template_arguments"])
def test_what_a_run_left_open_the_environment_does_not_set(finished_run: Path, field: str) -> None:
    assert field not in RunDirectory(finished_run).identity().settings
    stored = settings_in(RunDirectory(finished_run), Settings.model_fields)
    variables = {
        "EXCISE_GROUP_BY": "kind",
        "EXCISE_OBJECTIVES": "kl,refusals",
        "EXCISE_TEMPLATE_ARGUMENTS": "a=1",
    }
    settings = Inputs({}, variables).settings(stored)
    assert getattr(settings, field) == Settings.model_fields[field].default


# Figures


def test_figures_of_each_group() -> None:
    groups = Groups.of(["b", "a", None, "a", "a", "b"])
    assert groups.members == {"a": (1, 3, 4), "b": (0, 5), "(none)": (2,)}
    kl = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    found = groups.figures(edited=[True, False, True, True, False, True], kl=kl, seed=3)
    assert [(each.name, each.prompts, each.edited) for each in found] == [
        ("a", 3, Share(1, 3)),
        ("b", 2, Share(2, 2)),
        ("(none)", 1, Share(1, 1)),
    ]
    assert found[0].kl == bootstrap([0.2, 0.4, 0.5], 3)
    assert found[0].original is found[0].answer_kl is None
    assert Groups.of([None, None, ""]).members == {}
    assert Groups.of([None, "", "a"]).members == {"(none)": (0, 1), "a": (2,)}


def test_of_many_groups_the_smallest_are_put_together() -> None:
    sizes = {f"g{number}": 40 - number for number in range(MOST_GROUPS + 3)}
    names = [name for name, size in sizes.items() for _ in range(size)]
    random.Random(0).shuffle(names)
    groups = Groups.of(names).members
    assert list(groups) == [*list(sizes)[: MOST_GROUPS - 1], "other (4 groups)"]
    assert sum(map(len, groups.values())) == len(names)
    assert len(Groups.of(names[:1] + [f"g{n}" for n in range(MOST_GROUPS)]).members) == MOST_GROUPS


@pytest.fixture(scope="session")
def grouped_run(
    tmp_path_factory: pytest.TempPathFactory, small: list[str]
) -> tuple[Path, list[str]]:
    """A run whose prompts have topics, and its command line."""
    folder = tmp_path_factory.mktemp("grouped")
    flags = []
    for kind, first in (("target", 0), ("control", 30)):
        lines = [f"{a} {b},topic {n % 2}" for n, (a, b) in enumerate(pairs(first))]
        path = folder / f"{kind}.csv"
        path.write_text("\n".join(["text,topic", *lines]), encoding="utf-8")
        flags.append(f"--{kind}={path}")
    model, *rest = [each for each in small if not each.startswith(("--target", "--control"))]
    arguments = [model, *flags, *rest, "--run-dir", str(folder / "run"), "--yes"]
    assert main(arguments) == 0
    return folder / "run", arguments


def test_a_run_shows_and_records_the_figures_of_each_group(
    grouped_run: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = grouped_run
    assert main([*arguments, "--save", str(tmp_path / "model")]) == 0
    screen = capsys.readouterr().out
    outcome = outcome_of(result(run))
    assert outcome is not None
    target, control = outcome.groups.target, outcome.groups.control
    for groups, prompts in ((target, outcome.prompts), (control, outcome.control_prompts)):
        assert {group.name for group in groups} == {"topic 0", "topic 1"}
        assert sum(group.prompts for group in groups) == prompts
    assert sum(each.edited.count for each in target if each.edited) == outcome.edited.refusals
    assert sum(each.original.count for each in target if each.original) == outcome.original.refusals
    assert sum(each.edited.count for each in control if each.edited) == (
        outcome.edited.control_refusals
    )
    for name in ("kl", "answer_kl"):
        means = [getattr(each, name).mean * each.prompts for each in control]
        assert sum(means) / outcome.control_prompts == pytest.approx(getattr(outcome, name).mean)
    (edit,) = [excise.Edit.load(run / f"edit-{outcome.trial}.safetensors")]
    in_facts = outcome_in(edit.facts)
    assert in_facts is not None
    assert in_facts.groups == outcome.groups
    assert main(["show", f"{run}:{outcome.trial}"]) == 0
    shown = capsys.readouterr().out
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for text in (screen, shown, card):
        assert "target prompts" in text
        for group in (*target, *control):
            assert group.name in text
            assert str(group.original) in text
        assert all(str(group.answer_kl) in text for group in control)


def test_json_has_the_figures_of_each_group(
    grouped_run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = grouped_run
    assert main([*arguments, "--json"]) == 0
    (chosen,) = [line for line in json_lines(capsys.readouterr().out) if line["event"] == "Chosen"]
    outcome = outcome_of(result(run))
    assert outcome is not None
    groups = chosen["outcome"]["groups"]  # type: ignore[index]
    for found, group in zip(groups["target"], outcome.groups.target, strict=True):
        assert found["name"] == group.name
        assert found["edited"]["low"] == group.edited.low  # type: ignore[union-attr]
    assert main(["show", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert facts["held_out"]["edited"]["groups"] == groups


def test_evaluate_shows_the_figures_of_each_group(
    grouped_run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, (model, target, control, *_) = grouped_run
    command = ["evaluate", model, "--against", model, target, control, "--max-new-tokens=4"]
    command += ["--dtype=float32", "--batch-size=8"]
    assert main(command) == 0
    screen = capsys.readouterr().out
    assert "Held-out prompts by group" in screen
    assert "topic 1" in screen
    assert main([*command, "--json"]) == 0
    for figures in json.loads(capsys.readouterr().out)["parts"].values():
        found = figures["groups"]["target"]
        assert sum(group["edited"]["count"] for group in found) == figures["refusals_edited"]
        assert all(group["kl"]["mean"] == 0 for group in figures["groups"]["control"])


def test_a_record_without_groups_opens_and_a_damaged_one_is_one_line(
    grouped_run: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(grouped_run[0], tmp_path / "run"))
    content = result(run)
    held_out = content["chosen"]["held_out"]  # type: ignore[index]
    groups = held_out.pop("groups")
    rewrite(run / "result.json", content)
    outcome = outcome_of(RunDirectory(run).record())
    assert outcome is not None
    assert outcome.groups.target == ()
    for wrong in (
        5,
        {"other": []},
        {"target": [{"name": "a"}]},
        {"target": [groups["target"][0] | {"edited": {"count": 9, "of": 2}}]},
        {"target": [groups["target"][0] | {"prompts": 0}]},
    ):
        held_out["groups"] = wrong
        rewrite(run / "result.json", content)
        with pytest.raises(RunError, match="damaged or of another version"):
            RunDirectory(run).record()


def test_the_library_scores_by_group(model_folder: Path) -> None:
    loaded = excise.load(model_folder, excise.LoadOptions(dtypes=("float32",)))
    target = [Prompt(f"{a} {b}", group="xy"[n % 2]) for n, (a, b) in enumerate(pairs(0))]
    control = [f"{a} {b}" for a, b in pairs(30)]
    options = excise.Options(max_new_tokens=4, batch_size=8, candidates=1)
    experiment = excise.Experiment.of(loaded, excise.Prompts.of(target, control), options)
    edit = replace(experiment.edit(), base=None)
    for on in ("search", "held_out"):
        scores = experiment.score(edit, on=on)  # type: ignore[arg-type]
        assert scores.groups.control == ()
        shares = {group.name: group.edited for group in scores.groups.target}
        assert shares.keys() == {"x", "y"}
        assert sum(share.count for share in shares.values() if share) == scores.refusals.count


def pairs(first: int) -> list[tuple[str, str]]:
    """Prompts of two words of one half of the vocabulary."""
    return [(WORDS[first + n % 25], WORDS[first + n * 7 % 25]) for n in range(25)]
