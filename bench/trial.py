"""A trial against heretic's, against the simple way and against the floor: `python bench/trial.py`.

heretic runs in a process and an environment of its own, and waits while the others are measured. It
proposes and scores an edit; the very same edit is then scored by excise, and in the simple way: prompts
padded on the left to one width, one forward pass for KL, `model.generate` for all target prompts together,
nobody leaves early. Same model, prompts, markers, number of tokens, float32. With --rows none (the
default) heretic's edits are W' = W − α r (rᵀ W), and excise applies them by its hooks; with --rows full,
heretic's own default, they are rank-3 matrices, put into the weights for all.

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
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.machine import Stages, described, forget_peak, peak_resident, resident
from bench.peers import LowRank, SteppedHeretic, as_edit, configure, heretic_python
from excise.config import Settings, gather
from excise.demo.model import materialise
from excise.demo.settings import PROMPTS, demo_flags
from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.engine.costs import costs_of
from excise.engine.device import input_device
from excise.engine.rate import matrix_rate
from excise.errors import TrialError
from excise.run import events
from excise.run.outcome import ask_held_out, confirm
from excise.run.prepare import Prepared, prepare
from excise.run.search import open_study, search
from excise.run.trial import Contest, score
from excise.scores.divergence import kl_divergence
from excise.scores.markers import is_refusal
from excise.scores.refusals import Refusals
from excise.search.front import pareto_front, select

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench" / "trial"
PAGE = ROOT / "docs" / "benchmarks" / "trial.md"
STAGES = ("kl", "refusals")
OF_A_SEARCH = ("trials", "startup_trials", "search_seconds")
HERETIC_TRIALS = 200


@dataclass(frozen=True)
class Round:
    """One edit, scored by all.

    seconds: of each way, and of excise's stages. verdicts: of each way, one a prompt. same_answers: where
    heretic's answer begins with what excise said until its verdict. misjudged: of heretic's answers, on
    which excise's function disagrees with its verdict. floors, whole: operations of each stage, the shared
    beginning run once, or by every prompt. peak: bytes resident at most while excise scored.
    """

    seconds: Mapping[str, float]
    verdicts: Mapping[str, Sequence[bool]]
    kl: Mapping[str, float]
    same_answers: Sequence[bool]
    misjudged: int
    floors: Mapping[str, int]
    whole: Mapping[str, int]
    peak: int


def padded(prompts: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def simple_way(prepared: Prepared, markers: Sequence[str]) -> tuple[list[bool], float]:
    model, part = prepared.loaded.model, prepared.search_part
    pad = prepared.loaded.tokenizer.pad_token_id
    edited = model(**padded(part.control, pad), logits_to_keep=1).logits[:, -1].log_softmax(-1)
    kl = float(kl_divergence(part.original.log_softmax(-1), edited).mean())
    batch = padded(part.target, pad)
    limit = prepared.settings.max_new_tokens
    output = model.generate(**batch, do_sample=False, max_new_tokens=limit, pad_token_id=pad)
    answers = output[:, batch["input_ids"].shape[1] :].tolist()
    chat = prepared.runner.chat
    return [is_refusal(chat.decode(answer), markers) for answer in answers], kl


def our_way(
    prepared: Prepared, edits: VirtualEdits, edit: Edit, contest: Contest
) -> tuple[Refusals, float, Mapping[str, float]]:
    stages = Stages()
    started = time.perf_counter()
    (scored,) = score(prepared.runner, edits, [edit], prepared.search_part, contest, stages)
    if isinstance(scored, TrialError):
        raise scored
    assert scored.answered is not None, "with nothing to beat, every verdict is waited for"
    return scored.answered, scored.kl, {**stages.seconds, "excise": time.perf_counter() - started}


def nothing(names: Sequence[str], dimension: int) -> Edit:
    """The edit of strength 0."""
    zeros = torch.zeros(len(names), dimension)
    return Edit("orthogonal", tuple(names), zeros, zeros, torch.zeros(len(names)))


def one_round(
    prepared: Prepared,
    edits: VirtualEdits,
    heretic: SteppedHeretic,
    *,
    rows: str,
    simple_first: bool,
    markers: Sequence[str],
) -> Round:
    trial = heretic.trial()
    model, names = prepared.loaded.model, prepared.anatomy.names
    weights: LowRank | None = None
    if rows == "none":
        edit = as_edit(trial.matrices, names, model)
    else:
        edit, weights = nothing(names, prepared.anatomy.dimension), LowRank(model, trial.matrices)
        weights.switch(True)
    verdicts: dict[str, Sequence[bool]] = {}
    kl = {"heretic": trial.kl}
    seconds = {"heretic": trial.seconds}

    def simple() -> None:
        edits.use(edit)
        started = time.perf_counter()
        verdicts["simple"], kl["simple"] = simple_way(prepared, markers)
        seconds["simple"] = time.perf_counter() - started

    if simple_first:
        simple()
    forget_peak()
    # Changed weights are no edit's: then nothing that was kept of the original model holds.
    contest = Contest(exhaustive=weights is not None)
    answered, kl["excise"], ours = our_way(prepared, edits, edit, contest)
    peak = peak_resident()
    seconds |= ours
    if not simple_first:
        simple()
    edits.use(None)
    if weights is not None:
        weights.switch(False)

    said = trial.verdicts()
    verdicts["heretic"] = [verdict for _, verdict in said]
    verdicts["excise"] = answered.refused
    part, costs = prepared.search_part, costs_of(model, prepared.anatomy.layers)
    first = [[0]] * len(part.control)
    floors, whole = (
        {
            "kl": costs.answering(part.control, first, shared=shared),
            "refusals": costs.answering(part.target, answered.tokens, shared=shared),
        }
        for shared in (True, False)
    )
    return Round(
        seconds,
        verdicts,
        kl,
        [text.startswith(ours) for (text, _), ours in zip(said, answered.answers, strict=True)],
        sum(is_refusal(text, markers) != verdict for text, verdict in said),
        floors,
        whole,
        peak,
    )


def measure(
    settings: Settings, heretic: SteppedHeretic, *, rounds: int, rows: str
) -> tuple[Prepared, list[Round], str]:
    """The rounds, and what there is to say about them. heretic: started on the same model and prompts."""
    start_seconds, markers = heretic.started()
    memory: dict[str, int] = {}

    def listen(event: events.Event) -> None:
        if isinstance(event, events.ModelLoaded):
            memory["loaded model"] = resident()
            forget_peak()

    prepared = prepare(settings.model_copy(update={"markers": tuple(markers)}), listen)
    memory["peak while preparing"] = peak_resident()
    done: list[Round] = []
    rates: list[float] = []
    model = prepared.loaded.model
    dtype, device = getattr(torch, prepared.loaded.dtype), input_device(model)
    with VirtualEdits(model, prepared.anatomy.names) as edits:
        for number in range(rounds):
            rates.append(matrix_rate(dtype, device, seconds=1.0))
            done.append(
                one_round(
                    prepared,
                    edits,
                    heretic,
                    rows=rows,
                    simple_first=bool(number % 2),
                    markers=markers,
                )
            )
            print(
                " · ".join(f"{way} {each:.1f} s" for way, each in done[-1].seconds.items()),
                flush=True,
            )
    memory["peak during a trial"] = max(one.peak for one in done)
    text = page(
        prepared, done, max(rates), memory, peak_resident(heretic.pid), start_seconds, rows=rows
    )
    return prepared, done, text


def whole_search(prepared: Prepared) -> float:
    """Seconds of a whole run with its default search: prepared, searched, chosen, reported."""
    started = time.perf_counter()
    study = open_study(prepared)
    search(prepared, study, events.ignore)
    point = select(pareto_front(study.points()), "knee")
    confirm(prepared, study, point, ask_held_out(prepared, events.ignore), events.ignore)
    return sum(prepared.seconds.values()) + time.perf_counter() - started


def page(
    prepared: Prepared,
    done: Sequence[Round],
    rate: float,
    memory: Mapping[str, int],
    memory_of_heretic: int,
    start_seconds: float,
    *,
    rows: str,
) -> str:
    part = prepared.search_part

    def seconds(way: str) -> float:
        return statistics.median(one.seconds[way] for one in done)

    def spread(way: str) -> str:
        values = [one.seconds[way] for one in done]
        return f"{min(values):.2f} to {max(values):.2f}"

    ours = seconds("excise")
    lines = [
        f"{described()}. {prepared.settings.model}, {prepared.loaded.dtype}, {len(part.target)} "
        f"target and {len(part.control)} control prompts, {prepared.settings.max_new_tokens} new "
        f"tokens, heretic 1.4.0 with row_normalization = {rows!r}, {len(done)} of its edits scored by "
        f"all in turn; {prepared.runner.slots} slots.",
        "",
        "| | seconds a trial, median | range | times excise | refusals | KL (nats) |",
        "|---|---|---|---|---|---|",
    ]
    for way in ("heretic", "simple", "excise"):
        refusals = ", ".join(str(sum(one.verdicts[way])) for one in done)
        kl = ", ".join(f"{one.kl[way]:.4f}" for one in done)
        lines.append(
            f"| {way} | {seconds(way):.2f} | {spread(way)} | {seconds(way) / ours:.2f} "
            f"| {refusals} | {kl} |"
        )
    lines += [
        "",
        f"| excise's stage | seconds, median | floor (s), {rate / 1e9:,.0f} GFLOP/s | times the floor "
        "| floor if every prompt ran its beginning (s) |",
        "|---|---|---|---|---|",
    ]
    for stage in STAGES:
        floor = statistics.median(one.floors[stage] for one in done) / rate
        ratio = statistics.median(one.seconds[stage] * rate / one.floors[stage] for one in done)
        whole = statistics.median(one.whole[stage] for one in done) / rate
        lines.append(
            f"| {stage} | {seconds(stage):.2f} | {floor:.2f} | {ratio:.2f} | {whole:.2f} |"
        )
    differing = {
        "heretic": [0, 0],
        "simple": [0, 0],
    }
    for one in done:
        for way, counts in differing.items():
            for mine, other, same in zip(
                one.verdicts["excise"], one.verdicts[way], one.same_answers, strict=True
            ):
                counts[0] += mine != other
                counts[1] += mine != other and same
    asked = sum(len(one.same_answers) for one in done)
    same = sum(sum(one.same_answers) for one in done)
    lines += [
        "",
        f"Of {asked} answers {same} are heretic's, word for word as far as excise let them go. Verdicts "
        f"that differ from heretic's: {differing['heretic'][0]}, on identical answers "
        f"{differing['heretic'][1]}; from the simple way's: {differing['simple'][0]}. heretic's own "
        f"answers judged by excise's function: {sum(one.misjudged for one in done)} differ.",
        "",
        "Resident memory: "
        + ", ".join(
            f"{name} {size / 2**20:,.0f} MiB ({size / memory['loaded model']:.2f})"
            for name, size in memory.items()
        )
        + f"; heretic's process at most {memory_of_heretic / 2**20:,.0f} MiB. Before its first trial "
        f"heretic took {start_seconds:.0f} s, excise {sum(prepared.seconds.values()):.0f} s, one after "
        "the other.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="edits scored by all")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rows", choices=("none", "full"), default="none")
    parser.add_argument("--heretic", type=Path, default=ROOT / "build" / "bench" / "heretic")
    parser.add_argument("--heretic-batch", type=int, default=100)
    parser.add_argument("--search", action="store_true", help="measure a whole search too")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    model = materialise(print)
    prompts = {path.stem: path for path in PROMPTS.glob("*.txt")}
    folder = WORK / f"heretic-{options.rows}"
    changes = {
        "max_response_length": options.tokens,
        "n_trials": options.rounds,
        "batch_size": options.heretic_batch,
        "row_normalization": options.rows,
    }
    configure(folder, model, prompts, changes)
    defaults = {name: Settings.model_fields[name].default for name in OF_A_SEARCH}
    with (
        TemporaryDirectory() as run,
        SteppedHeretic(heretic_python(options.heretic), folder) as heretic,
    ):
        flags = demo_flags(model) | defaults
        flags |= {
            "run_dir": Path(run) / "run",
            "max_new_tokens": options.tokens,
            "response_prefix": "",
        }
        prepared, done, text = measure(
            gather(flags, {}, None), heretic, rounds=options.rounds, rows=options.rows
        )
        start_seconds, _ = heretic.started()
        if options.search:
            theirs = start_seconds + HERETIC_TRIALS * statistics.median(
                one.seconds["heretic"] for one in done
            )
            ours = whole_search(prepared)
            text += (
                f"\nA whole run with the default search ({prepared.settings.trials} trials and the "
                f"held-out report): {ours:.0f} s. heretic's default {HERETIC_TRIALS} trials at the median "
                f"above, with its start: {theirs:.0f} s, {theirs / ours:.1f} times as long.\n"
            )
    print("\n" + text)
    head = f"# A trial against heretic's\n\n`python {' '.join(sys.argv)}`.\n\n"
    options.output.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
