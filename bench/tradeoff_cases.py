"""What bench/tradeoff.py runs on: three models with their prompts, and the settings of a run on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.refusing_model import save_base, train_refusing_model
from excise.config import Settings, gather
from excise.demo.model import materialise
from excise.demo.settings import PROMPTS

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench" / "tradeoff"
HABIT = Path(__file__).parent / "prompts"
TOKENS = 32


@dataclass(frozen=True)
class Case:
    """A model and prompts. search: how many of the search prompts are used; held-out ones all are.

    every_kind: whether the closed form of every kind and ablation is scored, and that of two directions.
    """

    name: str
    title: str
    model: Callable[[], Path]
    prompts: str
    search: int
    markers: Path | None = None
    every_kind: bool = False


CASES = (
    Case("demo", "Demonstration model (low-rank refusals)", lambda: materialise(print),
         str(PROMPTS / "{}.txt"), 100, every_kind=True),
    Case("tuned", "Fully fine-tuned refusing model", train_refusing_model,
         str(PROMPTS / "{}.txt"), 50),
    Case("habit", "Numbered lists of the unmodified base model", save_base,
         str(HABIT / "habit_{}.txt"), 50, HABIT / "habit_markers.txt"),
)  # fmt: skip


def settings_of(
    case: Case, model: Path, markers: Sequence[str], name: str, **more: object
) -> Settings:
    """The settings of one excise run of a case."""
    flags: dict[str, object] = {
        "model": str(model),
        "dtype": "float32",
        "max_new_tokens": TOKENS,
        "response_prefix": "",
        "markers": json.dumps(list(markers)),
        "run_dir": WORK / case.name / name,
    }
    for kind in ("target", "control"):
        for part in ("train", "search", "held_out"):
            path = case.prompts.format(f"{kind}_{part}")
            flags[f"{kind}_{part}"] = f"{path}[:{case.search}]" if part == "search" else path
    return gather({**flags, **more}, {}, Path("/dev/null"))


def prompt_files(case: Case) -> dict[str, Path]:
    """The files that heretic reads: the same prompts."""
    folder = WORK / case.name / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    for name in (
        f"{kind}_{part}" for kind in ("target", "control") for part in ("train", "search")
    ):
        lines = Path(case.prompts.format(name)).read_text(encoding="utf-8").splitlines()
        lines = lines[: case.search] if name.endswith("search") else lines
        files[name] = folder / f"{name}.txt"
        files[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files
