"""How far another machine's rounding moves an edit: what `excise reproduce` allows is measured here.

    python -m bench.rounding [--prompts 100] [--dtype float32] [--cases "7 prompts a pass"]

The operators of the closed forms are made several times from the same prompts: with this processor's
widest instructions, with its plain ones (another order of every sum, as on another machine), and with
other numbers of prompts a pass. Printed for each kind: the largest and the median ‖ΔW − ΔW'‖ / ‖ΔW‖ over
writers, where ΔW = u (vᵀ W) is what strength 1 takes off a writer's matrix W.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.machine import described

KEYS: tuple[tuple[str, float | None], ...] = (
    ("discriminant", 1e-3),
    ("discriminant", 1e-2),
    ("orthogonal", None),
)
"""Kinds, with each ridge that is looked at."""
PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
CASES: dict[str, tuple[dict[str, str], int]] = {
    "as it is": ({}, 32),
    "again": ({}, 32),
    "plain instructions": (PLAIN, 32),
    "7 prompts a pass": ({}, 7),
}


def changes(prompts: int, dtype: str, rows: int) -> dict[str, torch.Tensor]:
    """What strength 1 takes off each writer's matrix: [writer, 2, …] as its factors u and vᵀW."""
    from excise.app.model import experiment_of, load_model
    from excise.checkpoint.source import resolve
    from excise.config import gather
    from excise.config.prompt_sources import prompt_sources
    from excise.demo.model import materialise
    from excise.demo.settings import demo_flags
    from excise.events import ignore
    from excise.models.weights import dense
    from excise.prompts.read import load_parts
    from excise.search.space import Candidate

    flags = demo_flags(materialise(lambda text: None))
    for kind in ("target", "control"):
        flags[f"{kind}_train"] = f"{flags[f'{kind}_train']}[:{prompts}]"
    flags |= {"kinds": ["discriminant", "orthogonal"], "batch_size": 32, "dtype": dtype}
    settings = gather(flags, {}, Path(os.devnull))
    loaded = load_model(settings, resolve(settings.model), ignore)
    prompts = load_parts(prompt_sources(settings))
    experiment = experiment_of(settings, loaded, prompts, ignore, rows=rows)
    anatomy, bank = experiment.anatomy, experiment.bank
    found: dict[str, torch.Tensor] = {}
    for kind, ridge in KEYS:
        operator = bank.operator(Candidate(kind, ridge=ridge))  # type: ignore[arg-type]
        for index, writer in enumerate(anatomy.writers):
            owner, _, name = writer.tensors[0].name.rpartition(".")
            weight = dense(loaded.model.get_submodule(owner), name).to(torch.float32)
            label = kind if ridge is None else f"{kind}, ρ {ridge:g}"
            found[f"{label}|{index}|u"] = operator.u[index].clone()
            found[f"{label}|{index}|vW"] = operator.v[index] @ weight
    return found


def differences(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> dict[str, list[float]]:
    """Relative Frobenius distances of the rank-1 changes, by kind."""
    result: dict[str, list[float]] = {}
    for key in (key for key in one if key.endswith("|u")):
        label, index, _ = key.split("|")
        pairs = [
            (each[key].double(), each[f"{label}|{index}|vW"].double()) for each in (one, other)
        ]
        (u, a), (w, b) = pairs
        size = (u @ u) * (a @ a)
        gap = size + (w @ w) * (b @ b) - 2 * (u @ w) * (a @ b)
        result.setdefault(label, []).append(float((gap.clamp(min=0) / size).sqrt()))
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cases", nargs="+", choices=list(CASES)[1:], default=list(CASES)[1:])
    parser.add_argument("--child", nargs=2, metavar=("ROWS", "FILE"))
    given = parser.parse_args()
    if given.child:
        torch.save(changes(given.prompts, given.dtype, int(given.child[0])), given.child[1])
        return
    print(described())
    print(f"demonstration model, {given.dtype}, {given.prompts} + {given.prompts} train prompts")
    with tempfile.TemporaryDirectory() as folder:
        found = []
        names = [next(iter(CASES)), *given.cases]
        for index, (environment, rows) in enumerate(CASES[name] for name in names):
            path = f"{folder}/{index}.pt"
            arguments = ["--prompts", str(given.prompts), "--dtype", given.dtype]
            subprocess.run(
                [sys.executable, "-m", "bench.rounding", *arguments, "--child", str(rows), path],
                env={**os.environ, **environment},
                check=True,
            )
            found.append(torch.load(path))
        for name, other in list(zip(names, found, strict=True))[1:]:
            for label, values in differences(found[0], other).items():
                middle = sorted(values)[len(values) // 2]
                print(f"{name:20} {label:32} largest {max(values):.1e}  median {middle:.1e}")


if __name__ == "__main__":
    main()
