"""The public interface: names, signatures and result types are pinned in api.txt and described in docs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import excise
from conftest import tiny_model
from excise.anatomy.writers import examine
from excise.edits.base import Base
from excise.edits.edit import Edit
from hub_stand_in import HubStandIn, run_python
from test_diff import gpt2_model
from test_realisations import random_edit

PINNED = Path(__file__).with_name("api.txt")
PAGE = Path(__file__).parent.parent / "docs" / "api.md"
INTERNAL = {
    "Coverage": {"lacking", "require_complete"},
    "Experiment": {
        "bank",
        "candidates",
        "describe",
        "edit_of_trial",
        "held_out",
        "is_settled",
        "judge",
        "keywords",
        "leave_out",
        "objectives",
        "prepare_directions",
        "proposals",
        "reported",
        "require_behaviour",
        "runner",
        "scoring",
        "search_answers",
        "search_part",
    },
    "Options": {"judge_chosen"},
    "Trial": {"as_json", "point"},
}
"""What the command line uses besides. It is no promise to others."""
CHANGED = (
    "The public interface changed. If that is meant: add a line to CHANGELOG.md, mend "
    f"docs/api.md, and write this into tests/{PINNED.name}:"
)


def signature(value: object) -> str:
    """The signature as in the source: annotations without quotes, functions by their names."""
    text = str(inspect.signature(value))  # type: ignore[arg-type]
    text = re.sub("['\"]", "", text)
    text = re.sub(r"<function (\w+) at [^>]*>", r"\1", text)
    for options in (
        excise.BenchmarkOptions,
        excise.JudgeOptions,
        excise.LoadOptions,
        excise.SaveOptions,
        excise.Options,
    ):
        text = text.replace(re.sub("['\"]", "", str(options())), f"{options.__name__}()")
    return text


def members_of(value: type) -> Iterator[tuple[str, object]]:
    """What a class and its bases in excise offer to users."""
    bases = [base for base in value.__mro__ if base.__module__.startswith("excise.")]
    found = {name: member for base in reversed(bases) for name, member in vars(base).items()}
    for name, member in sorted(found.items()):
        if not name.startswith("_") and name not in INTERNAL.get(value.__name__, ()):
            yield name, member


def lines_of(name: str) -> list[str]:
    """A public name, and what a class offers."""
    value = getattr(excise, name)
    if not isinstance(value, type):
        return [f"{name}{signature(value)}"]
    if issubclass(value, Exception):
        return [f"{name} < {value.__mro__[1].__name__}"]
    lines = [f"{name}{signature(value)}"]
    for member, found in members_of(value):
        if isinstance(found, property | cached_property):
            read = found.fget if isinstance(found, property) else found.func
            lines.append(f"    {member} -> {inspect.signature(read).return_annotation}")  # type: ignore[arg-type]
        elif isinstance(found, classmethod) or inspect.isfunction(found):
            lines.append(f"    {member}{signature(getattr(value, member))}")
    return lines


def test_names_signatures_and_result_types_are_pinned() -> None:
    assert excise.__all__ == sorted(excise.__all__)
    found = "".join(f"{line}\n" for name in excise.__all__ for line in lines_of(name))
    assert found == PINNED.read_text(encoding="utf-8"), f"{CHANGED}\n\n{found}"


def test_the_page_describes_each_name() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = set(re.findall(r"^## excise\.(\w+)$", text, re.MULTILINE))
    errors = set(re.findall(r"^\| `excise\.(\w+)` \|", text, re.MULTILINE))
    assert headings | errors == set(excise.__all__)
    described = re.sub(r"\s+", " ", text)
    for name in set(excise.__all__) - errors:
        value = getattr(excise, name)
        if inspect.isfunction(value):
            for parameter in inspect.signature(value).parameters:
                assert re.search(rf"excise\.{name}\([^`]*\b{parameter}\b", described), parameter
        else:
            section = text.split(f"\n## excise.{name}\n")[1].split("\n## ")[0]
            fields = getattr(value, "__dataclass_fields__", ())
            members = [*fields, *(member for member, _ in members_of(value))]
            lacking = [
                one
                for one in members
                if not one.startswith("_") and not re.search(rf"\b{one}\b", section)
            ]
            assert not lacking, f"{name}: {lacking}"


def test_type_checkers_see_the_same_names() -> None:
    source = Path(excise.__file__).read_text(encoding="utf-8")
    assert sorted(re.findall(r"^    from excise\.[\w.]+ import (\w+) as \1$", source, re.M)) == (
        excise.__all__
    )
    assert set(excise.__all__) <= set(dir(excise))
    modules = {path.stem for path in Path(excise.__file__).parent.iterdir()}
    # The import of a module of that name would take the place of the public name.
    assert not modules & set(excise.__all__)
    with pytest.raises(AttributeError, match="no attribute 'cut'"):
        excise.cut  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "pydantic", "huggingface_hub", "optuna", "rich")
    code = f"import sys, excise; print(*[one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_edit_is_on_while_its_block_runs(tmp_path: Path) -> None:
    model = tiny_model()
    edit = random_edit(model, examine(model), "orthogonal")
    ids = torch.arange(5)[None]
    before = model(ids).logits
    with edit.on(model) as edited, edit.scaled(0).on(edited):
        during = edited(ids).logits
    assert torch.equal(model(ids).logits, before)
    model.save_pretrained(tmp_path / "model")
    options = excise.SaveOptions(force=True, chat_template="{{ messages }}")
    excise.apply(edit, tmp_path / "model", tmp_path / "out", options)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(baked(ids).logits, during, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(during, before)
    assert edit.scaled(0.5).strengths.tolist() == (edit.strengths / 2).tolist()


def test_an_edit_of_another_model_is_refused_in_one_line() -> None:
    model, other = tiny_model(), gpt2_model()
    edit = random_edit(model, examine(model), "orthogonal")
    with pytest.raises(excise.ModelError, match=r"GPT2LMHeadModel: has no writer model\.layers\.0"):
        edit.on(other).__enter__()


def test_writers_that_an_edit_does_not_change_need_not_exist() -> None:
    model = tiny_model()
    edit = random_edit(model, examine(model), "orthogonal")
    first = torch.tensor([".0." in writer for writer in edit.writers])
    partial = replace(edit, strengths=edit.strengths * first)
    del model.model.layers[-1]
    ids = torch.arange(5)[None]
    before = model(ids, use_cache=False).logits
    with partial.on(model):
        assert not torch.equal(model(ids, use_cache=False).logits, before)
    with pytest.raises(excise.ModelError, match="has no writer"):
        edit.on(model).__enter__()


def test_an_adapter_from_memory_is_that_from_the_files(model_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    edit = random_edit(model, examine(model), "orthogonal")
    source = excise.load(model_folder, excise.LoadOptions(dtypes=("float32",))).source
    of_files = Edit(edit.kind, edit.writers, edit.u, edit.v, edit.strengths, base=Base.of(source))
    edit.to_peft(tmp_path / "memory", model)
    of_files.to_peft(tmp_path / "files")
    one, other = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("memory", "files")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(excise.SaveError, match="does not name its model"):
        edit.to_peft(tmp_path / "third")


def test_a_model_is_inspected_from_its_configuration_or_its_weights(
    model_folder: Path, tmp_path: Path
) -> None:
    tiny_model().config.save_pretrained(tmp_path)
    named = excise.inspect(tmp_path)
    whole = excise.inspect(model_folder)
    assert named.coverage is None
    assert whole.coverage is not None
    assert whole.coverage.complete
    assert named.anatomy == whole.anatomy
    assert excise.inspect(model_folder, weights=False) == excise.Inspection(
        str(model_folder), None, whole.anatomy, None
    )


def test_prompts_are_a_sequence(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("question\nOne?\nTwo?\nThree?\n", encoding="utf-8")
    prompts = excise.read_prompts(f"{path}[1:]", column="question", system_prompt="Be brief.")
    assert list(prompts) == [
        excise.Prompt("Two?", "Be brief."),
        excise.Prompt("Three?", "Be brief."),
    ]
    assert prompts[:1] == (prompts[0],)
    with pytest.raises(excise.PromptError, match="not the name of a prompt set"):
        excise.read_prompts("")


def test_a_model_on_the_hub_is_inspected_without_its_weights(
    model_folder: Path, tmp_path: Path
) -> None:
    code = """
import excise
from pathlib import Path
def look(**named):
    found = excise.inspect("someone/tiny", excise.LoadOptions(dtypes=("float32",)), **named)
    weights = list(Path(HOME).rglob("*.safetensors"))
    print(len(found.layers), found.coverage is not None, len(weights))
look()
look(weights=True)
look()
look(weights=False)
"""
    home = tmp_path / "home"
    with HubStandIn() as hub:
        hub.add_model("someone/tiny", model_folder)
        done = run_python(f"HOME = {str(home)!r}\n{code}", hub.environment(home))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["4 False 0", "4 True 1", "4 True 1", "4 False 1"]


def test_markers_are_found_however_they_are_written() -> None:
    assert excise.Options(markers=("I’m  GLAD",)).markers == ("i'm glad",)
