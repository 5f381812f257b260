"""Editing a layer of experts: `python bench/moe.py`.

Experts of published models' widths (Qwen1.5-MoE-A2.7B: 60 of 2048 × 1408; Qwen3-30B-A3B: 128 of 2048 × 768),
float32, in transformers' own modules, edited in three ways:

virtual    the change to another operator in excise's hook on the block's output
in place   W − α u (vᵀ W) for every expert's down projection, what a tool does that writes weights
dense      W − α (r rᵀ) W with the projector built, for every expert

The virtual edit also has a cost for every token; the others do not. The last two columns show this cost, and
the time that the block itself takes for the same tokens.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from bench.machine import Cost, cost, described
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.operators.operator import orthogonal, unit

TOKENS, TOP = 1024, 4
STRENGTH = 0.8


def layers() -> dict[str, tuple[type[nn.Module], PreTrainedConfig]]:
    """The two layers: name → module class and configuration."""
    shared = {"hidden_size": 2048, "num_experts_per_tok": TOP, "experts_implementation": "eager"}
    return {
        "60 experts, 2048 × 1408": (
            Qwen2MoeExperts,
            Qwen2MoeConfig(num_experts=60, moe_intermediate_size=1408, **shared),
        ),
        "128 experts, 2048 × 768": (
            Qwen3MoeExperts,
            Qwen3MoeConfig(num_experts=128, moe_intermediate_size=768, **shared),
        ),
    }


def edit_of(d: int) -> Edit:
    operator = orthogonal(unit(torch.randn(1, d)))
    return Edit("orthogonal", ("experts",), operator.u, operator.v, torch.tensor([STRENGTH]))


def in_place(weight: torch.Tensor, r: torch.Tensor) -> Cost:
    def update() -> None:
        for matrix in weight.unbind():
            matrix.addr_(r, r @ matrix, alpha=-STRENGTH)

    return cost(update, repeats=3)


def dense(weight: torch.Tensor, r: torch.Tensor) -> Cost:
    def update() -> None:
        projector = STRENGTH * torch.outer(r, r)
        for matrix in weight.unbind():
            matrix.sub_(projector @ matrix)

    return cost(update)


def virtual(model: nn.Module, d: int) -> tuple[Cost, Cost]:
    """Cost of a new edit in force, and of the hook on TOKENS tokens."""
    # A stand-in for the block puts out what it is given, so that only the hook's work is measured.
    output = torch.randn(TOKENS, d)
    stand_in = nn.ModuleDict({"experts": nn.Identity()})
    edits_of_trials = [edit_of(d) for _ in range(50)]
    with VirtualEdits(stand_in, ("experts",)) as edits:
        token = torch.randn(1, d)
        trials = iter(edits_of_trials * 4)

        def switch() -> None:
            edits.use(next(trials))
            stand_in["experts"](token)  # the first use of an edit prepares it

        switch()
        switching = cost(switch, repeats=100)
        applying = cost(lambda: stand_in["experts"](output), repeats=20)
    return switching, applying


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        f"{described()}. Processor time (all threads) and peak memory beyond the weights; "
        f"{TOKENS} tokens, {TOP} experts each.",
        "",
        "| layer | virtual | in place | dense projector | in place / virtual "
        "| hook on the tokens | block on the tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    with torch.inference_mode():
        for name, (kind, config) in layers().items():
            config._experts_implementation = "eager"
            block = kind(config)
            for parameter in block.parameters():
                parameter.normal_(std=0.02)
            d, r = config.hidden_size, unit(torch.randn(config.hidden_size))
            switching, applying = virtual(block, d)
            hidden = torch.randn(TOKENS, d)
            chosen = torch.randint(0, config.num_experts, (TOKENS, TOP))
            running = cost(partial(block, hidden, chosen, torch.full((TOKENS, TOP), 1 / TOP)))
            written = in_place(block.down_proj, r)
            projected = dense(block.down_proj, r)
            cells = [switching, written, projected]
            lines.append(
                f"| {name} | "
                + " | ".join(map(shown, cells))
                + f" | {written.seconds / switching.seconds:,.0f} × "
                + f"| {1e3 * applying.seconds:,.1f} ms | {1e3 * running.seconds:,.0f} ms |"
            )
            print(lines[-1], flush=True)
            del block
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


def shown(spent: Cost) -> str:
    return f"{1e3 * spent.seconds:,.2f} ms, {spent.bytes / 2**20:,.2f} MiB"


if __name__ == "__main__":
    main()
