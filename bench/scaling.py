"""How a trial's time grows: `python bench/scaling.py`.

Random models of the shape of a Llama. One size grows at a time, the others are constant: prompts, tokens of
an answer, tokens of a prompt, layers, width d, candidates side by side. A trial is scored as in a search,
with every verdict. The exponent of growth is fitted by least squares on logarithms: 1 is linear. Besides the
times of the two stages, a table has the times of the operator's hooks, of making and applying the edits, and
of all other work outside forward passes (such as verdicts), and the operations of the model's own products.
Times are those of all candidates together.
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
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.costs import costs_of
from bench.machine import described
from bench.random_models import llama, random_model, random_prompts
from bench.random_trials import TimedEdits, new_edit, random_trial
from bench.stopwatch import Stopwatch, after_each
from excise.anatomy.writers import examine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "scaling.md"
COLUMNS = ("KL", "refusals", "operator", "edit made", "outside the model")


@dataclass(frozen=True)
class Case:
    """What a trial is measured on. tokens: of an answer; prompt: of a prompt."""

    prompts: int = 32
    tokens: int = 16
    prompt: int = 32
    layers: int = 6
    width: int = 256
    candidates: int = 1


AXES: Mapping[str, Sequence[int]] = {
    "prompts": (16, 32, 64, 128),
    "tokens": (8, 16, 32, 64),
    "prompt": (16, 32, 64, 128),
    "layers": (3, 6, 12, 24),
    "width": (256, 512, 1024, 2048),
    "candidates": (1, 2, 4, 8),
}
QUICK: Mapping[str, Sequence[int]] = {
    "prompts": (4, 8),
    "tokens": (2, 4),
    "prompt": (8, 16),
    "layers": (1, 2),
    "width": (64, 128),
    "candidates": (1, 2),
}
EXPECTED: Mapping[str, Sequence[int]] = {
    "prompts": (1, 1, 1, 1, 1, 1),
    "tokens": (0, 1, 1, 1, 1, 1),
    "prompt": (1, 1, 1, 0, 1, 1),
    "layers": (1, 1, 1, 1, 1, 1),
    "width": (2, 2, 1, 1, 1, 2),
    "candidates": (1, 1, 1, 1, 1, 1),
}
"""The exponent that each column, operations last, may have at most."""
SLOTS = 32
"""Rows that decode at a time, for each candidate."""


@dataclass(frozen=True)
class Measured:
    """seconds: by column. operations: of the model's own products, both stages."""

    seconds: Mapping[str, float]
    operations: int


def measured(case: Case, repeats: int) -> Measured:
    """The median of `repeats` trials."""
    config = llama(case.layers, case.width)
    device = torch.device("cpu")
    model = random_model(config, device, torch.float32)
    prompts = random_prompts(case.prompts, case.prompt, config.vocab_size)
    anatomy = examine(model)
    edited = [model.get_submodule(name) for name in anatomy.names]
    trial = random_trial(model, prompts, case.tokens, SLOTS * case.candidates)
    operator, passes = Stopwatch(device), Stopwatch(device)
    found: dict[str, list[float]] = {column: [] for column in COLUMNS}
    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(passes.start).remove)
        stack.enter_context(after_each((model,), passes.stop))
        stack.enter_context(after_each(edited, operator.start))
        edits = stack.enter_context(TimedEdits(model, anatomy.names))
        stack.enter_context(after_each(edited, operator.stop))
        for repeat in range(repeats + 1):
            started = time.perf_counter()
            candidates = [new_edit(anatomy, device) for _ in range(case.candidates)]
            making = time.perf_counter() - started
            scores, stages = trial.scores(edits, candidates)
            kl, refusals = (stages[name] for name in ("kl", "refusals"))
            placing = edits.take()
            outside = kl + refusals - placing - passes.take()
            spent = (kl, refusals, operator.take(), making + placing, outside)
            if repeat:  # the first one warms up
                for column, seconds in zip(COLUMNS, spent, strict=True):
                    found[column].append(seconds)
    costs = costs_of(model, anatomy.layers)
    answers = [scored.answered.tokens for scored in scores if scored.answered is not None]
    first = costs.answering(prompts, [[0]] * len(prompts))
    return Measured(
        {column: statistics.median(values) for column, values in found.items()},
        len(scores) * first + sum(costs.answering(prompts, said) for said in answers),
    )


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """p of the best fit value ∝ sizeᵖ, by least squares on logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope)


def last_exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """p between the two largest sizes, where what does not grow matters least."""
    return exponent(sizes[-2:], values[-2:])


def axis_lines(axis: str, sizes: Sequence[int], rows: Sequence[Measured]) -> list[str]:
    """The table of one axis."""
    lines = [
        f"| {axis} | " + " | ".join(f"{column} (ms)" for column in COLUMNS) + " | operations (G) |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for size, row in zip(sizes, rows, strict=True):
        cells = [f"{1e3 * row.seconds[column]:,.2f}" for column in COLUMNS]
        lines.append(f"| {size} | " + " | ".join(cells) + f" | {row.operations / 1e9:,.2f} |")
    for name, fit in (
        ("exponent", exponent),
        ("between the last two", last_exponent),
    ):
        cells = [f"{fit(sizes, [row.seconds[column] for row in rows]):.2f}" for column in COLUMNS]
        operations = fit(sizes, [row.operations for row in rows])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {operations:.2f} |")
    expected = " | ".join(map(str, EXPECTED[axis]))
    return [*lines, f"| expected at most | {expected} |", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two small sizes of each, as a check")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    print(page(options.axes, QUICK if options.quick else AXES, options.repeats, options.output))


def _in_words(case: Case) -> str:
    return (
        f"{case.prompts} prompts of {case.prompt} tokens, answers of {case.tokens} tokens, {case.layers} "
        f"layers of width {case.width} and {case.candidates} candidate"
    )


def page(
    axes: Sequence[str], sizes: Mapping[str, Sequence[int]], repeats: int, output: Path
) -> str:
    """Measure, and write the page."""
    lines = [
        "# How a trial's time grows",
        "",
        f"`python {' '.join(sys.argv)}`. {described()}. Random models of the shape of a Llama, "
        f"float32. The base case has {_in_words(Case())}; each table varies one of these sizes. All writers "
        f"are edited; {SLOTS} rows decode at a time for each candidate; times are medians of {repeats}. "
        "Operations are those of the model's own matrix products.",
        "",
        "All times should grow at most linearly, except with the width: the model's products grow with "
        "its square. The operator, the making of edits and the time outside the model should grow at "
        "most linearly with the width, too. Attention grows faster than linearly with the length of prompt "
        "and answer; the column of operations shows by how much. *Exponent*: the power of the size with "
        "which the time grows. Between the last two sizes, constant costs have the least effect on it. A "
        "single candidate's edit is one product for all rows, while with several candidates each row has "
        "its own edit. So the operator's time may more than double from 1 to 2 candidates.",
        "",
    ]
    for axis in axes:
        rows = []
        for size in sizes[axis]:
            rows.append(measured(replace(Case(), **{axis: size}), repeats))
            print(f"{axis} {size}: {rows[-1]}", flush=True)
        lines += axis_lines(axis, sizes[axis], rows)
    text = "\n".join(lines)
    output.write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
