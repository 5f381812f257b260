"""The cost of going from one candidate's edit to the next: `python bench/operator.py`.

Three ways to have α u (vᵀ W) taken off, for widths d = 1024 … 8192, on one matrix d × d and on 60 experts
d × 512 of one layer:

dense     W − α (r rᵀ) W with the projector built, as first implementations did
rank-1    W − α u (vᵀ W) in place, what a tool does that writes weights for every trial
virtual   a new edit for 30 layers (60 writers) put in force by excise's hooks: no weight is touched
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
from pathlib import Path

import torch
from torch import nn

from bench.machine import Cost, cost, described
from excise.anatomy.roles import ATTENTION, MLP
from excise.anatomy.writers import Anatomy, Writer
from excise.edits.virtual import VirtualEdits
from excise.experiment.bank import Bank, edit_of, residual_bank
from excise.operators.operator import orthogonal, unit
from excise.search.space import RIDGES, Candidate, Kernel

LAYERS, EXPERTS, EXPERT_WIDTH = 30, 60, 512
# Wide enough to edit every layer, the first one too: its hook is the one that prepares the edit below.
KERNELS = {ATTENTION: Kernel(1.1, 20.0, 0.4, 40.0), MLP: Kernel(0.6, 18.0, 0.1, 40.0)}


def dense(weight: torch.Tensor, r: torch.Tensor) -> Cost:
    projector_applied = lambda: weight - 0.8 * (torch.outer(r, r) @ weight)  # noqa: E731
    return cost(projector_applied)


def rank_one(weight: torch.Tensor, r: torch.Tensor) -> Cost:
    def update() -> None:
        for matrix in weight.unbind() if weight.dim() == 3 else (weight,):
            matrix.addr_(r, r @ matrix, alpha=-0.8)

    return cost(update, repeats=3)


def virtual(d: int, discriminant: bool) -> Cost:
    """Parameters to edit in force: strengths, operator lookup, and new vectors behind the hooks."""
    writers = tuple(
        Writer(f"{layer}.{component.split('.')[0]}", component, layer, (d, d), 1, (), ())
        for layer in range(LAYERS)
        for component in (ATTENTION, MLP)
    )
    anatomy = Anatomy(tuple(map(str, range(LAYERS))), writers, d)
    # The writers' own weights play no part in switching; identities stand in for them.
    model = nn.ModuleList(
        nn.ModuleDict({"attn": nn.Identity(), "mlp": nn.Identity()}) for _ in range(LAYERS)
    )
    directions = unit(torch.randn(LAYERS, d))
    if discriminant:
        operator = orthogonal(unit(torch.randn(2 * LAYERS, d)))
        bank = Bank(local={RIDGES[2]: operator})
        candidate = Candidate("discriminant", KERNELS, ridge=RIDGES[2])
    else:
        bank = Bank(residual_bank(directions, anatomy, torch.ones(2 * LAYERS, d), None))
        candidate = Candidate("orthogonal", KERNELS, direction_index=17.3)
    token = torch.zeros(1, 1, d)

    with VirtualEdits(model, anatomy.names) as edits:

        def switch() -> None:
            edits.use(edit_of(candidate, bank, anatomy))
            model[0]["attn"](token)  # the first use of an edit prepares it for all writers

        switch()
        return cost(switch, repeats=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        f"{described()}. Processor time (all threads) and peak memory beyond the weights.",
        "",
        "| d | weights | dense projector | rank-1 in place | virtual, discriminant (60 writers) "
        "| virtual, orthogonal (60 writers) |",
        "|---|---|---|---|---|---|",
    ]
    with torch.inference_mode():
        for d in options.widths:
            hooks = [virtual(d, discriminant=True), virtual(d, discriminant=False)]
            for name, shape in (("one d × d", (d, d)), ("60 experts", (EXPERTS, d, EXPERT_WIDTH))):
                weight, r = torch.randn(shape), unit(torch.randn(d))
                costs = [dense(weight, r), rank_one(weight, r), *hooks]
                lines.append(f"| {d} | {name} | " + " | ".join(map(shown, costs)) + " |")
                print(lines[-1], flush=True)
                del weight
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def shown(spent: Cost) -> str:
    return f"{1e3 * spent.seconds:,.2f} ms, {spent.bytes / 2**20:,.1f} MiB"


if __name__ == "__main__":
    main()
