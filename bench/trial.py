"""A trial against heretic's, against the simple way and against the floor: `python bench/trial.py`.

heretic runs in a process and an environment of its own, and waits while the others are measured. It
proposes and scores an edit; the very same edit is then scored by excise, and in the simple way: prompts
padded on the left to one width, one forward pass for KL, `model.generate` for all target prompts together,
no sequence ends early. Same model, prompts, markers, number of tokens, float32. With --rows none (the
default) heretic's edits are W' = W − α r (rᵀ W), and excise applies them by its hooks; with --rows full,
heretic's own default, they are rank-3 matrices, put into the weights for all.

"excise" waits for every verdict. "excise, in turn" scores the same edits as a search does that had scored the
ones before: prompts that were refused most are asked first, and an edit is left as soon as it is certain that
one of those before is at least as good in refusals and in KL.

The floor: the operations that a trial needs, every token run once and unpadded, the beginning that all
prompts share once for all, over the rate of matrix products measured in the same run.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.costs import costs_of
from bench.heretic_edits import LowRank, as_edit
from bench.machine import forget_peak, peak_resident, resident
from bench.peers import SteppedHeretic, configure, heretic_python
from bench.simple_way import simple_way
from bench.timed import score, timed_score
from bench.trial_page import BOUNDED, Round, page
from bench.whole_run import whole_run
from excise.app.run import Run, prepare
from excise.config import Settings, gather
from excise.demo.model import materialise
from excise.demo.settings import PROMPTS, demo_flags
from excise.devices.memory import input_device
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import TrialError
from excise.events import Event
from excise.judges.keywords import KeywordJudge
from excise.models.events import ModelLoaded
from excise.models.rate import matrix_rate
from excise.search.front import Point
from excise.search.scoring import Bound, Scored

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench" / "trial"
PAGE = ROOT / "docs" / "benchmarks" / "trial.md"
OF_A_SEARCH = ("trials", "startup_trials", "search_seconds")
HERETIC_TRIALS = 200


def our_way(
    run: Run, edits: VirtualEdits, edit: Edit, bound: Bound
) -> tuple[Scored, Mapping[str, float]]:
    started = time.perf_counter()
    (scored,), seconds = timed_score(
        run.experiment.runner, edits, [edit], run.experiment.search_part, bound
    )
    if isinstance(scored, TrialError):
        raise scored
    return scored, {**seconds, "excise": time.perf_counter() - started}


def bound_after(done: Sequence[Round], prompts: int) -> Bound:
    """What a search that had scored these edits would go by."""
    verdicts = [one.verdicts["excise"] for one in done]
    return Bound(
        points=tuple(
            Point(number, (sum(refused), one.kl["excise"]))
            for number, (one, refused) in enumerate(zip(done, verdicts, strict=True))
        ),
        priorities=tuple(
            float(sum(refused[row] for refused in verdicts)) for row in range(prompts)
        ),
    )


def nothing(names: Sequence[str], dimension: int) -> Edit:
    """The edit of strength 0."""
    zeros = torch.zeros(len(names), dimension)
    return Edit("orthogonal", tuple(names), zeros, zeros, torch.zeros(len(names)))


def one_round(
    run: Run,
    edits: VirtualEdits,
    heretic: SteppedHeretic,
    *,
    rows: str,
    before: Sequence[Round],
    markers: Sequence[str],
) -> Round:
    trial = heretic.trial()
    model, names = run.loaded.model, run.experiment.anatomy.names
    weights: LowRank | None = None
    if rows == "none":
        edit = as_edit(trial.matrices, names, model)
    else:
        edit, weights = (
            nothing(names, run.experiment.anatomy.dimension),
            LowRank(model, trial.matrices),
        )
        weights.switch(True)
    verdicts: dict[str, Sequence[bool]] = {}
    kl = {"heretic": trial.kl}
    seconds = {"heretic": trial.seconds}

    def simple() -> None:
        edits.use(edit)
        started = time.perf_counter()
        verdicts["simple"], kl["simple"] = simple_way(run, markers)
        seconds["simple"] = time.perf_counter() - started

    simple_first = bool(len(before) % 2)
    if simple_first:
        simple()
    forget_peak()
    # Changed weights are no edit's: then nothing that was kept of the original model holds.
    bound = Bound(exhaustive=weights is not None)
    scored, ours = our_way(run, edits, edit, bound)
    peak = peak_resident()
    answered, kl["excise"] = scored.answered, scored.kl
    assert answered is not None, "with nothing to beat, every verdict is waited for"
    seconds |= ours
    dominated = False
    if weights is None:
        bound = bound_after(before, len(run.experiment.search_part.target))
        bounded, ours = our_way(run, edits, edit, bound)
        seconds[BOUNDED] = ours["excise"]
        kl[BOUNDED], dominated = bounded.kl, bounded.dominated
        verdicts[BOUNDED] = () if bounded.answered is None else bounded.answered.refused
    if not simple_first:
        simple()
    edits.use(None)
    if weights is not None:
        weights.switch(False)

    said = trial.verdicts()
    verdicts["heretic"] = [verdict for _, verdict in said]
    verdicts["excise"] = answered.refused
    part, costs = (
        run.experiment.search_part,
        costs_of(model, run.experiment.anatomy.layers),
    )
    first = [[0]] * len(part.control)
    floors, whole = (
        {
            "kl": costs.answering(part.control, first, shared=shared),
            "refusals": costs.answering(part.target, answered.tokens, shared=shared),
        }
        for shared in (True, False)
    )
    return Round(
        edit if weights is None else None,
        seconds,
        verdicts,
        kl,
        [text.startswith(ours) for (text, _), ours in zip(said, answered.answers, strict=True)],
        sum(KeywordJudge(markers).refused(text) != verdict for text, verdict in said),
        floors,
        whole,
        peak,
        dominated,
    )


def side_by_side(run: Run, edits: VirtualEdits, done: Sequence[Round]) -> str:
    """All edits again, under way together as the candidates of a search are, every verdict waited for."""
    made = [one.edit for one in done if one.edit is not None]
    if not made:
        return ""
    started = time.perf_counter()
    scores = score(run.experiment.runner, edits, made, run.experiment.search_part, Bound())
    seconds = (time.perf_counter() - started) / len(made)
    verdicts = [
        None if isinstance(one, TrialError) or one.answered is None else one.answered.refused
        for one in scores
    ]
    same = sum(found == one.verdicts["excise"] for found, one in zip(verdicts, done, strict=True))
    return (
        f"\nThe same {len(made)} edits side by side in excise, as candidates of a search are: "
        f"{seconds:.1f} s each; of {same} of them all verdicts are those from before.\n"
    )


def measure(
    settings: Settings, heretic: SteppedHeretic, *, rounds: int, rows: str
) -> tuple[list[Round], str]:
    """The rounds, and what there is to say about them. heretic: started on the same model and prompts."""
    start_seconds, markers = heretic.started()
    memory: dict[str, int] = {}

    def listen(event: Event) -> None:
        if isinstance(event, ModelLoaded):
            memory["loaded model"] = resident()
            forget_peak()

    run = prepare(settings.model_copy(update={"markers": tuple(markers)}), listen)
    memory["peak while preparing"] = peak_resident()
    done: list[Round] = []
    rates: list[float] = []
    model = run.loaded.model
    dtype, device = getattr(torch, run.loaded.dtype), input_device(model)
    with VirtualEdits(model, run.experiment.anatomy.names) as edits:
        for _ in range(rounds):
            rates.append(matrix_rate(dtype, device, seconds=1.0))
            done.append(
                one_round(
                    run,
                    edits,
                    heretic,
                    rows=rows,
                    before=done,
                    markers=markers,
                )
            )
            print(
                " · ".join(f"{way} {each:.1f} s" for way, each in done[-1].seconds.items()),
                flush=True,
            )
        together = side_by_side(run, edits, done)
    memory["peak during a trial"] = max(one.peak for one in done)
    text = page(run, done, max(rates), memory, peak_resident(heretic.pid), start_seconds, rows=rows)
    return done, text + together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="edits scored by all")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rows", choices=("none", "full"), default="none")
    parser.add_argument("--heretic", type=Path, default=ROOT / "build" / "bench" / "heretic")
    parser.add_argument("--batch-size", type=int, default=100, help="prompts at a time, of both")
    parser.add_argument("--search", action="store_true", help="measure a whole search too")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    model = materialise(print)
    prompts = {path.stem: path for path in PROMPTS.glob("*.txt")}
    folder = WORK / f"heretic-{options.rows}"
    changes = {
        "max_response_length": options.tokens,
        # One more, so that it waits behind the last and can be asked for its memory.
        "n_trials": options.rounds + 1,
        "batch_size": options.batch_size,
        "row_normalization": options.rows,
    }
    configure(folder, model, prompts, changes)
    defaults = {name: Settings.model_fields[name].default for name in OF_A_SEARCH}
    with (
        TemporaryDirectory() as run,
        SteppedHeretic(heretic_python(options.heretic), folder) as heretic,
    ):
        of_a_run = demo_flags(model) | defaults | {"max_new_tokens": options.tokens}
        flags = of_a_run | {
            "run_dir": Path(run) / "run",
            "batch_size": options.batch_size,
            "response_prefix": "",
        }
        done, text = measure(
            gather(flags, {}, None), heretic, rounds=options.rounds, rows=options.rows
        )
        start_seconds, _ = heretic.started()
        if options.search:
            usual = statistics.median(one.seconds["heretic"] for one in done)
            theirs = start_seconds + HERETIC_TRIALS * usual
            settings = gather(of_a_run | {"run_dir": Path(run) / "whole"}, {}, None)
            ours, median, said = whole_run(settings)
            text += (
                f"\n## A whole run\n\nThe default search ({settings.trials} trials) with preparation and "
                f"the held-out report: **{ours:.0f} s**. heretic's default {HERETIC_TRIALS} trials at the "
                f"median above, with its start: {theirs:.0f} s, **{theirs / ours:.1f} times as long**. The "
                f"median trial of the search took {median:.1f} s, {usual / median:.1f} times less than "
                f"heretic's.\n\n{said}\n"
            )
    print("\n" + text)
    head = f"# A trial against heretic's\n\n`python {' '.join(sys.argv)}`.\n\n"
    options.output.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
