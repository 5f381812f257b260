"""Trials on a GPU, beside heretic's way and the dense projector: `python bench/gpu.py`.

Random weights of the shapes of Qwen3-0.6B, Qwen3-4B and Qwen1.5-MoE-A2.7B, made on the device. A trial is a
forward pass over the control prompts and an answer of full length to every target prompt; all prompts are
of the same length, the first quarter common to all, and no answer ends early.

excise    k candidates side by side, scored by the function that a search calls, every verdict waited for:
          common beginning, slots, each row's own u, v and strength, answers decoded and judged
LoRA      heretic's way: rank-3 adapters on all linear writers, fitted to the row-normalised
          ablation and rewritten for every trial; experts in one tensor have none, as there
dense     W − α (r rᵀ) W with the projector built, for every writer, weights put back from a copy

operator: what is spent on the edit, making it included. memory: most held beyond the weights, the dense
way's copy of them included. Without a GPU nothing is measured; `--device cpu --shape tiny` tries the code.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from bench.gpu_clock import HEAD, Clock, Row
from bench.gpu_peers import Request, dense, linear_writers, lora
from bench.machine import described
from bench.random_models import LARGE, SHAPES, random_model, random_prompts
from bench.random_trials import RandomTrial, TimedEdits, new_edit, random_trial
from bench.stopwatch import Stopwatch, after_each
from excise.anatomy.writers import Anatomy, examine
from excise.edits.edit import Edit
from excise.models.rate import matrix_rate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "gpu.md"


def ours(
    model: PreTrainedModel, anatomy: Anatomy, request: Request, clock: Clock, counts: Sequence[int]
) -> list[Row | None]:
    """k candidates side by side, for each k of `counts`, in as many slots as they have rows."""
    device = request.prompts.device
    edited = [model.get_submodule(name) for name in anatomy.names]
    hooks = Stopwatch(device)
    found: list[Row | None] = []
    trial = random_trial(model, request.prompts.tolist(), request.tokens, len(request.prompts))
    with ExitStack() as stack:
        stack.enter_context(after_each(edited, hooks.start))
        edits = stack.enter_context(TimedEdits(model, anatomy.names))
        stack.enter_context(after_each(edited, hooks.stop))
        for count in counts:
            trial.runner.slots = rows = len(request.prompts) * count
            candidates: list[Edit] = []
            row = clock.attempt(
                "excise",
                count,
                partial(_make, candidates, count, anatomy, device),
                partial(_score, trial, edits, candidates),
                partial(_spent, hooks, edits),
            )
            if row is not None and trial.runner.slots < rows:
                # Memory ran out, and the run went on with fewer, as it does for a user.
                row = replace(row, way=f"excise, {trial.runner.slots} rows at a time")
            found.append(row)
    return found


def _make(candidates: list[Edit], count: int, anatomy: Anatomy, device: torch.device) -> None:
    candidates[:] = [new_edit(anatomy, device) for _ in range(count)]


def _score(trial: RandomTrial, edits: TimedEdits, candidates: list[Edit]) -> None:
    trial.scores(edits, candidates)


def _spent(hooks: Stopwatch, edits: TimedEdits) -> float:
    return hooks.take() + edits.take()


def table(shape: str, options: argparse.Namespace) -> list[str]:
    device = torch.device(options.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config = SHAPES[shape]()
    model = random_model(config, device, dtype)
    anatomy = examine(model)
    prompts = random_prompts(options.prompts, options.prompt_tokens, config.vocab_size)
    request = Request(torch.tensor(prompts, device=device), options.tokens)
    clock = Clock(device, options.repeats, options.until)
    rows = ours(model, anatomy, request, clock, options.candidates)
    rows.append(dense(model, anatomy, request, clock))
    rows.append(lora(model, anatomy, request, clock))
    return [
        f"**{shape}**: {len(anatomy.names)} writers, {len(linear_writers(model, anatomy))} of them linear; "
        f"{str(dtype)[6:]}, {matrix_rate(dtype, device, 1.0) / 1e12:,.2f} TFLOP/s in matrix products.",
        "",
        *HEAD,
        *(row.line() for row in rows if row is not None),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=LARGE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument(
        "--within", type=float, default=float("inf"), help="seconds after which no more is begun"
    )
    options = parser.parse_args()
    options.until = time.perf_counter() + options.within
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--device cpu --shape tiny tries the code)")
        return
    name = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
    lines = [
        "# Trials on a GPU",
        "",
        f"`python {' '.join(sys.argv)}`. {name}; {described()}. {options.prompts} control and as "
        f"many target prompts of {options.prompt_tokens} tokens, answers of {options.tokens}; median of "
        f"{options.repeats}.",
        "",
    ]
    for shape in options.shape:
        if time.perf_counter() > options.until:
            print(f"{shape}: not begun, out of time", flush=True)
            continue
        print(shape, flush=True)
        lines += table(shape, options)
        # After each: whatever ends it early, what was measured is kept.
        options.output.write_text("\n".join(lines), encoding="utf-8")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
