"""The library on a model in memory: edits, scores, searches and what they leave behind."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file

import excise
from conftest import WORDS, tiny_model, tiny_tokenizer
from excise import Experiment, Options, Prompts, Study
from excise.anatomy.writers import examine
from excise.cli.main import main
from excise.config import Settings
from excise.data_types import DataType
from excise.events import Event, ignore
from excise.experiment.figures import measure_edit
from excise.experiment.scores import PromptPart
from excise.prompts.sets import Prompt, PromptSet
from excise.search.events import TrialFinished
from excise.search.space import RIDGES
from test_diff import gpt2_model
from test_realisations import random_edit


def sentences(words: list[str], seed: int) -> list[str]:
    """24 different ones; target and control prompts are made of different words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(words, k=3 + index % 4)) for index in range(24)]


TARGET = sentences(WORDS[: len(WORDS) // 2], 1)
CONTROL = sentences(WORDS[len(WORDS) // 2 :], 2)
OPTIONS = Options(
    max_new_tokens=5,
    batch_size=6,
    candidates=2,
    startup_trials=3,
    markers=("e", "o"),
    allow_absent=True,
)


def experiment(**changes: object) -> Experiment:
    options = replace(OPTIONS, **changes)  # type: ignore[arg-type]
    prompts = Prompts.of(target=TARGET, control=CONTROL)
    return Experiment(tiny_model(), tiny_tokenizer(), prompts, options)


@pytest.fixture(scope="module")
def whole() -> Experiment:
    return experiment()


@pytest.fixture(scope="module")
def study(whole: Experiment) -> Study:
    return whole.search(trials=5)


def same_edit(first: excise.Edit, second: excise.Edit) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("u", "v", "strengths")
    )


def test_options_have_the_defaults_of_the_command_line() -> None:
    for name, field in Options.__dataclass_fields__.items():
        setting = Settings.model_fields.get(name)
        if setting is not None:
            default = getattr(Options(), field.name)
            assert default == setting.default, name
    assert set(Options.__dataclass_fields__) - set(Settings.model_fields) == {
        "judge_options",
        "rows",
    }


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(excise.ModelError, match=r"training mode; call model\.eval\(\) first"):
        Experiment(tiny_model().train(), tiny_tokenizer(), Prompts.of(TARGET, CONTROL), OPTIONS)


def test_coverage_and_baseline_are_measured(whole: Experiment) -> None:
    assert whole.coverage.complete
    assert whole.baseline.refusals.count == sum(whole.baseline.refused)
    assert whole.baseline.refusals.of == len(whole.baseline.answers) == 4
    assert 0 <= whole.baseline.refusals.low <= whole.baseline.refusals.high <= 1


def test_an_edit_changes_what_it_names_and_leaves_the_model_bit_for_bit(whole: Experiment) -> None:
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    edit = whole.edit(strength=0.5, components=["attn.o_proj"], layers=[1])
    (changed,) = edit.changed
    writer = next(one for one in whole.anatomy.writers if one.name == changed)
    assert (writer.layer, writer.component) == (1, "attn.o_proj")
    ids = torch.arange(5)[None]
    plain = whole.model(ids).logits
    with edit.on(whole.model):
        assert not torch.equal(whole.model(ids).logits, plain)
    assert torch.equal(whole.model(ids).logits, plain)
    whole.score(edit)
    assert torch.equal(whole.model(ids).logits, plain)
    after = whole.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(module._forward_hooks for module in whole.model.modules())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "row_normalised"}, "the experiment has discriminant, orthogonal"),
        ({"ridge": 0.5}, "ridge 0.5: not one of 0.001"),
        ({"components": ["attn"]}, "component attn: the model has attn.o_proj, mlp.down_proj"),
        ({"layers": [99]}, "layer 99: the model has 0, 1"),
        (
            {"kind": "orthogonal", "direction_index": 9.5},
            "direction_index 9.5: must be from 0 to 3",
        ),
        ({"direction_index": 1.0}, "the kind discriminant has no shared direction"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_one_line(
    whole: Experiment, arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(excise.SettingsError, match=said):
        whole.edit(**arguments)  # type: ignore[arg-type]


def test_the_ridge_chooses_the_operator(whole: Experiment) -> None:
    for ridge in RIDGES:
        edit = whole.edit(ridge=round(ridge, 5))
        assert torch.equal(edit.v, whole.bank.local[ridge].v)


def test_scores_are_those_of_the_search(whole: Experiment, study: Study) -> None:
    for trial in study.front:
        scores = whole.score(study.edit(trial))
        assert scores.refusals.count == trial.refusals == sum(scores.refused)
        # A search takes up the original model's states before the first edited layer, and so does this.
        assert scores.kl.mean == pytest.approx(trial.kl, rel=1e-6)
        assert scores.kl.low <= scores.kl.mean <= scores.kl.high
        assert scores.answer_kl is None


@pytest.mark.parametrize("on", ["search", "held_out"])
def test_an_edit_of_another_model_has_no_score(whole: Experiment, on: PromptPart) -> None:
    other = gpt2_model()
    edit = random_edit(other, examine(other), "orthogonal")
    with pytest.raises(excise.ModelError, match=r"has no writer transformer\.h\.0"):
        whole.score(edit, on)


def test_an_edit_of_a_module_that_is_no_writer_has_a_score(whole: Experiment) -> None:
    edit = whole.edit()
    moved = replace(edit, writers=("model.embed_tokens", *edit.writers[1:]))
    assert whole.score(moved).kl.mean > 0


def test_a_part_of_the_prompts_that_does_not_exist_has_no_score(whole: Experiment) -> None:
    with pytest.raises(excise.SettingsError, match="on='heldout': must be one of search, held_out"):
        whole.score(whole.edit(), on="heldout")  # type: ignore[arg-type]


def test_edits_are_compared_without_an_error(whole: Experiment) -> None:
    edit = whole.edit()
    assert len({edit, edit, whole.edit()}) == 2


def test_held_out_scores_are_those_of_the_report(whole: Experiment, study: Study) -> None:
    edit = study.edit()
    scores = whole.score(edit, on="held_out")
    measured = measure_edit(whole.runner, whole.held_out, edit, whole.reported, seed=0)
    assert dict(scores) == measured
    assert scores.control_refusals is not None
    assert scores.control_refusals.of == len(whole.prompts.control.held_out)
    assert scores.answer_kl is not None
    assert scores.answer_kl.mean == pytest.approx(mean(scores["answer_kl"].details))


def test_an_edit_of_strength_0_costs_nothing(whole: Experiment) -> None:
    scores = whole.score(whole.edit(strength=0.0))
    assert scores.kl.mean == 0
    assert scores.refused == whole.baseline.refused


def test_a_search_finds_the_same_with_and_without_a_folder(study: Study, tmp_path: Path) -> None:
    stored = experiment().search(trials=5, store=tmp_path / "run")
    for one, other in zip(study.trials, stored.trials, strict=True):
        assert replace(one, seconds=None) == replace(other, seconds=None)
    assert [one.number for one in study.front] == [one.number for one in stored.front]
    for trial in study.front:
        kept = excise.Edit.load(tmp_path / "run" / f"edit-{trial.number}.safetensors")
        assert same_edit(kept, study.edit(trial))
        assert kept.facts["kl"] == study.edit(trial).facts["kl"] == trial.kl


def test_a_search_that_was_killed_goes_on_from_its_folder(study: Study, tmp_path: Path) -> None:
    finished = 0

    def dying(event: Event) -> None:
        nonlocal finished
        finished += isinstance(event, TrialFinished)
        if finished == 2:
            raise KeyboardInterrupt

    killed = experiment()
    killed.emit = dying
    with pytest.raises(KeyboardInterrupt):
        killed.search(trials=5, store=tmp_path / "run")
    again = experiment().search(trials=5, store=str(tmp_path / "run"))
    for one, other in zip(study.trials, again.trials, strict=True):
        assert replace(one, seconds=None) == replace(other, seconds=None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: experiment(seed=1), "seed: 0 there, 1 here"),
        (
            lambda: Experiment(
                tiny_model(seed=1), tiny_tokenizer(), Prompts.of(TARGET, CONTROL), OPTIONS
            ),
            "the weights of .* have changed",
        ),
        (
            lambda: Experiment(
                tiny_model(), tiny_tokenizer(), Prompts.of(TARGET, CONTROL[1:]), OPTIONS
            ),
            "the prompts have changed",
        ),
    ],
    ids=["seed", "weights", "prompts"],
)
def test_a_folder_of_another_search_is_refused(
    change: Callable[[], Experiment], said: str, tmp_path: Path
) -> None:
    experiment().search(trials=1, store=tmp_path / "run")
    with pytest.raises(excise.RunError, match=said):
        change().search(trials=1, store=tmp_path / "run")


def test_a_folder_of_another_data_type_is_refused(model_folder: Path, tmp_path: Path) -> None:
    prompts = Prompts.of(target=TARGET, control=CONTROL)

    def search(dtype: DataType) -> None:
        loaded = excise.load(model_folder, excise.LoadOptions(dtypes=(dtype,)))
        Experiment.of(loaded, prompts, OPTIONS).search(trials=1, store=tmp_path / "run")

    search("float32")
    with pytest.raises(excise.RunError, match="dtypes: float32 only there; bfloat16 only here"):
        search("bfloat16")


def test_a_folder_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    experiment().search(trials=1, store="~/run")
    assert (tmp_path / "run" / "result.json").exists()


def test_a_study_names_its_trials(study: Study) -> None:
    assert [trial.number for trial in study.trials] == list(range(5))
    assert study.best("fewest") == study.front[0]
    assert study.best() in study.front
    assert study.best(str(study.front[-1].number)) == study.front[-1]
    assert same_edit(study.edit(), study.edit(study.best().number))
    with pytest.raises(excise.SettingsError, match="the study has 5 trials"):
        study.edit(5)


def test_a_study_takes_the_numbers_of_its_table(study: Study) -> None:
    assert same_edit(study.edit(study.to_pandas().index[1]), study.edit(1))
    assert Study((), study.edit).to_pandas().empty


def test_a_trial_that_was_not_completely_proposed_has_no_edit(study: Study) -> None:
    trial = replace(study.trials[0], state="running", parameters={})
    with pytest.raises(excise.SettingsError, match="trial 0: has no edit"):
        study.edit(trial)


def test_a_study_does_not_keep_the_model_in_memory() -> None:
    made = experiment()
    model = weakref.ref(made.model)
    study = made.search(trials=1)
    del made
    gc.collect()
    assert model() is None
    assert study.edit().changed


def test_a_study_becomes_a_table(study: Study) -> None:
    table = study.to_pandas()
    assert list(table.index) == list(range(5))
    assert list(table["kl"]) == [trial.kl for trial in study.trials]
    assert "kind" in table


def test_an_absent_behaviour_stops_the_search_and_nothing_else() -> None:
    absent = experiment(markers=("an answer never says this",), allow_absent=False)
    assert absent.baseline.refusals.count <= 4
    if absent.baseline.refusals.count == 0:
        with pytest.raises(excise.ModelError, match="hardly anything to remove"):
            absent.search(trials=1)
    assert absent.edit().changed


def test_strings_messages_and_prompt_sets_are_the_same_prompts() -> None:
    system = "be brief"
    ways = [
        TARGET,
        [{"role": "user", "content": text} for text in TARGET],
        [[{"role": "user", "content": text}] for text in TARGET],
        PromptSet("target", tuple(map(Prompt, TARGET)), "a test"),
    ]
    expected = Prompts.of(target=TARGET, control=CONTROL)
    assert [len(part) for part in (expected.target.train, expected.target.search)] == [16, 4]
    for way in ways:
        found = Prompts.of(target=way, control=CONTROL)  # type: ignore[arg-type]
        for part in ("train", "search", "held_out"):
            assert getattr(found.target, part).prompts == getattr(expected.target, part).prompts
    with_system = [
        [{"role": "system", "content": system}, {"role": "user", "content": text}]
        for text in TARGET
    ]
    one, other = (
        Prompts.of(target=with_system, control=CONTROL),
        Prompts.of(target=TARGET, control=CONTROL, system_prompt=system),
    )
    assert one.target.search.prompts == other.target.search.prompts


def test_given_parts_are_taken_as_they_are() -> None:
    parts = {"train": TARGET[:10], "search": TARGET[10:14], "held_out": TARGET[14:]}
    found = Prompts.of(target=parts, control=CONTROL).target
    assert [prompt.text for prompt in found.search] == TARGET[10:14]
    cut = Prompts.of(target={"train": TARGET[:12], "search": TARGET[12:]}, control=CONTROL)
    assert [prompt.text for prompt in cut.target.held_out] == TARGET[9:12]
    assert "no held-out set is given" in cut.notes[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("one text", "target: a single prompt is not a set"),
        ([1, 2, 3, 4], "target, prompt 0: "),
        ([[{"role": "assistant", "content": "hi"}]] * 9, "has to end with a message of the user"),
        ({"train": TARGET}, "has the keys train, search"),
        (TARGET[:3], "target: train has"),
        (CONTROL, "the same prompts"),
    ],
)
def test_what_is_no_prompt_set_is_refused_in_one_line(target: object, said: str) -> None:
    with pytest.raises(excise.PromptError, match=said):
        Prompts.of(target=target, control=CONTROL)  # type: ignore[arg-type]


def test_a_conversation_reaches_the_model_with_its_earlier_turns(whole: Experiment) -> None:
    said = [
        {"role": "user", "content": TARGET[0]},
        {"role": "assistant", "content": CONTROL[0]},
        {"role": "user", "content": TARGET[1]},
    ]
    prompts = Prompts.of(target=[said, *TARGET], control=CONTROL)
    (prompt,) = [one for part in vars(prompts.target).values() for one in part if one.earlier]
    text = whole.chat.text(prompt)
    assert text == whole.chat.conversation(said)
    assert text.index(TARGET[0]) < text.index(CONTROL[0]) < text.index(TARGET[1])


def test_activations_are_what_the_layers_put_out(whole: Experiment) -> None:
    texts = [TARGET[0], CONTROL[3]]
    found = whole.activations(texts, positions=(0, -2, -1))
    layers, d = len(whole.anatomy.layers), whole.anatomy.dimension
    assert found.shape == (2, 3, layers, d)
    assert found.dtype == torch.float32
    for row, text in enumerate(texts):
        (tokens,) = whole.runner.chat.encode([Prompt(text)])
        states = whole.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        # The last entry has passed the final norm; the others are the stream behind a layer.
        for layer in range(layers - 1):
            torch.testing.assert_close(found[row, 2, layer], states[layer + 1][0, -1])
            torch.testing.assert_close(found[row, 0, layer], states[layer + 1][0, 0])
    with pytest.raises(excise.PromptError, match="position 999: the shortest prompt has"):
        whole.activations(texts, positions=(999,))
    with pytest.raises(excise.PromptError, match="at least one prompt and one position"):
        whole.activations([])


def test_measured_tensors_can_be_trained_on(whole: Experiment) -> None:
    activations = whole.activations(TARGET[:2])
    for values in (activations, whole.directions, whole.statistics.target.means):
        weight = torch.zeros(values.shape[-1], dtype=values.dtype, requires_grad=True)
        (values @ weight).sum().backward()
        assert weight.grad is not None


def test_directions_and_statistics_have_the_shapes_that_are_documented(whole: Experiment) -> None:
    layers, d = len(whole.anatomy.layers), whole.anatomy.dimension
    assert whole.directions.shape == (layers, d)
    torch.testing.assert_close(whole.directions.norm(dim=1), torch.ones(layers))
    assert torch.equal(experiment(kinds=("discriminant",)).directions, whole.directions)
    statistics = whole.statistics
    assert statistics.writers == whole.anatomy.names
    assert statistics.target.means.shape == statistics.control.means.shape == (2 * layers, d)
    u = torch.nn.functional.normalize(statistics.target.means - statistics.control.means, dim=-1)
    torch.testing.assert_close(u.float(), whole.edit().u, atol=1e-5, rtol=1e-4)


def test_events_reach_a_listener_and_no_bar_is_drawn_for_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[Event] = []
    prompts = Prompts.of(target=TARGET, control=CONTROL)
    heard = Experiment(tiny_model(), tiny_tokenizer(), prompts, OPTIONS, emit=told.append)
    heard.search(trials=1)
    names = [type(event).__name__ for event in told]
    assert names.index("BaselineMeasured") < names.index("DirectionsFound")
    assert names.index("DirectionsFound") < names.index("SearchStarted")
    assert names[-1] == "SearchEnded"
    silent = experiment()
    silent.search(trials=1)
    assert silent.emit is ignore
    assert capsys.readouterr() == ("", "")


def test_the_command_line_takes_what_the_library_wrote(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = excise.load(model_folder, excise.LoadOptions(dtypes=("float32",)))
    prompts = Prompts.of(target=TARGET, control=CONTROL)
    study = Experiment.of(loaded, prompts, OPTIONS).search(
        trials=3, store=tmp_path / "runs" / "mine"
    )
    run, out = str(tmp_path / "runs" / "mine"), tmp_path / "model"
    assert main(["runs", str(tmp_path / "runs")]) == 0
    assert main(["show", run]) == 0
    assert main(["compare", run, run]) == 2
    assert "mine: the prompts were given in memory, and no file names them" in (
        capsys.readouterr().err
    )
    number = study.best("fewest").number
    assert main(["export", f"{run}:{number}", "--save", str(out)]) == 0
    assert "the prompts were given in memory" in " ".join(capsys.readouterr().out.split())
    assert not (out / "reproduce.json").exists()
    edit = study.edit(number)
    assert edit.base is not None
    excise.apply(edit, model_folder, tmp_path / "applied")
    exported, applied = (
        load_file(folder / "model.safetensors") for folder in (out, tmp_path / "applied")
    )
    assert exported.keys() == applied.keys()
    assert all(torch.equal(exported[name], applied[name]) for name in exported)
