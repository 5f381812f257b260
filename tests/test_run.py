"""Whole runs on a tiny random model: what the run directory promises, and what the search never does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench.timed import score
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.app.run import Run, prepare
from excise.config import Settings, gather
from excise.edits.virtual import VirtualEdits
from excise.errors import ExciseError, RunError, TrialError
from excise.events import Event, StageStarted, ignore
from excise.experiment.trial import Scoring
from excise.search import loop as search_module
from excise.search.events import SearchEnded, TrialFinished
from excise.search.front import pareto_front
from excise.search.scoring import Bound, Scored

EVERY_ANSWER = tuple("aeiouy0123456789<")
"""Markers of which every answer of a random model holds one, so that all count as refusals."""


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path) -> Settings:
    flags = {
        "model": str(model_folder),
        "dtype": "float32",
        "trials": 5,
        "startup_trials": 3,
        "max_new_tokens": 5,
        "batch_size": 6,
        "allow_absent": True,
        "run_dir": tmp_path / "run",
        **write_prompts(tmp_path / "prompts"),
    }
    return gather(flags, {}, None)


def with_(settings: Settings, **changes: object) -> Settings:
    """Other settings, checked as if they had been given."""
    return Settings.model_validate({**settings.model_dump(), **changes})


def result(settings: Settings) -> dict[str, object]:
    assert settings.run_dir is not None
    return dict(json.loads((settings.run_dir / "result.json").read_text()))


def test_same_seed_same_front_whatever_the_directory(settings: Settings, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = prepare(with_(settings, run_dir=tmp_path / name), ignore)
        run.search()
    results = [result(with_(settings, run_dir=tmp_path / name)) for name in ("one", "two")]
    for record in results:
        for trial in record["trials"]:  # type: ignore[attr-defined]
            del trial["seconds"]
    assert results[0]["trials"] == results[1]["trials"]
    assert results[0]["front"] == results[1]["front"]


@pytest.mark.parametrize("candidates", [1, 2])
def test_a_stopped_and_resumed_search_is_the_one_that_ran_through(
    settings: Settings, tmp_path: Path, candidates: int
) -> None:
    settings = with_(settings, candidates=candidates)
    through = prepare(with_(settings, run_dir=tmp_path / "through"), ignore)
    through.search()
    finished: list[Event] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            finished.append(event)

    first = prepare(settings, listen)
    first.search(stop=lambda: len(finished) >= 2)
    assert len(result(settings)["trials"]) == 2  # type: ignore[arg-type]
    first.directory.close()
    again = prepare(settings, ignore)
    again.search()
    expected = [(r.number, r.parameters, r.point) for r in through.study.trials()]
    assert [(r.number, r.parameters, r.point) for r in again.study.trials()] == expected


def told(run: Run) -> list[tuple[object, ...]]:
    return [(r.number, r.parameters, r.state, r.point) for r in run.study.trials()]


@pytest.mark.parametrize("candidates", [1, 3])
def test_waiting_for_every_verdict_finds_the_same_front(
    settings: Settings, tmp_path: Path, candidates: int
) -> None:
    # Of a random model every other answer holds one of these.
    settings = with_(settings, trials=10, markers=("e", "o"), candidates=candidates)
    fast, slow = (
        prepare(with_(settings, run_dir=tmp_path / name, exhaustive=name == "slow"), ignore)
        for name in ("fast", "slow")
    )
    for run in (fast, slow):
        run.search()
    records = [run.study.trials() for run in (fast, slow)]
    assert "pruned" in {record.state for record in records[0]}
    for quick, waited in zip(*records, strict=True):
        # Passes that begin at a later layer may round the last digit of KL otherwise, and nothing else.
        assert (quick.number, quick.state) == (waited.number, waited.state)
        assert quick.parameters == pytest.approx(waited.parameters)
        assert quick.kl == pytest.approx(waited.kl, rel=1e-5)
        assert quick.refusals is not None
        assert waited.refusals is not None
        assert quick.refusals <= waited.refusals
    assert result(with_(settings, run_dir=tmp_path / "fast"))["front"] == [
        point.number for point in pareto_front(slow.study.points())
    ]


@pytest.mark.parametrize("killed_at", range(4))
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    settings = with_(settings, trials=8, candidates=3, markers=("e", "o"))
    through = prepare(with_(settings, run_dir=tmp_path / "through"), ignore)
    through.search()
    first, calls = prepare(settings, ignore), iter(range(99))
    store = search_module._store

    def die(*arguments: object) -> None:
        if next(calls) == 2 + killed_at:
            raise KeyboardInterrupt
        store(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search_module, "_store", die)
    with pytest.raises(KeyboardInterrupt):
        first.search()
    monkeypatch.setattr(search_module, "_store", store)
    first.directory.close()
    again = prepare(settings, ignore)
    again.search()
    assert told(again) == told(through)


def test_the_search_leaves_every_weight_as_it_was_and_the_model_without_hooks(
    settings: Settings,
) -> None:
    run = prepare(settings, ignore)
    model = run.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    run.search()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() == places[name]
    assert not any(module._forward_hooks for module in model.modules())


def test_every_front_trial_has_its_edit_and_it_scores_what_the_trial_scored(
    settings: Settings,
) -> None:
    run = prepare(settings, ignore)
    study = run.study
    run.search()
    front = pareto_front(study.points())
    kept = sorted(path.name for path in run.directory.path.glob("edit-*"))
    assert kept == sorted(f"edit-{point.number}.safetensors" for point in front)
    for point in front:
        edit = run.directory.edit(point.number)
        assert edit.facts["kl"] == point["kl"]
        with VirtualEdits(run.loaded.model, edit.writers) as edits:
            (scored,) = score(
                run.experiment.runner,
                edits,
                [edit],
                run.experiment.search_part,
                Bound(),
            )
        assert isinstance(scored, Scored)
        assert (scored.refusals, scored.kl) == (
            point["refusals"],
            pytest.approx(point["kl"], rel=1e-6),
        )


def failing(numbers: set[int]):  # type: ignore[no-untyped-def]
    """`Scoring.take` that fails at these calls."""
    calls, take = iter(range(10**6)), Scoring.take

    def taken(scoring: Scoring) -> tuple[Scored | TrialError, float]:
        scored, seconds = take(scoring)
        if next(calls) in numbers:
            return TrialError("logits are not numbers (NaN or infinite)"), seconds
        return scored, seconds

    return taken


def test_a_trial_without_numbers_fails_with_its_reason_and_the_budget_is_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scoring, "take", failing({1, 3}))
    run = prepare(settings, ignore)
    run.search()
    trials = result(settings)["trials"]
    states = [trial["state"] for trial in trials]  # type: ignore[attr-defined]
    assert [number for number, state in enumerate(states) if state == "failed"] == [1, 3]
    assert len(states) == 7
    assert "not numbers" in trials[1]["reason"]  # type: ignore[index]


def test_trials_that_keep_failing_end_the_search_with_the_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scoring, "take", failing(set(range(100))))
    run = prepare(settings, ignore)
    with pytest.raises(ExciseError, match=r"10 trials in a row failed: logits are not numbers"):
        run.search()


def test_an_edit_that_breaks_the_model_is_a_failed_trial_not_a_crash(settings: Settings) -> None:
    run = prepare(settings, ignore)
    sound = run.experiment.edit_of_trial(run.study.new())
    broken = dataclasses.replace(sound, u=torch.full_like(sound.u, torch.nan))
    with VirtualEdits(run.loaded.model, sound.writers) as edits:
        scores = score(
            run.experiment.runner,
            edits,
            [sound, broken],
            run.experiment.search_part,
            Bound(),
        )
    # The one beside it is scored all the same.
    assert isinstance(scores[0], Scored)
    assert isinstance(scores[1], TrialError)
    assert "not numbers" in str(scores[1])


def chosen_run(settings: Settings) -> Run:
    run = prepare(settings, ignore)
    run.search()
    run.choose(run.front()[0])
    return run


def test_a_choice_stays_in_the_record_when_the_run_is_opened_again(settings: Settings) -> None:
    chosen_run(settings)
    before = result(settings)
    assert before["chosen"] is not None
    again = prepare(settings, ignore)
    again.search()
    after = result(settings)
    assert (after["chosen"], after["baseline"]) == (before["chosen"], before["baseline"])


def test_time_ends_a_search(settings: Settings) -> None:
    told: list[Event] = []
    run = prepare(with_(settings, search_seconds=1e-9), told.append)
    run.search()
    assert [event.why for event in told if isinstance(event, SearchEnded)] == ["time"]
    assert result(settings)["trials"] == []


def test_a_run_directory_of_other_settings_prompts_or_weights_is_refused(
    settings: Settings, model_folder: Path, tmp_path: Path
) -> None:
    prepare(settings, ignore)
    with pytest.raises(RunError, match="kinds: discriminant only there"):
        prepare(with_(settings, kinds=("orthogonal",)), ignore)
    assert settings.control_search is not None
    prompts = Path(settings.control_search.source)
    lines = prompts.read_text(encoding="utf-8")
    prompts.write_text(lines + "one more hello\n", encoding="utf-8")
    with pytest.raises(RunError, match="the prompts have changed"):
        prepare(settings, ignore)
    prompts.write_text(lines, encoding="utf-8")
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    elsewhere = with_(settings, model=str(folder), run_dir=tmp_path / "other")
    prepare(elsewhere, ignore)
    tiny_model(seed=1).save_pretrained(folder)
    with pytest.raises(RunError, match=r"the weights of .* have changed"):
        prepare(elsewhere, ignore)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty and not a run directory"):
        prepare(with_(settings, run_dir=tmp_path / "mine"), ignore)


def test_more_trials_than_were_asked_for_at_first(settings: Settings) -> None:
    run = prepare(settings, ignore)
    study = run.study
    run.search()
    run.search(7)
    assert study.done() == 7


def test_stages_come_in_order_whatever_is_asked_of_the_behaviour(settings: Settings) -> None:
    told: list[Event] = []
    prepare(settings, told.append)
    stages = [event.stage for event in told if isinstance(event, StageStarted)]
    assert stages == ["load", "baseline", "directions"]
