"""Settings: precedence, where a wrong value came from, sources, digest, flags."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

from configuration import gathered
from excise.config import (
    PromptSource,
    Settings,
    flag_name,
    gather,
    settings_digest,
    study_settings,
)
from excise.config.flags import choices, default_text, is_switch, metavar
from excise.config.memory import memory_limits
from excise.errors import SettingsError
from excise.kinds import KINDS
from excise.store.identity import differences

pytestmark = pytest.mark.usefixtures("empty_directory")


# Precedence


def test_a_flag_goes_before_the_environment_before_toml_before_the_default() -> None:
    toml = "trials = 1\nseed = 1\nmax-new-tokens = 1\n"
    variables = {"EXCISE_TRIALS": "2", "EXCISE_SEED": "2"}
    settings = gathered({"trials": "3"}, variables, toml)
    assert (settings.trials, settings.seed, settings.max_new_tokens) == (3, 2, 1)
    assert settings.startup_trials == 12


def test_a_flag_that_is_none_was_not_given() -> None:
    assert gathered({"trials": None, "yes": None}, {"EXCISE_YES": "true"}).yes is True


def test_a_named_toml_file_is_read_in_place_of_the_one_here(tmp_path: Path) -> None:
    Path("excise.toml").write_text("trials = 1", encoding="utf-8")
    other = tmp_path / "other.toml"
    other.write_text("trials = 2")
    assert gather({"model": "m"}, {}, other).trials == 2


@pytest.mark.parametrize("key", ["max_new_tokens", "max-new-tokens"])
def test_toml_keys_take_dashes_and_underscores(key: str) -> None:
    assert gathered(toml=f"{key} = 7").max_new_tokens == 7


@pytest.mark.parametrize("key", ["json", "json_lines"])
def test_json_lines_are_called_json_in_public(key: str) -> None:
    assert gathered(toml=f"{key} = true").json_lines
    assert gathered({key: True}).json_lines
    assert gathered(environment={f"EXCISE_{key.upper()}": "1"}).json_lines


@pytest.mark.parametrize(
    "text", ["float16,float32", " float16 , float32 ", '["float16","float32"]']
)
def test_a_list_may_be_written_with_commas_or_as_json(text: str) -> None:
    assert gathered({"dtypes": text}).dtypes == ("float16", "float32")
    assert gathered(environment={"EXCISE_DTYPES": text}).dtypes == ("float16", "float32")


# Data types and prompt sets


def test_dtype_takes_one_or_several() -> None:
    assert gathered({"dtype": "float32"}).dtypes == ("float32",)
    assert gathered({"dtype": "auto,float16"}).dtypes == ("auto", "float16")
    assert gathered({"dtype": "float32"}, toml='dtype = "float16"').dtypes == ("float32",)


def test_the_former_names_of_data_types_are_still_read() -> None:
    assert gathered(toml='dtypes = ["float16", "auto"]').dtypes == ("float16", "auto")
    assert gathered({}, {"EXCISE_DTYPE": "float32"}, 'dtypes = ["float16"]').dtypes == ("float32",)
    stored = gathered({"dtype": "float32"}).model_dump()
    for former in (None, "float32"):
        assert Settings.model_validate(stored | {"dtype": former}).dtypes == ("float32",)


def test_without_prompts_the_fields_data_sets_are_filled_in() -> None:
    settings = gathered({"control": "mine.txt"})
    assert str(settings.target_train) == "mlabonne/harmful_behaviors:train[:400]"
    assert str(settings.target_search) == "mlabonne/harmful_behaviors:test[:100]"
    assert settings.target_held_out is None
    assert (settings.control_train, settings.control_search) == (None, None)


def test_settings_survive_being_stored() -> None:
    settings = gathered({"dtype": "float32", "control": "mine.txt", "save": "out"})
    assert Settings.model_validate(settings.model_dump()) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        gathered().trials = 3


def test_markers_are_brought_into_the_form_that_answers_are_compared_in() -> None:
    assert gathered({"markers": "I\u2019m  Sorry,No"}).markers == ("i'm sorry", "no")


@pytest.mark.parametrize(
    ("text", "source", "split"),
    [
        ("file.txt", "file.txt", None),
        ("file.txt[:400]", "file.txt", "[:400]"),
        ("file.txt:[:400]", "file.txt", "[:400]"),
        ("owner/name", "owner/name", None),
        ("owner/name:train", "owner/name", "train"),
        ("owner/name:train[:400]", "owner/name", "train[:400]"),
        ("owner/name:train[10:20]", "owner/name", "train[10:20]"),
        ("C:\\prompts.txt", "C:\\prompts.txt", None),
        ("C:/prompts.txt", "C:/prompts.txt", None),
        ("C:prompts.txt", "C:prompts.txt", None),
        ("C:\\prompts.txt[:4]", "C:\\prompts.txt", "[:4]"),
        ("C:\\saved:train[1:4]", "C:\\saved", "train[1:4]"),
        ("odd:name.txt", "odd:name.txt", None),
    ],
)
def test_a_source_is_taken_apart(text: str, source: str, split: str | None) -> None:
    parsed = PromptSource.model_validate(text)
    assert (parsed.source, parsed.split) == (source, split)
    assert PromptSource.model_validate(str(parsed)) == parsed


def test_a_source_may_be_a_table_in_toml_and_json_in_a_variable() -> None:
    toml = '[target]\nsource = "odd:name"\nsystem-prompt = "Be kind."'
    environment = {"EXCISE_CONTROL": json.dumps({"source": "a", "split": "train", "prefix": "> "})}
    settings = gathered(environment=environment, toml=toml)
    assert settings.target == PromptSource(source="odd:name", system_prompt="Be kind.")
    assert settings.control == PromptSource(source="a", split="train", prefix="> ")


# What the study is


@pytest.mark.parametrize(
    "given",
    [
        {"trials": 5},
        {"search_seconds": 5},
        {"batch_size": 5},
        {"run_dir": "d"},
        {"select": "knee"},
        {"save": "d"},
        {"adapter": "d"},
        {"yes": True},
        {"json": True},
        {"device": "cuda"},
    ],
)
def test_the_digest_leaves_out_how_a_study_is_carried_out(given: dict[str, object]) -> None:
    assert settings_digest(gathered(given)) == settings_digest(gathered())


@pytest.mark.parametrize(
    ("given", "difference"),
    [
        ({"kind": "orthogonal"}, "kinds: discriminant only here"),
        ({"model": "n"}, "model: n there, m here"),
        ({"markers": "sorry,nope"}, "markers: sorry, nope there, nothing here"),
        ({"dtype": "float32"}, "dtypes: auto, float16, bfloat16 only here"),
        ({"dtypes": "float32,bfloat16,float16,auto"}, "dtypes: in another order"),
        ({"system_prompt": "Hi"}, "system_prompt: Hi there, nothing here"),
        ({"prefix": "> "}, 'prefix: >  there, "" here'),
        (
            {"target_train": "a", "target_search": "mlabonne/harmful_behaviors:test[:100]"},
            "target_train.source: a there, mlabonne/harmful_behaviors here",
        ),
    ],
)
def test_differences_are_named_key_by_key(given: dict[str, object], difference: str) -> None:
    there, here = gathered(given), gathered()
    assert settings_digest(there) != settings_digest(here)
    stored = json.loads(json.dumps(study_settings(there)))
    assert differences(stored, study_settings(here))[0].startswith(difference)
    assert differences(stored, stored) == []


def test_a_key_that_one_side_lacks_is_a_difference() -> None:
    assert differences({}, {"seed": 0}) == ["seed: nothing there, 0 here"]


# Flags


def test_what_the_help_text_says_of_a_setting() -> None:
    assert all(info.description for info in Settings.model_fields.values())
    assert flag_name("max_new_tokens") == "--max-new-tokens"
    assert (default_text("max_new_tokens"), metavar("max_new_tokens")) == ("100", "N")
    assert (choices("kinds"), flag_name("kinds")) == (KINDS, "--kind")
    assert default_text("dtypes") == "auto,float16,bfloat16,float32"
    assert metavar("save") == "DIR"
    assert (flag_name("json_lines"), is_switch("json_lines")) == ("--json", True)


def test_the_room_is_light_to_import() -> None:
    heavy = {"torch", "transformers", "datasets", "huggingface_hub", "numpy", "pyarrow"}
    code = f"import excise.config, sys; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parent.parent / "src")},
    )
    assert done.stdout.strip() == ""


# Packed and spread weights


def test_memory_limits_are_read_in_the_units_people_write() -> None:
    settings = gathered({"max_memory": "0=20GiB, cpu=1.5 GB", "offload_folder": "there"})
    assert memory_limits(settings.max_memory) == {0: 20 * 2**30, "cpu": 1_500_000_000}
    assert settings_digest(settings) == settings_digest(gathered())


def test_packing_decides_what_the_study_is() -> None:
    packed = gathered({"quantization": "bnb_4bit"})
    assert settings_digest(packed) != settings_digest(gathered())
    with pytest.raises(SettingsError, match="bnb_8bit"):
        gathered({"quantization": "3bit"})


# Arguments of the chat template


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("enable_thinking=false", {"enable_thinking": False}),
        (
            "enable_thinking=False, reasoning_effort=low",
            {"enable_thinking": False, "reasoning_effort": "low"},
        ),
        ("a=True,b=NONE,c=null,d=1,e=-0.5", {"a": True, "b": None, "c": None, "d": 1, "e": -0.5}),
        ('a="true",b=', {"a": "true", "b": ""}),
        (
            '{"controls": {"length": "short"}, "a": [1]}',
            {"controls": {"length": "short"}, "a": [1]},
        ),
    ],
)
def test_template_arguments_are_keys_and_values(text: str, arguments: dict[str, object]) -> None:
    assert gathered({"template_arguments": text}).template_arguments == arguments
    assert gathered({}, {"EXCISE_TEMPLATE_ARGUMENTS": text}).template_arguments == arguments


def test_template_arguments_are_a_table_in_toml() -> None:
    toml = '[template-arguments]\nenable_thinking = false\nreasoning_effort = "low"\n'
    found = gathered(toml=toml).template_arguments
    assert found == {"enable_thinking": False, "reasoning_effort": "low"}
    assert gathered({"template_arguments": "a=1"}, {}, toml).template_arguments == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thinking", "--template-arguments: thinking: not KEY=VALUE"),
        ("a=1,a=2", "--template-arguments: a: given twice"),
        ("{1}", "--template-arguments: not JSON (character 2)"),
        ("messages=1", "messages: excise sets this argument itself"),
        ("tokenize=true", "tokenize: excise sets this argument itself"),
        ("a b=1", "a b: not the name of a variable"),
    ],
)
def test_a_template_argument_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        gathered({"template_arguments": text})
    assert said in str(error.value)
    with pytest.raises(SettingsError, match="not a table of KEY=VALUE"):
        gathered(toml="template_arguments = 3")


def test_a_study_without_template_arguments_is_what_it_was_before_there_were_any() -> None:
    plain, given = gathered(), gathered({"template_arguments": "enable_thinking=false"})
    assert "template_arguments" not in study_settings(plain)
    assert settings_digest(plain) != settings_digest(given)
    told = differences(study_settings(plain), study_settings(given))
    assert told == ["template_arguments.enable_thinking: nothing there, False here"]
