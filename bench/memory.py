"""Memory of a run, beside that of the loaded model: `python bench/memory.py`.

The demonstration model, and a random model of the shape of Qwen3-0.6B in float32 (2.4 GB) with the same
tokenizer: a small one and one as large as people have. Each goes through the stages of a run up to and with a
trial that waits for every verdict, in a process of its own. Resident memory, Python and its libraries
included; what counts is what the stages add to the loaded model.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer

from bench.machine import described, forget_peak, peak_resident, resident
from bench.random_models import SHAPES, random_model
from excise.app.profile import profile
from excise.config import gather
from excise.demo.model import materialise
from excise.demo.settings import demo_flags
from excise.events import Event, StageStarted
from excise.models.events import ModelLoaded

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "memory.md"
SHAPE = "Qwen3-0.6B"
OF_A_SEARCH = ("trials", "startup_trials", "search_seconds", "select", "save")


def stages(model: Path, tokens: int, prompts: int) -> dict[str, int]:
    """Bytes resident once the model is loaded, and at most during each stage from then on."""
    found: dict[str, int] = {}
    stage = ""

    def listen(event: Event) -> None:
        nonlocal stage
        if isinstance(event, ModelLoaded):
            found["loaded"] = resident()
            stage = "coverage and batch size"
            forget_peak()
        elif isinstance(event, StageStarted) and stage:
            found[stage] = peak_resident()
            stage = event.stage
            forget_peak()

    flags = {name: value for name, value in demo_flags(model).items() if name not in OF_A_SEARCH}
    for name in ("target_search", "control_search", "target_train", "control_train"):
        flags[name] = f"{flags[name]}[:{prompts}]"
    profile(gather(flags | {"max_new_tokens": tokens}, {}, None), listen)
    found[stage] = peak_resident()
    return found


def random_folder(folder: Path) -> None:
    """A random model of a usual size, with the demonstration model's tokenizer and its vocabulary."""
    demo = materialise(print)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    config = SHAPES[SHAPE]()
    config.eos_token_id = tokenizer.eos_token_id
    model = random_model(config, torch.device("cpu"), torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def line(name: str, found: Mapping[str, int]) -> str:
    loaded = found["loaded"]
    cells = [
        f"{stage} {size / 2**20:,.0f} MiB ({size / loaded:.2f})"
        for stage, size in found.items()
        if stage != "loaded"
    ]
    return f"| {name} | {loaded / 2**20:,.0f} MiB | {' · '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(stages(Path(options.one[0]), options.tokens, int(options.one[1]))))
        return
    lines = [
        "# Memory of a run",
        "",
        f"`python {' '.join(sys.argv)}`. {described()}. Answers of {options.tokens} tokens. In brackets: "
        "as a multiple of the loaded model.",
        "",
        "| model | loaded | peak of each stage |",
        "|---|---|---|",
    ]
    (ROOT / "build").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=ROOT / "build") as temporary:
        folder = Path(temporary) / SHAPE
        random_folder(folder)
        for name, model, prompts in (
            ("demonstration, 135 M parameters", materialise(print), 100),
            (f"random, shape of {SHAPE}", folder, 40),
        ):
            command = [sys.executable, __file__, "--tokens", str(options.tokens), "--one"]
            done = subprocess.run(
                [*command, str(model), str(prompts)], capture_output=True, text=True, check=True
            )
            lines.append(line(name, json.loads(done.stdout.splitlines()[-1])))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
