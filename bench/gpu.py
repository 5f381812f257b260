"""Trials on a GPU, beside heretic's way and the dense projector: `python bench/gpu.py`.

Random weights of the shapes of Qwen3-0.6B, Qwen3-4B and Qwen1.5-MoE-A2.7B, made on the device. A trial is a
forward pass over the control prompts and an answer of full length to every target prompt; all prompts are
of the same length and no answer ends early, so that every way does the same work on the same rows.

excise          k candidates in one batch, each row with its own u, v and strength behind the writers
excise, engine  one candidate through the engine that a run uses
LoRA            heretic's way: rank-3 adapters on all linear writers, fitted to the row-normalised
                ablation and rewritten for every trial; experts in one tensor have none, as there
dense           W − α (r rᵀ) W with the projector built, for every writer, weights put back from a copy

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
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from bench.machine import described, forget_peak, peak_resident, resident
from bench.random_models import LARGE, SHAPES, random_model, random_prompts
from excise.edit.edit import Edit
from excise.edit.operator import orthogonal, unit
from excise.edit.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.engine.rate import matrix_rate, synchronise
from excise.engine.stopwatch import Stopwatch, after_each
from excise.model.writers import Anatomy, examine

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "gpu.md"
RANK, STRENGTH = 3, 0.8


@dataclass(frozen=True)
class Asked:
    """What every trial is asked. prompts: [row, token] on the device; tokens: of an answer."""

    prompts: Tensor
    tokens: int


@dataclass(frozen=True)
class Row:
    """One way, measured. seconds, operator: of one trial; memory: bytes beyond the weights."""

    way: str
    candidates: int
    seconds: float
    operator: float
    memory: int

    def line(self) -> str:
        """A line of the table."""
        return (
            f"| {self.way} | {self.candidates} | {60 / self.seconds:,.2f} | {self.seconds:,.2f} "
            f"| {1e3 * self.operator:,.2f} ms, {self.operator / self.seconds:.2%} "
            f"| {self.memory / 2**30:,.2f} GiB |"
        )


def new_edit(anatomy: Anatomy, device: torch.device) -> Edit:
    """An edit as a trial makes it."""
    directions = unit(torch.randn(len(anatomy.names), anatomy.dimension, device=device)).cpu()
    operator = orthogonal(directions)
    strengths = torch.full((len(anatomy.names),), STRENGTH)
    return Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths)


@torch.inference_mode()
def ask(model: PreTrainedModel, asked: Asked, copies: int = 1) -> Tensor:
    """KL's forward pass, and answers, over `copies` of the prompts one below the other: [row, token]."""
    ids = asked.prompts.repeat(copies, 1)
    model(ids, logits_to_keep=1).logits[:, -1].to(torch.float32).log_softmax(-1)
    cache = DynamicCache(config=model.config)
    newest, said = ids, []
    for _ in range(asked.tokens):
        output = model(newest, past_key_values=cache, use_cache=True, logits_to_keep=1)
        newest = output.logits[:, -1:].argmax(-1)
        said.append(newest)
    return torch.cat(said, 1).cpu()


def through_engine(model: PreTrainedModel, asked: Asked) -> None:
    prompts = asked.prompts.tolist()
    first_token_logits(model, prompts, len(prompts))
    greedy(model, prompts, max_new_tokens=asked.tokens, slots=len(prompts))


class Clock:
    """Medians of repeated trials on one device: seconds, operator's seconds, memory."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._device, self._repeats = device, repeats
        self.hooks = Stopwatch(device)

    def measure(
        self, way: str, candidates: int, put: Callable[[], None], run: Callable[[], object]
    ) -> Row:
        """put: what a trial does to have its edit in force; run: the trial itself."""
        spent: list[tuple[float, float]] = []
        before = self._forget()
        for _ in range(self._repeats + 1):
            self.hooks.take()
            marks = []
            for call in (put, run):
                synchronise(self._device)
                marks.append(time.perf_counter())
                call()
            synchronise(self._device)
            ended = time.perf_counter()
            spent.append((ended - marks[0], marks[1] - marks[0] + self.hooks.take()))
        # The first one warms up.
        seconds, operator = (statistics.median(each) for each in zip(*spent[1:], strict=True))
        memory = max(0, self._peak() - before)
        return Row(way, candidates, seconds / candidates, operator / candidates, memory)

    def _forget(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return int(torch.cuda.memory_allocated(self._device))
        forget_peak()
        return resident()

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return peak_resident()


def ours(
    model: PreTrainedModel, anatomy: Anatomy, asked: Asked, clock: Clock, counts: Sequence[int]
) -> list[Row]:
    """One candidate through the engine, then k in a batch, decoded here in the simplest way."""
    device = asked.prompts.device
    edited = [model.get_submodule(name) for name in anatomy.names]
    found = []
    with ExitStack() as stack:
        stack.enter_context(after_each(edited, clock.hooks.start))
        edits = stack.enter_context(VirtualEdits(model, anatomy.names))
        stack.enter_context(after_each(edited, clock.hooks.stop))

        def put_one() -> None:
            edits.use(new_edit(anatomy, device))

        def put_several(count: int) -> None:
            rows = [candidate for candidate in range(count) for _ in asked.prompts]
            edits.use_several([new_edit(anatomy, device) for _ in range(count)])
            edits.assign(rows)

        run = partial(through_engine, model, asked)
        found.append(attempt(clock, "excise, engine", 1, put_one, run))
        for count in counts:
            put = put_one if count == 1 else partial(put_several, count)
            run = partial(ask, model, asked, count)
            found.append(attempt(clock, "excise", count, put, run))
    return [row for row in found if row is not None]


def attempt(
    clock: Clock, way: str, candidates: int, put: Callable[[], None], run: Callable[[], object]
) -> Row | None:
    """One measurement, or None, said aloud, where memory runs out."""
    try:
        row = clock.measure(way, candidates, put, run)
    except torch.OutOfMemoryError:
        print(f"{way}, {candidates}: out of memory", flush=True)
        return None
    print(row.line(), flush=True)
    return row


def linear_writers(model: PreTrainedModel, anatomy: Anatomy) -> list[str]:
    """Writers that an adapter can be put on."""
    return [name for name in anatomy.names if isinstance(model.get_submodule(name), nn.Linear)]


def fitted(weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of the rank-3 fit to the ablation of the row-normalised matrix, norms of rows restored."""
    matrix = weight.to(torch.float32)
    norms = matrix.norm(dim=1, keepdim=True)
    plain = matrix / norms
    ablated = torch.addr(plain, r, r @ plain, alpha=-STRENGTH)
    change = torch.nn.functional.normalize(ablated, dim=1) * norms - matrix
    u, s, v = torch.svd_lowrank(change, q=2 * RANK + 4, niter=6)
    root = s[:RANK].sqrt()
    return root.unsqueeze(1) * v[:, :RANK].T, u[:, :RANK] * root


def lora(model: PreTrainedModel, anatomy: Anatomy, asked: Asked, clock: Clock) -> Row | None:
    names = linear_writers(model, anatomy)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
    modules = [model.get_submodule(name) for name in names]

    @torch.no_grad()
    def put() -> None:
        r = unit(torch.randn(anatomy.dimension, device=asked.prompts.device))
        for module in modules:
            down, up = fitted(module.base_layer.weight, r)
            module.lora_A["default"].weight.copy_(down)
            module.lora_B["default"].weight.copy_(up)

    row = attempt(clock, "LoRA", 1, put, partial(ask, model, asked))
    adapted.unload()
    return row


def dense(model: PreTrainedModel, anatomy: Anatomy, asked: Asked, clock: Clock) -> Row | None:
    weights = [
        model.get_parameter(tensor.name)
        for writer in anatomy.writers
        for tensor in writer.tensors
        if not tensor.bias
    ]
    originals = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def put() -> None:
        r = unit(torch.randn(anatomy.dimension, device=asked.prompts.device))
        projector = (STRENGTH * torch.outer(r, r)).to(weights[0].dtype)
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original)
            for matrix in weight.unbind() if weight.dim() == 3 else (weight,):
                matrix.sub_(projector @ matrix)

    row = attempt(clock, "dense", 1, put, partial(ask, model, asked))
    with torch.no_grad():
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original)
    copies = sum(original.nbytes for original in originals)
    return None if row is None else replace(row, memory=row.memory + copies)


def table(shape: str, options: argparse.Namespace) -> list[str]:
    device = torch.device(options.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config = SHAPES[shape]()
    model = random_model(config, device, dtype)
    anatomy = examine(model)
    prompts = random_prompts(options.prompts, options.prompt_tokens, config.vocab_size)
    asked = Asked(torch.tensor(prompts, device=device), options.tokens)
    clock = Clock(device, options.repeats)
    rows: list[Row | None] = list(ours(model, anatomy, asked, clock, options.candidates))
    rows.append(dense(model, anatomy, asked, clock))
    rows.append(lora(model, anatomy, asked, clock))
    return [
        f"**{shape}**: {len(anatomy.names)} writers, {len(linear_writers(model, anatomy))} of them linear; "
        f"{str(dtype)[6:]}, {matrix_rate(dtype, device, 1.0) / 1e12:,.2f} TFLOP/s in matrix products.",
        "",
        "| way | candidates a batch | trials a minute | seconds a trial | operator, share of the trial "
        "| memory beyond the weights |",
        "|---|---|---|---|---|---|",
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
    options = parser.parse_args()
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
        print(shape, flush=True)
        lines += table(shape, options)
    text = "\n".join(lines)
    print("\n" + text)
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
