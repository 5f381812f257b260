"""Events as lines, as a live view, and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from excise.app.events import Chosen, FrontJudged, PromptsLoaded, SeedsCompared
from excise.app.spread import SeedResult, spread
from excise.benchmarks.events import BenchmarkProgress
from excise.cli.describe import describe
from excise.cli.human import duration, size
from excise.cli.interrupt import STOPPING
from excise.cli.live import SearchView
from excise.cli.parameters import short
from excise.cli.render import Renderer
from excise.cli.tables import front_table
from excise.events import Event, Note, StageStarted
from excise.experiment.events import (
    BaselineMeasured,
    BatchReduced,
    BatchSizeFound,
    DirectionsFound,
    Examined,
    ResponsePrefixFound,
)
from excise.hub.events import FileUploaded, Uploaded, UploadStarted
from excise.models.events import DeviceFound, ModelLoaded
from excise.saving.events import Saved, Streamed, Verified
from excise.scorers.statistics import Estimate
from excise.search.events import (
    SearchEnded,
    SearchStarted,
    TrialFinished,
    TrialStarted,
    WorkDone,
)
from excise.search.front import Point
from excise.store.judged import JudgedFront, JudgedTrial
from excise.store.outcome import Answered, Outcome

PARAMETERS = {
    "kind": "discriminant",
    "writer.ridge_index": 2,
    "writer.attn.o_proj.max_weight": 1.0,
    "writer.attn.o_proj.max_weight_position": 14.5,
    "writer.attn.o_proj.min_weight_fraction": 0.5,
    "writer.attn.o_proj.min_weight_distance": 12.0,
    "writer.mlp.down_proj.max_weight": -0.2,
    "writer.mlp.down_proj.max_weight_position": 3.0,
    "writer.mlp.down_proj.min_weight_fraction": 0.5,
    "writer.mlp.down_proj.min_weight_distance": 2.0,
}
FRONT = (Point(3, (1, 0.7)), Point(4, (5, 0.05)), Point(1, (60, 0.01)))
FINISHED = TrialFinished(
    number=4,
    parameters=PARAMETERS,
    values={"refusals": 5, "kl": 0.05},
    prompts=100,
    dominated=False,
    seconds=3.25,
    reason=None,
    done=5,
    trials=20,
    elapsed=16.0,
    remaining=48.0,
    peak_memory={"cpu": 3 * 2**30},
    front=FRONT,
)
FAILED = TrialFinished(
    **{
        **FINISHED.__dict__,
        "number": 5,
        "values": {"refusals": None, "kl": None},
        "reason": "not numbers",
    }
)
DOMINATED = TrialFinished(**{**FINISHED.__dict__, "number": 6, "dominated": True})
OUTCOME = Outcome(
    trial=4,
    search=FRONT[1],
    search_prompts=100,
    prompts=100,
    control_prompts=100,
    original=Answered(90, 2, 0, 0),
    edited=Answered(4, 1, 0, 3),
    kl=Estimate(0.06, 0.05, 0.07),
    answer_kl=Estimate(0.011, 0.01, 0.013),
    seconds=12.0,
)
ALL = (
    DeviceFound("CPU, 2 threads", int(23.5 * 2**30)),
    StageStarted("load", "Loading a model"),
    ModelLoaded("org/[model]", "bfloat16", 500 * 2**20, 3.0, ("float16: overflow",)),
    Examined(2, {"attn.o_proj": 2, "mlp.down_proj": 2}, (1.0, 0.9994)),
    PromptsLoaded(
        {"target": {"train": 400, "search": 100, "held_out": 100}}, {"target": "a.txt"}, ("cut",)
    ),
    ResponsePrefixFound("Sure, "),
    BatchReduced(8),
    BatchSizeFound(8),
    BaselineMeasured("search", 38, 100),
    DirectionsFound(("discriminant", "orthogonal"), 3.0),
    SearchStarted(20, 4),
    TrialStarted(4, PARAMETERS),
    WorkDone(tokens=4500, seconds=3.0, candidates=1, prompts=12),
    WorkDone(tokens=500, seconds=1.0, candidates=4, prompts=48),
    FINISHED,
    BenchmarkProgress(40, 160),
    TrialStarted(5, PARAMETERS),
    FAILED,
    DOMINATED,
    SearchEnded("stopped", FRONT),
    StageStarted("held_out", "Asking"),
    BaselineMeasured("held_out", 90, 100),
    FrontJudged(JudgedFront("a", (JudgedTrial(4, 100, 3, 5, 2),))),
    Chosen(OUTCOME, "trial 4 is the knee of the front"),
    SeedsCompared(
        (SeedResult(0, OUTCOME, 0.9), SeedResult(1, OUTCOME, 0.8)), {"volume": spread([0.9, 0.8])}
    ),
    Streamed("write", 2**30, 4 * 2**30),
    Verified(60, 212, 0.98),
    Saved("model", "out"),
    UploadStarted("someone/edited", 9, 4 * 2**30),
    FileUploaded("model.safetensors", 2**30, 2**30, 4 * 2**30),
    Uploaded("https://hub/someone/edited", "0" * 40, True, False),
    Note("a note"),
)


def rendered(*, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=140, highlight=False, markup=False)
    with Renderer(console) as screen:
        for event in ALL:
            screen(event)
    return file.getvalue()


def test_every_kind_of_event_has_its_line() -> None:
    kinds = set(Event.__subclasses__())
    assert kinds == {type(event) for event in ALL}
    silent = {type(event) for event in ALL if not describe(event)}
    assert silent == {TrialStarted, WorkDone, BenchmarkProgress}


def test_a_switch_that_was_found_for_thinking_is_progress() -> None:
    event = ResponsePrefixFound("", {"enable_thinking": False})
    assert [line.text for line in describe(event)] == [
        "switched off in the chat template by enable_thinking=false",
        "answers begin differently",
    ]


def test_lines_for_a_file() -> None:
    text = rendered(terminal=False)
    for told in (
        "device      CPU, 2 threads, 23.5 GiB",
        "org/[model] · bfloat16 · 500.0 MiB",
        "float16: overflow",
        "attn.o_proj 2 matrices",
        "coverage 0.999 (worst layer: 1)",
        "400 train · 100 search · 100 held-out prompts, from a.txt",
        "38/100 target prompts refused",
        "5/20 · 5/100 refused, KL 0.0500",
        "failed: not numbers",
        "≥5/100 refused, KL 0.0500",
        "trial 4 is the knee of the front",
        "4/100 (2 to 10 %)",
        "0.0600 (0.0500 to 0.0700)",
        "0.0110 (0.0100 to 0.0130)",
        "3/200",
    ):
        assert told in text
    assert "\x1b" not in text


def test_a_terminal_gets_the_live_view_and_is_left_still() -> None:
    text = rendered(terminal=True)
    for told in ("5/20 trials", "best trade-offs so far", "last trials", "peak memory 3.0 GiB"):
        assert told in text
    assert text.rstrip().endswith("a note")
    assert "1,250 tokens/s · 4 candidates and 48 prompts under way" in text
    # The cursor is given back.
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_live_view_says_that_it_stops() -> None:
    view = SearchView(SearchStarted(20, 0))
    view.stopping = True
    file = io.StringIO()
    Console(file=file, width=100).print(view.render())
    assert STOPPING in file.getvalue()


def test_the_live_view_looks_at_recent_work() -> None:
    view = SearchView(SearchStarted(20, 0))

    def line() -> str:
        file = io.StringIO()
        Console(file=file, width=140).print(view.render())
        return next((one for one in file.getvalue().splitlines() if "tokens/s" in one), "")

    view.work_done(WorkDone(tokens=10, seconds=0.0, candidates=1, prompts=1))
    assert line() == ""
    for tokens in (10_000, 3000, 6000):
        view.work_done(WorkDone(tokens, seconds=20.0, candidates=1, prompts=1))
    assert line().startswith("225 tokens/s · 1 candidate and 1 prompt under way")


def test_the_front_marks_the_knee_and_visible_damage() -> None:
    file = io.StringIO()
    Console(file=file, width=140).print(
        front_table(FRONT, {point.number: PARAMETERS for point in FRONT}, 100)
    )
    rows = {
        line.split("│")[1].strip(): line for line in file.getvalue().splitlines() if "│" in line
    }
    assert "visible damage" in rows["3"]
    assert "knee" in rows["4"]
    assert "5/100" in rows["4"]
    assert "knee" not in rows["1"]


def test_an_empty_front_is_an_empty_table() -> None:
    assert front_table([], {}, 100).row_count == 0


def test_parameters_in_short() -> None:
    assert short(PARAMETERS) == "discriminant · ρ 0.01 · attn 1.00@14.5 →0.50±12 · mlp off"
    scope = {"residual.direction_scope": "global", "residual.direction_index": 12.34}
    assert short({"kind": "orthogonal", **scope}) == "orthogonal · layer 12.3"
    assert short(scope | {"residual.direction_scope": "per layer"}) == "per layer"
    assert short({"refusal_weight": 0.1414}) == "by gradients, weight 0.14"


@pytest.mark.parametrize("event", ALL)
def test_every_event_is_json(event: Event) -> None:
    assert json.loads(json.dumps(event.as_json()))["event"] == type(event).__name__


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.23, "4.2 s"),
        (42, "42 s"),
        (59.7, "1 min 00 s"),
        (723, "12 min 03 s"),
        (11100, "3 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2048, "2 KiB"), (2**20, "1.0 MiB"), (25 * 2**29, "12.5 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
