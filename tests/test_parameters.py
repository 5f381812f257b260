"""A wrong value of a parameter of the Python interface is refused in one line that names the parameter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import excise
from excise import Experiment, LoadOptions, Options, SaveOptions
from test_experiment import experiment
from test_experiment import same_edit as same

WRONG_OPTIONS: list[tuple[type, dict[str, object], str]] = [
    (Options, {"kinds": "orthogonal"}, "kinds='orthogonal': give a list, such as ['orthogonal']"),
    (Options, {"kinds": ()}, "kinds=(): must name at least one"),
    (Options, {"kinds": ("leace",)}, "must be one of discriminant, orthogonal, row_normalised"),
    (Options, {"kinds": 1}, "kinds=1: give a list"),
    (Options, {"direction_from": "mode"}, "direction_from='mode': must be one of mean, geo"),
    (Options, {"markers": "sorry"}, "markers='sorry': give a list, such as ['sorry']"),
    (Options, {"markers": ("sorry", " ")}, "markers=('sorry', ' '): none may be empty"),
    (Options, {"markers": ()}, "markers=(): must name at least one"),
    (Options, {"writers": "a=b"}, "writers='a=b': give a list, such as ['a=b']"),
    (Options, {"directions": 0}, "directions=0: must be more than 0"),
    (Options, {"seed": -1}, "seed=-1: must be at least 0"),
    (Options, {"max_new_tokens": "many"}, "max_new_tokens='many': not a whole number"),
    (Options, {"winsorise": 0.2}, "winsorise=0.2: must be more than 0.5"),
    (Options, {"template_arguments": "a=1"}, "template_arguments='a=1': not a table"),
    (Options, {"exhaustive": "perhaps"}, "exhaustive='perhaps': must be true or false"),
    (LoadOptions, {"dtypes": "float32"}, "dtypes='float32': give a list, such as ['float32']"),
    (LoadOptions, {"dtypes": ("half",)}, "dtypes=('half',): must be one of auto, float16"),
    (LoadOptions, {"dtypes": ()}, "dtypes=(): must name at least one"),
    (LoadOptions, {"quantization": "bnb4bit"}, "did you mean bnb_4bit?"),
    (LoadOptions, {"max_memory": "0=20GiB"}, "max_memory='0=20GiB': not a table"),
    (SaveOptions, {"packed": "foo"}, "packed='foo': must be one of same, plain"),
    (SaveOptions, {"writers": "a=b"}, "writers='a=b': give a list, such as ['a=b']"),
]


@pytest.mark.parametrize(("options", "given", "told"), WRONG_OPTIONS)
def test_wrong_options_are_refused_in_one_line(
    options: type, given: dict[str, object], told: str
) -> None:
    with pytest.raises(excise.SettingsError, match=re.escape(told)) as caught:
        options(**given)
    assert "\n" not in str(caught.value)


def test_options_take_what_stands_for_a_value() -> None:
    found = Options(kinds=["orthogonal"], markers={"Sorry"}, winsorise=1)  # type: ignore[arg-type]
    assert found == Options(kinds=("orthogonal",), markers=("sorry",))
    assert LoadOptions(offload_folder="away").offload_folder == Path("away")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> Experiment:
    return experiment()


WRONG_CALLS: list[tuple[Callable[[Experiment], object], str]] = [
    (lambda made: made.edit(layers=1), "layers=1: give a list, such as [1]"),
    (lambda made: made.edit(layers=["1st"]), "layers=['1st']: not a whole number"),
    (lambda made: made.edit(layers=[9]), "layer 9: the model has 0, 1"),
    (
        lambda made: made.edit(components="attn.o_proj"),
        "components='attn.o_proj': give a list, such as ['attn.o_proj']",
    ),
    (lambda made: made.edit(components=3), "components=3: give a list"),
    (lambda made: made.edit("orthogonl"), "kind orthogonl: the experiment has"),
    (lambda made: made.edit(strength="strong"), "strength='strong': not a number"),
    (lambda made: made.edit(strength=float("nan")), "strength=nan: not a finite number"),
    (lambda made: made.edit(ridge="small"), "ridge='small': not a number"),
    (lambda made: made.edit("orthogonal", direction_index="x"), "direction_index='x': not a num"),
    (lambda made: made.score(made.edit(), on="test"), "on='test': must be one of search, held_out"),
    (lambda made: made.search(trials="many"), "trials='many': not a whole number"),
    (lambda made: made.search(trials=0), "trials=0: must be more than 0"),
    (lambda made: made.search(seconds=-1), "seconds=-1: must be more than 0"),
    (lambda made: made.activations(["bake"], -1), "positions=-1: give a list, such as [-1]"),
    (lambda made: made.edit().scaled("twice"), "factor='twice': not a number"),
    (lambda made: made.edit().to_peft("new", made.model, writers="a=b"), "writers='a=b': give a"),
    (lambda made: excise.diff("a", "b", writers="a=b"), "writers='a=b': give a list"),
    (lambda made: excise.inspect("a", writers="a=b"), "writers='a=b': give a list"),
    (lambda made: excise.inspect("a", weights="no way"), "weights='no way': must be true or"),
]


@pytest.mark.parametrize(("call", "told"), WRONG_CALLS)
def test_wrong_parameters_are_refused_in_one_line(
    made: Experiment, call: Callable[[Experiment], object], told: str
) -> None:
    with pytest.raises(excise.SettingsError, match=re.escape(told)) as caught:
        call(made)
    assert "\n" not in str(caught.value)


def test_parameters_take_any_collection(made: Experiment) -> None:
    expected = made.edit(layers=[1, 2], components=("attn.o_proj",))
    for layers in (range(1, 3), {1, 2}, torch.tensor([1, 2])):
        assert same(made.edit(layers=layers, components={"attn.o_proj"}), expected)  # type: ignore[arg-type]
