"""What `excise diff` takes for one large matrix: `python bench/diff.py`.

A bfloat16 matrix 4096 × 14336, the down projection of an 8-billion-parameter model, against its edited
version: an orthogonal edit, one with another v, which has to be solved for, and noise on every number as
training leaves it. The report goes to docs/benchmarks/diff.md.
"""

from __future__ import annotations

import sys

if not __package__:
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.machine import cost, described
from excise.anatomy.writers import WriterTensor
from excise.checkpoint_diff.compare import compare_tensors
from excise.checkpoint_diff.diff import open_compared
from excise.checkpoint_diff.difference import Diff
from excise.checkpoint_diff.layout import Place
from excise.operators.operator import unit

D, K, STRENGTH = 4096, 14336, 0.9
NAME = "model.layers.0.mlp.down_proj"


def write(kind: str, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = (0.02 * torch.randn(D, K, generator=generator)).bfloat16().float()
    u = unit(torch.randn(D, generator=generator))
    v = u if kind == "orthogonal" else u + torch.randn(D, generator=generator) / 64
    if kind == "training":
        edited = weight + 0.002 * torch.randn(D, K, generator=generator)
    else:
        v = v / (v @ u)
        edited = weight - STRENGTH * torch.outer(u, v @ weight)
    for name, tensor in (("a", weight), ("b", edited)):
        save_file({f"{NAME}.weight": tensor.bfloat16()}, folder / f"{name}.safetensors")


def measured(kind: str, folder: Path) -> str:
    write(kind, folder)
    first, second = (open_compared(str(folder / f"{name}.safetensors")) for name in "ab")
    tensor = WriterTensor(f"{NAME}.weight", (D, K), 0, False)
    reports: list[Diff] = []
    taken = cost(
        lambda: reports.append(
            compare_tensors(first, second, {tensor.name: Place(tensor, 0, 0, NAME)})
        )
    )
    (change,) = reports[0].changed
    rank = f"{change.rank} or more" if change.more else str(change.rank)
    found = [f"{one.operator.kind}, α {one.operator.strength:.4f}" for one in reports[0].writers]
    return (
        f"| {kind} | {rank} | {found[0] if found else '–'} | {taken.seconds:.0f} s | "
        f"{taken.bytes / 2**20:.0f} MiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/diff.md"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows: list[str] = []
    for kind in ("orthogonal", "oblique", "training"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(kind, Path(folder)))
        print(rows[-1], flush=True)
    out.write_text(
        "\n".join(
            (
                "# Comparing one large matrix",
                "",
                f"`python bench/diff.py`: a bfloat16 matrix {D} × {K} against its edited version (α =",
                f"{STRENGTH}), or one with noise on every number. Processor time, and peak memory beyond the",
                f"start, the files' pages counted. {described()}.",
                "",
                "| change | reported rank | reported operator | time | memory |",
                "|---|---|---|---|---|",
                *rows,
                "",
            )
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
