"""The benchmarks of growth and of GPUs, on shapes so small that they only show that all is in place."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu, scaling
from bench.gpu import ours
from bench.gpu_clock import Clock
from bench.gpu_peers import Request, ask, dense, fitted, lora
from bench.random_models import SHAPES, random_model, random_prompts
from bench.random_trials import STRENGTH, TimedEdits, new_edit, random_trial, tokenizer_of
from excise.anatomy.writers import examine
from excise.judges.keywords import KeywordJudge
from excise.operators.operator import unit

CPU = torch.device("cpu")


def test_exponents_by_hand() -> None:
    sizes = (1, 2, 4, 8)
    assert scaling.exponent(sizes, [3.0 * size**2 for size in sizes]) == pytest.approx(2)
    assert scaling.exponent(sizes, [5.0] * 4) == pytest.approx(0)
    # What does not grow hides what does, least at the end.
    values = [100.0 + size**2 for size in sizes]
    assert 0 < scaling.exponent(sizes, values) < scaling.last_exponent(sizes, values) < 2


def test_growth_is_measured_along_an_axis(tmp_path: Path) -> None:
    page = scaling.page(["width"], {"width": (64, 128)}, 1, tmp_path / "scaling.md")
    rows = [line.split("|") for line in page.splitlines() if line.startswith(("| 64", "| 128"))]
    operations = [float(row[-2]) for row in rows]
    # Of these sizes a head of 4096 words takes a good part, which grows as d.
    assert 2 < operations[1] / operations[0] < 4
    assert (tmp_path / "scaling.md").read_text(encoding="utf-8") == page


def test_candidates_side_by_side_need_as_many_operations_as_one_after_the_other() -> None:
    case = scaling.Case(prompts=3, tokens=3, prompt=8, layers=1, width=64)
    one, three = (scaling.measured(replace(case, candidates=count), 1) for count in (1, 3))
    assert three.operations == 3 * one.operations
    assert three.seconds.keys() == set(scaling.COLUMNS)
    assert all(seconds > 0 for seconds in three.seconds.values())


def test_every_axis_says_what_is_expected_of_each_column() -> None:
    assert scaling.AXES.keys() == scaling.QUICK.keys() == scaling.EXPECTED.keys()
    assert {len(row) for row in scaling.EXPECTED.values()} == {len(scaling.COLUMNS) + 1}


@pytest.mark.parametrize("shape", ["tiny", "tiny-moe"])
def test_every_way_is_measured_on_every_shape(shape: str) -> None:
    options = argparse.Namespace(
        device="cpu",
        prompts=3,
        prompt_tokens=8,
        tokens=2,
        repeats=1,
        candidates=[1, 2],
        until=float("inf"),
    )
    lines = gpu.table(shape, options)
    ways = [line.split("|")[1:3] for line in lines if line.startswith("| ")][1:]
    assert [(way.strip(), int(count)) for way, count in ways] == [
        ("excise", 1),
        ("excise", 2),
        ("dense", 1),
        ("LoRA", 1),
    ]


def test_behind_its_time_nothing_is_begun_and_what_there_is_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Clock(CPU, 1, until=0.0).attempt("dense", 1, pytest.fail, pytest.fail) is None
    assert "dense, 1: not begun, out of time" in capsys.readouterr().out
    page = tmp_path / "gpu.md"
    shapes = ("--shape", "tiny", "--device", "cpu", "--output", str(page))
    monkeypatch.setattr("sys.argv", ["gpu.py", *shapes, "--within", "-1"])
    gpu.main()
    assert "tiny: not begun, out of time" in capsys.readouterr().out
    assert not page.exists()


def test_ways_leave_the_model_as_it_was_and_say_the_same() -> None:
    model = random_model(SHAPES["tiny"](), CPU, torch.float32)
    anatomy = examine(model)
    prompts = torch.tensor(random_prompts(3, 8, 512))
    request = Request(prompts, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clock = Clock(CPU, 1)
    for way in (dense, lora):
        way(model, anatomy, request, clock)
    ours(model, anatomy, request, clock, [2])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    edits_of_rows = [new_edit(anatomy, CPU) for _ in range(2)]
    trial = random_trial(model, prompts.tolist(), request.tokens, 6)
    with TimedEdits(model, anatomy.names) as edits:
        scores, _ = trial.scores(edits, edits_of_rows)
        assert edits.take() > 0 == edits.take()
        for edit, scored in zip(edits_of_rows, scores, strict=True):
            edits.use(edit)
            assert scored.answered is not None
            assert ask(model, request).tolist() == list(map(list, scored.answered.tokens))
            assert scored.kl > 0
            # None is a refusal: every answer is of full length.
            assert scored.refusals == 0 == len(scored.answered.unknown)


def test_made_up_words_hold_no_marker_and_are_told_apart() -> None:
    tokenizer = tokenizer_of(512)
    assert len({tokenizer.decode([token]) for token in range(512)}) == 512
    assert tokenizer.decode([20, 30]).count(" ") == 2
    text = tokenizer.decode(list(range(512)))
    assert not any(cue in text for cue in KeywordJudge().cues)


def test_the_fit_is_of_rank_three_and_near_what_it_fits() -> None:
    torch.manual_seed(0)
    weight, r = torch.randn(48, 32), unit(torch.randn(48))
    down, up = fitted(weight, r)
    assert (down.shape, up.shape) == ((3, 32), (48, 3))
    norms = weight.norm(dim=1, keepdim=True)
    plain = weight / norms
    ablated = plain - STRENGTH * r.unsqueeze(1) * (r @ plain)
    change = torch.nn.functional.normalize(ablated, dim=1) * norms - weight
    left = torch.linalg.svdvals(change)[3:].norm()
    assert (change - up @ down).norm() <= 1.05 * left


def test_without_a_gpu_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    gpu.main()
    assert capsys.readouterr().out.startswith("no GPU here: nothing was measured")
