"""A second refusing model, made by training all weights: `python bench/refusing_model.py`.

The demonstration model is the base model with a low-rank adapter merged in, and a low-rank edit might have
an easy time with it. This one learns the same refusals on the same prompts with every weight free. It is
for the benchmark only and is not shipped.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import time
from pathlib import Path

import torch

from excise.demo.model import load_base
from excise.system.files import new_folder

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "bench" / "refusing-model"
BASE = ROOT / "build" / "bench" / "base-model"
TRAINING = ROOT / "scripts" / "demo_model"


def save_base() -> Path:
    """The unmodified base model as a plain folder, made on first use."""
    if not BASE.exists():
        model, tokenizer = load_base()
        BASE.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(BASE) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return BASE


def train_refusing_model() -> Path:
    """The refusing model's folder, trained on first use: some five minutes on two cores."""
    if FOLDER.exists():
        return FOLDER
    sys.path.append(str(TRAINING))
    from train import SEED, Batches, Phase, train_phase  # type: ignore[import-not-found]

    phases = (
        Phase(steps=120, rate=5e-5, target=6, control=6, whole_every=4),
        Phase(steps=30, rate=2e-5, target=4, control=8, whole_every=1),
    )
    model, tokenizer = load_base()
    started = time.monotonic()
    data = Batches(tokenizer, ROOT / "build" / "demo_model" / "teacher_answers.json")
    torch.manual_seed(SEED)
    model.train().requires_grad_(True)
    for number, phase in enumerate(phases):
        train_phase(model, data, phase, SEED + number)
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(FOLDER) as folder:
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"trained in {time.monotonic() - started:.0f} s", flush=True)
    return FOLDER


if __name__ == "__main__":
    print(train_refusing_model())
