"""Space, front and study: kernels by hand, choices by rule, resumption without a trace."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from excise.anatomy.roles import ATTENTION, MLP
from excise.anatomy.writers import Anatomy, Writer
from excise.errors import SettingsError
from excise.experiment.bank import Bank, edit_of, residual_bank
from excise.kinds import KINDS, Kind, of_residuals
from excise.operators.operator import Operator, orthogonal, unit
from excise.search.front import Point, pareto_front
from excise.search.sampler import good_trials
from excise.search.select import check_selection, knee, select
from excise.search.space import (
    RIDGES,
    Candidate,
    Kernel,
    propose,
)
from excise.search.start import closed_forms, start_points
from excise.search.study import OptunaStudy, Proposals
from excise.store.stored_study import open_study

LAYERS = 6
KINDS_SEARCHED: tuple[Kind, ...] = ("discriminant", "orthogonal")
ANATOMY = Anatomy(
    layers=tuple(f"layers.{layer}" for layer in range(LAYERS)),
    writers=tuple(
        Writer(f"layers.{layer}.{component}", component, layer, (8, 8), 1, (), ())
        for layer in range(LAYERS)
        for component in (ATTENTION, MLP)
    ),
    dimension=8,
)


def test_kernel_is_a_tent_with_walls() -> None:
    kernel = Kernel(
        max_weight=1.0, max_weight_position=3.0, min_weight=0.5, min_weight_distance=2.0
    )
    assert [kernel.strength(layer) for layer in range(LAYERS)] == [0, 0.5, 0.75, 1, 0.75, 0.5]
    assert Kernel(1.0, 2.5, 1.0, 5.0).strength(0) == 1.0


def test_strengths_follow_component_and_layer() -> None:
    flat = Candidate("discriminant", {ATTENTION: Kernel(1, 2.5, 1, 9), MLP: Kernel(0, 2.5, 0, 9)})
    assert flat.strengths(ANATOMY).tolist() == [1, 0] * LAYERS


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_stay_in_the_space_and_reach_all_of_it(kind: Kind, tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log", Proposals(1, 99))
    off = edited_early = shared = 0
    for _ in range(60):
        trial = study.new()
        candidate = propose(trial, [kind], ANATOMY)
        study.tell(trial, (1, 0.1), 0.0)
        strengths = candidate.strengths(ANATOMY)
        assert strengths.min() >= 0
        assert strengths.max() <= 1.5
        off += candidate.kernels[MLP].max_weight == 0
        edited_early += bool(strengths[0] > 0)
        shared += candidate.direction_index is not None
        assert candidate.kind == kind
        assert (candidate.ridge in RIDGES) == (kind == "discriminant")
    assert off > 3
    if not of_residuals(kind):
        assert edited_early > 10
        assert shared == 0
    else:
        assert 10 < shared < 50


@pytest.mark.parametrize(
    "kinds", [("discriminant",), ("orthogonal",), ("discriminant", "orthogonal")]
)
def test_a_model_of_one_layer_has_a_space_too(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    anatomy = Anatomy(ANATOMY.layers[:1], ANATOMY.writers[:2], 8)
    points = start_points(kinds, anatomy, 9, seed=0)
    study = open_study(tmp_path / "j", Proposals(0, 9, tuple(points)))
    for _ in range(12):
        trial = study.new()
        assert propose(trial, kinds, anatomy).strengths(anatomy).shape == (2,)
        study.tell(trial, (1, 0.1), 0.0)


def test_first_trials_are_the_closed_forms_of_every_kind_in_turn(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("discriminant", "orthogonal")
    points = start_points(kinds, ANATOMY, 6, seed=0)
    study = open_study(tmp_path / "journal.log", Proposals(0, 6, tuple(points)))
    for strength, kind in [(strength, kind) for strength in (1.0, 0.7, 0.5) for kind in kinds]:
        trial = study.new()
        candidate = propose(trial, kinds, ANATOMY)
        assert candidate.kind == kind
        assert candidate.ridge == (pytest.approx(0.01) if kind == "discriminant" else None)
        assert candidate.direction_index is None
        # Residual directions leave the first third of the layers alone.
        edited = range(2 if kind == "orthogonal" else 0, LAYERS)
        on = [strength if layer in edited else 0.0 for layer in range(LAYERS)]
        found = candidate.strengths(ANATOMY).view(LAYERS, 2)
        torch.testing.assert_close(found[:, 0], torch.tensor(on))
        assert not found[:, 1].any()
        study.tell(trial, (1, 0.1), 0.0)


def test_start_points_spread_around_the_closed_forms_inside_the_space(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("discriminant", "orthogonal")
    points = start_points(kinds, ANATOMY, 40, seed=1)
    assert points == start_points(kinds, ANATOMY, 40, seed=1)
    assert points != start_points(kinds, ANATOMY, 40, seed=2)
    assert points[:6] == closed_forms(kinds, ANATOMY)
    study = open_study(tmp_path / "journal.log", Proposals(0, 40, tuple(points)))
    taken: list[Candidate] = []
    with warnings.catch_warnings():
        # Optuna warns where an enqueued value lies outside its range.
        warnings.simplefilter("error")
        for point in points:
            trial = study.new()
            taken.append(propose(trial, kinds, ANATOMY))
            assert trial.params == point
            study.tell(trial, (1, 0.1), 0.0)
    assert {candidate.kind for candidate in taken} == set(kinds)
    assert any(candidate.kernels[MLP].max_weight > 0 for candidate in taken)


def run(journal: Path, until: int, stop: tuple[int, str] | None = None) -> OptunaStudy:
    """A search on a made-up objective; stops dead in trial stop[0], at the moment stop[1]."""
    points = start_points(KINDS_SEARCHED, ANATOMY, 4, seed=3)
    study = open_study(journal, Proposals(3, 6, tuple(points)))
    while len(study.points()) < until:
        trial = next(iter(study.running()), None) or study.new()
        here = stop is not None and trial.number == stop[0]
        if here and stop is not None and stop[1] == "asked":
            return study
        if here and stop is not None and stop[1] == "half proposed":
            trial.suggest_categorical("kind", list(KINDS_SEARCHED))
            return study
        candidate = propose(trial, KINDS_SEARCHED, ANATOMY)
        if here:
            return study
        strengths = candidate.strengths(ANATOMY)
        if trial.number == 5:
            study.fail(trial, "logits are not numbers", 0.1)
        else:
            figures = int((strengths.sum() - 6).abs() * 10), float(strengths.norm())
            study.tell(trial, figures, 0.1)
    return study


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> OptunaStudy:
    return run(tmp_path_factory.mktemp("study") / "journal.log", 16)


@pytest.mark.parametrize("moment", ["asked", "half proposed", "proposed"])
@pytest.mark.parametrize("number", [1, 4, 12])
def test_a_resumed_study_is_the_one_that_was_never_interrupted(
    uninterrupted: OptunaStudy, number: int, moment: str, tmp_path: Path
) -> None:
    run(tmp_path / "journal.log", 16, stop=(number, moment))
    resumed = run(tmp_path / "journal.log", 16)
    assert resumed.trials() == uninterrupted.trials()


def test_a_failed_trial_keeps_its_reason_and_the_budget(uninterrupted: OptunaStudy) -> None:
    records = uninterrupted.trials()
    assert len(records) == 17
    assert (records[5].state, records[5].reason) == ("failed", "logits are not numbers")
    assert len(uninterrupted.points()) == 16


def test_no_two_trials_are_alike(uninterrupted: OptunaStudy) -> None:
    seen = [tuple(sorted(record.parameters.items())) for record in uninterrupted.trials()]
    assert len(set(seen)) == len(seen)


def test_other_seeds_give_other_studies(uninterrupted: OptunaStudy, tmp_path: Path) -> None:
    study = open_study(tmp_path / "journal.log", Proposals(4, 6))
    trial = study.new()
    propose(trial, KINDS_SEARCHED, ANATOMY)
    assert all(trial.params != record.parameters for record in uninterrupted.trials())


FRONT = [Point(7, (2, 0.30)), Point(3, (5, 0.10)), Point(9, (20, 0.07)), Point(0, (90, 0.01))]


def test_pareto_front_holds_what_nothing_beats() -> None:
    beaten = [Point(1, (5, 0.2)), Point(2, (2, 0.31)), Point(4, (91, 0.01)), Point(8, (5, 0.10))]
    assert pareto_front([*reversed(FRONT), *beaten]) == FRONT
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("rule", "number"),
    [
        ("fewest", 7),
        ("knee", 3),
        ("9", 9),
        ("refusals<=5", 3),
        ("refusals <= 25", 9),
        ("kl<=0.08", 9),
        ("KL<=0.31", 7),
    ],
)
def test_selection(rule: str, number: int) -> None:
    assert select(FRONT, rule).number == number


@pytest.mark.parametrize("rule", ["best", "refusals<5", "kl<=", "kl<=0.0.8", "kl<=.", "-1", ""])
def test_selection_that_is_not_understood(rule: str) -> None:
    with pytest.raises(SettingsError, match="not understood"):
        check_selection(rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [("4", "its trials are 7, 3, 9, 0"), ("refusals<=1", "2 refusals at KL 0.300")],
)
def test_selection_that_fits_no_trial_says_what_there_is(rule: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        select(FRONT, rule)


def test_knee_of_short_fronts() -> None:
    assert knee(FRONT[:1]) == FRONT[0]
    assert knee(FRONT[:2]) in FRONT[:2]


def test_bank_gives_each_writer_its_layers_direction_or_all_the_same() -> None:
    directions = unit(torch.randn(LAYERS, 8, generator=torch.Generator().manual_seed(0)))
    residual = residual_bank(directions, ANATOMY, torch.ones(2 * LAYERS, 8), None)
    kernels = {ATTENTION: Kernel(1, 2, 1, 9), MLP: Kernel(1, 2, 1, 9)}
    bank = Bank(residual=residual)
    own = edit_of(Candidate("orthogonal", kernels), bank, ANATOMY)
    torch.testing.assert_close(own.u, directions.repeat_interleave(2, 0))
    one = edit_of(Candidate("orthogonal", kernels, direction_index=2.0), bank, ANATOMY)
    torch.testing.assert_close(one.v, directions[2].expand(2 * LAYERS, 8))


def test_bank_looks_the_ridge_up() -> None:
    operators: dict[float, Operator] = {
        ridge: orthogonal(torch.full((2 * LAYERS, 8), ridge)) for ridge in RIDGES
    }
    kernels = {ATTENTION: Kernel(1, 2, 1, 9), MLP: Kernel(1, 2, 1, 9)}
    edit = edit_of(
        Candidate("discriminant", kernels, ridge=RIDGES[3]), Bank(local=operators), ANATOMY
    )
    assert float(edit.u[0, 0]) == pytest.approx(RIDGES[3])


def test_further_directions_follow_the_first_with_the_same_strengths() -> None:
    def bank(seed: int) -> Bank:
        directions = unit(torch.randn(LAYERS, 8, generator=torch.Generator().manual_seed(seed)))
        return Bank(residual_bank(directions, ANATOMY, torch.ones(2 * LAYERS, 8), None))

    first, second = bank(0), bank(1)
    kernels = {ATTENTION: Kernel(1, 2, 1, 9), MLP: Kernel(0.5, 2, 0.5, 9)}
    candidate = Candidate("orthogonal", kernels)
    edit = edit_of(candidate, Bank(first.residual, further=(second,)), ANATOMY)
    assert edit.writers == ANATOMY.names * 2
    assert edit.directions == 2
    assert edit.changed == ANATOMY.names
    torch.testing.assert_close(edit.u[: 2 * LAYERS], edit_of(candidate, first, ANATOMY).u)
    torch.testing.assert_close(edit.u[2 * LAYERS :], edit_of(candidate, second, ANATOMY).u)
    torch.testing.assert_close(edit.strengths, candidate.strengths(ANATOMY).repeat(2))


def test_pruned_trials_are_never_among_the_good_ones() -> None:
    assert [good_trials(count, 99) for count in (1, 10, 11, 200, 1000)] == [1, 1, 2, 20, 25]
    assert good_trials(200, 3) == 3


def test_a_pruned_trial_uses_budget_and_is_learned_from_but_is_no_point(tmp_path: Path) -> None:
    def proposals(prune: bool) -> list[Candidate]:
        study = open_study(tmp_path / f"journal-{prune}.log", Proposals(3, 4))
        found: list[Candidate] = []
        for number in range(12):
            trial = study.new()
            found.append(propose(trial, KINDS_SEARCHED, ANATOMY))
            if number % 2 == 0:
                study.tell(trial, (20 - number, 0.01 * (number + 1)), 0.0)
            elif prune:
                study.prune(trial, (21, 0.5), 0.0)
            else:
                study.tell(trial, (30, 0.5), 0.0)
        assert study.done() == 12
        assert len(study.points()) == (6 if prune else 12)
        if prune:
            record = study.trials()[1]
            assert (record.state, record.refusals, record.kl) == ("pruned", 21, 0.5)
            assert record.point is None
        return found

    # What TPE needs of a dominated trial is where it was, not how bad: the proposals are the same.
    assert proposals(prune=True) == proposals(prune=False)


def test_a_search_outside_the_command_line_warns_of_nothing() -> None:
    study = OptunaStudy(Proposals(0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for refusals in range(3):
            trial = study.new()
            propose(trial, KINDS_SEARCHED, ANATOMY)
            study.tell(trial, (refusals, 0.1), 0.0)
