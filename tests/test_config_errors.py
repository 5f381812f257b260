"""Settings: a wrong value gives one line that says where it came from and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from configuration import gathered
from excise.config import gather
from excise.errors import SettingsError

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.mark.parametrize(
    ("given", "environment", "toml", "message"),
    [
        ({}, {}, "trails = 3", "excise.toml: trails: no such setting; did you mean trials?"),
        (
            {},
            {"EXCISE_TRIAL": "3"},
            "",
            "EXCISE_TRIAL: no such setting; did you mean EXCISE_TRIALS?",
        ),
        ({"trails": "3"}, {}, "", "--trails: no such flag; did you mean --trials?"),
        ({}, {"EXCISE_TRIALS": "abc"}, "", "EXCISE_TRIALS=abc: not a whole number"),
        ({"trials": "0"}, {}, "", "--trials=0: must be at least 1"),
        ({}, {}, "trials = 1.5", "excise.toml: trials = 1.5: not a whole number"),
        ({}, {}, "trials = true", "excise.toml: trials = true: must not be true or false"),
        ({"seed": "9" * 5000}, {}, "", f"--seed={'9' * 72}…: too large a number"),
        ({"markers": "[" * 5000}, {}, "", "--markers: nested too deeply"),
        (
            {},
            {"EXCISE_TEMPLATE_ARGUMENTS": '{"a":' * 5000},
            "",
            "EXCISE_TEMPLATE_ARGUMENTS: nested too deeply",
        ),
        ({}, {"EXCISE_TARGET": '{"source":' * 5000}, "", "EXCISE_TARGET: nested too deeply"),
        (
            {},
            {"EXCISE_TARGET": '{"source": "a", "source": "b"}'},
            "",
            "EXCISE_TARGET: 'source' occurs twice in an object",
        ),
        ({}, {}, "markers = " + "[" * 5000, "excise.toml: not TOML: nested too deeply"),
        ({"search_seconds": "nan"}, {}, "", "--search-seconds=nan: not a finite number"),
        ({"winsorise": "0.5"}, {}, "", "--winsorise=0.5: must be more than 0.5"),
        ({"winsorise": "1.1"}, {}, "", "--winsorise=1.1: must be at most 1"),
        (
            {"winsorise": "0.9", "kind": "discriminant"},
            {},
            "",
            "--winsorise: only affects kinds of residual directions; give kind=orthogonal or "
            "kind=row_normalised too",
        ),
        ({}, {"EXCISE_YES": "perhaps"}, "", "EXCISE_YES=perhaps: must be true or false"),
        ({}, {}, "prefix = 5", "excise.toml: prefix = 5: not a text"),
        ({"column": ""}, {}, "", "--column=: must not be empty"),
        (
            {"kind": "row-normalized"},
            {},
            "",
            "--kind=row-normalized: must be one of discriminant, orthogonal, row_normalised; "
            "did you mean row_normalised?",
        ),
        (
            {"kind": "discriminant_weighted"},
            {},
            "",
            "--kind=discriminant_weighted: must be one of discriminant, orthogonal, row_normalised; "
            "did you mean discriminant?",
        ),
        (
            {"dtypes": "auto,float3"},
            {},
            "",
            "--dtype=auto,float3: must be one of auto, float16, bfloat16, float32; "
            "did you mean float32?",
        ),
        ({}, {}, "dtypes = 3", "excise.toml: dtypes = 3: not a list"),
        ({"dtypes": "[1"}, {}, "", "--dtype: not JSON (character 3): Expecting ',' delimiter"),
        ({"markers": "no,,never"}, {}, "", "--markers=no,,never: a marker may not be empty"),
        ({"markers": "[]"}, {}, "", "--markers=[]: must name at least one"),
        (
            {},
            {},
            'dtype = "auto"\ndtypes = ["float32"]',
            "excise.toml: dtypes: given twice, also as excise.toml: dtype; leave one of them out",
        ),
        (
            {"target": "a.txt"},
            {},
            'target-search = "b.txt"',
            "--target and excise.toml: target-search: exclude each other; "
            "give the whole set or its parts",
        ),
        (
            {},
            {"EXCISE_CONTROL_TRAIN": "a.txt"},
            "",
            "EXCISE_CONTROL_TRAIN: needs control_search too, or give one set as control",
        ),
        (
            {"target_train": "a.txt", "target_held_out": "b.txt"},
            {},
            "",
            "--target-train: needs target_search too, or give one set as target",
        ),
        (
            {},
            {},
            "target = {}",
            "excise.toml: target.source: missing; name the source of the prompts",
        ),
        (
            {},
            {},
            'target = {suorce = "a"}',
            "excise.toml: target.suorce: no such key; did you mean source?",
        ),
        (
            {},
            {},
            '[target]\npath = "a.txt"',
            "excise.toml: target.path: no such key; its keys are source, split, column, group_by, prefix, "
            "suffix, system_prompt, revision",
        ),
        (
            {"target": '{"source": "a.txt", "path": "b.txt"}'},
            {},
            "",
            "--target.path: no such key; its keys are source, split, column, group_by, prefix, suffix, "
            "system_prompt, revision",
        ),
        (
            {},
            {},
            "wxyz = 3",
            "excise.toml: wxyz: no such setting; excise --help lists the settings",
        ),
        (
            {},
            {"EXCISE_WXYZ_ABCD": "3"},
            "",
            "EXCISE_WXYZ_ABCD: no such setting; excise --help lists the settings",
        ),
        (
            {},
            {},
            'target = {source = "a", column = 3}',
            "excise.toml: target.column = 3: not a text",
        ),
        (
            {},
            {},
            "target = 3",
            "excise.toml: target = 3: not a prompt set; write SOURCE, SOURCE:SPLIT or a table "
            "with source and split",
        ),
        (
            {},
            {},
            "max-new-tokens = 1\nmax_new_tokens = 2",
            "excise.toml: max_new_tokens: given twice, also as excise.toml: max-new-tokens; "
            "leave one of them out",
        ),
        ({}, {}, "trials = 1\nseed = \n", "excise.toml: line 2, column 8: not TOML: Invalid value"),
        ({}, {}, "seed = [", "excise.toml: line 1, at the end: not TOML: Invalid value"),
        (
            {},
            {"EXCISE_JSON": "1", "EXCISE_JSON_LINES": "1"},
            "",
            "EXCISE_JSON_LINES: given twice, also as EXCISE_JSON; leave one of them out",
        ),
        (
            {"model": None},
            {},
            "",
            "no model: name it (excise MODEL), set EXCISE_MODEL, or write model = … in excise.toml",
        ),
    ],
)
def test_an_error_is_one_line_that_says_where(
    given: dict[str, object], environment: dict[str, str], toml: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        gathered(given, environment, toml)
    assert str(caught.value) == message


def test_a_toml_file_that_is_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        gather({"model": "m"}, {}, tmp_path / "absent.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'prefix = "\xe9"')
    with pytest.raises(SettingsError, match=r"latin\.toml: is not UTF-8 \(byte 10\)"):
        gather({"model": "m"}, {}, latin)


@pytest.mark.parametrize(
    ("limits", "message"),
    [("20GiB", "is not DEVICE=SIZE"), ("cpu=20", "DEVICE=SIZE"), ("0=1GB,0=2GB", "given twice")],
)
def test_wrong_memory_limits_are_one_line(limits: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        gathered({"max_memory": limits})
    assert str(caught.value).startswith("--max-memory")
    assert "\n" not in str(caught.value)


def test_one_device_and_several_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match=r"--max-memory.*leave the device open"):
        gathered({"device": "cuda:1", "max_memory": "0=20GiB"})
