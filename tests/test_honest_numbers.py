"""What is reported of an edit: held-out figures, seeds, comparisons, and refusals to search for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cli_helpers import Script, json_lines
from conftest import random_prompts, tiny_model, tiny_tokenizer, write_prompts
from excise.anatomy.writers import examine
from excise.cli.main import main
from excise.cli.render import make_screen
from excise.cli.run_command import run_attended
from excise.config import gather
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.capture import EndStatistics
from excise.engine.decode import greedy
from excise.errors import ModelError, PromptError
from excise.events import ignore
from excise.experiment.evidence import Asked, PartPrompts
from excise.experiment.figures import measure_edit, measure_unedited
from excise.experiment.runner import Runner
from excise.experiment.separation import require_enough_tokens, require_separable, separation
from excise.models.chat import Chat
from excise.operators.moments import ExactMoments
from excise.operators.operator import orthogonal, unit
from excise.scorers.builtin import BUILT_IN, REPORTED
from excise.scorers.divergence import ANSWER_TOKENS, kl_divergence
from excise.search.front import Point, hypervolume
from excise.search.select import reason

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")


def test_figures_of_an_edit_are_those_of_one_prompt_at_a_time() -> None:
    model = tiny_model("gemma2, post-norms and sliding window")
    anatomy = examine(model)
    target, control = random_prompts(5, seed=1), random_prompts(6, seed=2)
    runner = Runner(
        model, Chat(tiny_tokenizer()), markers=("up up",), max_new_tokens=36, slots=4, emit=ignore
    )
    scorers = [BUILT_IN[name](runner.judge) for name in REPORTED]
    texts = tuple(map(str, range(len(control))))
    prompts: PartPrompts = {
        "target": Asked(texts[: len(target)], tuple(target)),
        "control": Asked(texts, tuple(control)),
    }
    held_out = measure_unedited(runner, prompts, scorers, seed=0)
    answers = greedy(model, control, max_new_tokens=ANSWER_TOKENS, slots=4)
    found = held_out.answers.decode({})["control"].answers
    assert [list(tokens[:ANSWER_TOKENS]) for tokens in found.tokens] == answers
    assert any(found.refused), "an answer that would have ended before is among them"
    for kind, name in (("target", "refusals"), ("control", "control_refusals")):
        refused = runner.refusals(prompts[kind].tokens).refused
        assert held_out.scores[name].details == refused
    r = unit(torch.randn(len(anatomy.names), anatomy.dimension))
    operator = orthogonal(r)
    strengths = torch.full((len(anatomy.names),), 0.3)
    edit = Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths)
    scores = measure_edit(runner, held_out, edit, scorers, seed=0)

    def distributions(tokens: list[int], edited: bool) -> torch.Tensor:
        with torch.no_grad(), VirtualEdits(model, anatomy.names) as edits:
            edits.use(edit if edited else None)
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    for row, prompt in enumerate(control):
        whole = prompt + answers[row][:-1]
        before, after = (
            distributions(whole, edited)[len(prompt) - 1 :] for edited in (False, True)
        )
        each = kl_divergence(before, after)
        expected = pytest.approx(float(each[0]), rel=1e-3, abs=1e-6)
        assert scores["kl"].details[row] == expected
        expected = pytest.approx(float(each.mean()), rel=1e-3, abs=1e-6)
        assert scores["answer_kl"].details[row] == expected
    assert scores["refusals"].value == sum(scores["refusals"].details)
    assert not any(module._forward_hooks for module in model.modules())


BOX = ((0.0, 100.0), (0.0, 0.5))


def test_hypervolume_is_the_area_that_the_front_dominates() -> None:
    assert hypervolume([], BOX) == 0.0
    assert hypervolume([Point(0, (0, 0.0))], BOX) == 1.0
    # Two steps: 50 × 0.4 and the 40 further refusals × 0.1, of 100 × 0.5; what lies beyond adds nothing.
    front = [Point(0, (10, 0.4)), Point(1, (50, 0.1)), Point(2, (100, 0.01)), Point(3, (0, 0.6))]
    assert hypervolume(front, BOX) == pytest.approx((50 * 0.4 + 40 * 0.1) / 50)
    assert hypervolume([*front, Point(4, (60, 0.2))], BOX) == hypervolume(front, BOX)


def test_a_choice_is_explained_by_its_neighbours() -> None:
    front = [Point(7, (2, 0.30)), Point(3, (4, 0.10)), Point(9, (20, 0.02))]
    assert reason(front, front[1]) == (
        "trial 3 is the knee of the front: fewer refusals cost 0.1000 nats each, more refusals "
        "save 0.0050 nats each"
    )
    assert reason(front[:1], front[0]) == "trial 7 is the knee of the front"
    assert reason(front, front[0]).startswith("trial 7: more refusals save 0.1000 nats each")


def test_prompts_that_cannot_be_told_apart_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)

    def ends(shift: float) -> EndStatistics:
        values = torch.randn(50, 3, 40, generator=generator, dtype=torch.float64) + shift
        return EndStatistics(values.mean(0), values.var(0, correction=0).sum(-1), 50)

    same, other, control = ends(0.0), ends(1.0), ends(0.0)
    assert separation(same, control) < 1.5 < 10 < separation(other, control)
    require_separable(separation(other, control))
    with pytest.raises(PromptError, match="cannot be told apart by the model"):
        require_separable(separation(same, control))
    silent = EndStatistics(torch.zeros(2, 4), torch.zeros(2), 9)
    assert separation(silent, silent) == 0.0


def test_too_few_prompts_for_the_ridge_say_how_many_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    moments = ExactMoments(1, 64)
    moments.add(0, tokens)
    needed = moments.system(0).effective_dimension(0.1)
    assert 20 < needed < 30
    require_enough_tokens(moments, (0.1, 1.0), 5)
    few = ExactMoments(1, 64)
    # However much each counts, there are six of them.
    few.add(0, tokens[:6], 5.0)
    system = SimpleNamespace(effective_dimension=lambda ridge: needed)
    monkeypatch.setattr(few, "system", lambda index: system)
    with pytest.raises(PromptError, match=r"5 train prompts have 6 diff.*at least 2\d prompts"):
        require_enough_tokens(few, (0.1,), 5)


def test_a_behaviour_that_is_not_there_is_said_before_the_search(
    small: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model ends some answers at once, and an empty answer is a refusal.
    monkeypatch.setattr("excise.experiment.baseline._SHOWN", 1.1)
    wary = [argument for argument in small if argument != "--allow-absent"]
    assert main([*wary, "--yes"]) == 2
    captured = capsys.readouterr()
    assert "of 8 target prompts" in captured.err
    assert "--allow-absent" in captured.err
    assert "trial 0" not in captured.out


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_is_asked_whether_to_go_on(
    model_folder: Path, tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.experiment.baseline._SHOWN", 1.1)
    flags = {"trials": 1, "startup_trials": 1, "max_new_tokens": 2, "batch_size": 8}
    prompts = write_prompts(tmp_path / "prompts", 8)
    settings = gather(
        {"model": str(model_folder), "dtype": "float32", **flags, **prompts}, {}, None
    )
    script = Script(answer, "q")
    with make_screen(settings) as screen:
        if answer == "n":
            with pytest.raises(ModelError, match="hardly anything to remove"):
                run_attended(settings, screen, script)
        else:
            run_attended(settings, screen, script)
    assert "Search all the same?" in script.questions[0]


def test_seeds_repeat_the_search_and_report_the_spread(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = [*small, "--run-dir", str(run), "--select", "fewest", "--yes"]
    assert main([*arguments, "--seeds", "3"]) == 0
    out = capsys.readouterr().out
    assert "The same search with other seeds" in out
    assert "mean ±" in out
    records = [json.loads((folder / "result.json").read_text()) for folder in
               (run, run / "seed-1", run / "seed-2")]  # fmt: skip
    assert all(len(record["trials"]) == 3 and record["chosen"] for record in records)
    # The closed forms come first whatever the seed; what follows differs.
    parameters = [[trial["parameters"] for trial in record["trials"]] for record in records]
    assert parameters[0][0] == parameters[1][0] == parameters[2][0]
    assert parameters[0][2] != parameters[1][2]


def test_two_edits_are_compared_in_pairs(
    finished_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (chosen,) = {json.loads((finished_run / "result.json").read_text())["chosen"]["trial"]}
    assert main(["compare", str(finished_run), f"{finished_run}:{chosen}"]) == 0
    out = capfd.readouterr().out
    assert "No difference is significant" in out
    assert main(["compare", str(finished_run), f"{finished_run}:knee", "--json"]) == 0
    (found,) = json_lines("".join(capfd.readouterr().out.splitlines()))
    assert [one["figure"] for one in found] == [  # type: ignore[index]
        "target prompts refused, judged by keywords",
        "KL, first answer token (nats)",
        "KL, mean of 4 answer tokens (nats)",
    ]
    assert main(["compare", str(finished_run), "nowhere"]) == 2
    assert "not a run directory" in capfd.readouterr().err


def test_two_directions_go_through_the_whole_job(small: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    arguments = [*small, "--directions", "2", "--kind", "discriminant,row_normalised"]
    saving = ["--save", str(tmp_path / "model"), "--adapter", str(tmp_path / "adapter")]
    run = ["--run-dir", str(tmp_path / "run"), "--trials", "7", "--startup-trials", "6"]
    assert main([*arguments, *saving, *run, "--yes", "--select", "fewest"]) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert "edits of rank 2" in (tmp_path / "model" / "README.md").read_text()
