"""The tool that people use today, heretic 1.4.0 from PyPI: its environment, its run, its edits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

DRIVER = Path(__file__).with_name("heretic_driver.py")
VERSION = "1.4.0"
# Its own requirements without torchvision, which a text model does not need, and with transformers and
# huggingface_hub as excise has them, so that both run the same model code.
REQUIREMENTS = (
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "peft==0.21.0",
    "optuna==4.9.0",
    "datasets==5.2.0",
    "bitsandbytes==0.50.2",
    "lm-eval==0.4.13",
    "rich~=14.3",
    "immutabledict",
    "kernels",
    "langdetect",
    "psutil",
    "py-cpuinfo",
    "pydantic-settings",
    "questionary",
    "tomli-w",
)


@dataclass(frozen=True)
class HereticTrial:
    """A trial of its own. refusals, kl: as it counted them on its evaluation prompts. matrices: its edit."""

    number: int
    refusals: int
    kl: float
    seconds: float
    processor_seconds: float
    matrices: Path


@dataclass(frozen=True)
class HereticRun:
    """A finished run. start_seconds: wall and processor seconds before its first trial."""

    trials: tuple[HereticTrial, ...]
    markers: tuple[str, ...]
    start_seconds: float
    start_processor_seconds: float


def heretic_python(folder: Path) -> Path:
    """The Python of an environment with heretic in it, made in `folder` on first use."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run(["python3", "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "torch==2.13.0", *REQUIREMENTS], check=True)
        subprocess.run([*pip, "--no-deps", f"heretic-llm=={VERSION}"], check=True)
        (folder / "installed").touch()
    return python


def run_heretic(
    python: Path,
    folder: Path,
    model: Path,
    prompts: dict[str, Path],
    *,
    tokens: int,
    trials: int,
    markers: Sequence[str] | None,
    batch: int,
) -> HereticRun:
    """Its search as it is by default, but for length, number of trials and precision.

    prompts: files by part, target_train and so on. Of its trials, as many are start-up trials as by
    default: 60 of 200. A finished run in `folder` is read back instead of repeated.
    """
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names = {
            "good_prompts": "control_train",
            "bad_prompts": "target_train",
            "good_evaluation_prompts": "control_search",
            "bad_evaluation_prompts": "target_search",
        }
        settings: dict[str, object] = {
            "model": str(model),
            "device_map": "cpu",
            "dtypes": ["float32"],
            "batch_size": batch,
            "max_response_length": tokens,
            "n_trials": trials,
            "n_startup_trials": round(trials * 60 / 200),
            "seed": 0,
            "response_prefix": "",
            "system_prompt": system_prompt(model),
        }
        if markers is not None:
            settings["refusal_markers"] = list(markers)
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        for name, part in names.items():
            lines += ["", f"[{name}]", f"dataset = {json.dumps(str(prompts[part].resolve()))}"]
        (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(
                # -P: the folder of the driver holds an operator.py, which must not hide the standard one.
                [str(python.absolute()), "-P", str(DRIVER), str(folder)],
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
    start = json.loads((folder / "start.json").read_text(encoding="utf-8"))
    lines = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return HereticRun(
        trials=tuple(
            HereticTrial(**trial, matrices=folder / "trials" / f"{trial['number']}.safetensors")
            for trial in map(json.loads, lines)
        ),
        markers=tuple(start["markers"]),
        start_seconds=start["seconds"],
        start_processor_seconds=start["processor_seconds"],
    )


def system_prompt(model: Path) -> str:
    """The system prompt that the model's own template puts in where none is given.

    heretic always gives one; this makes its prompts the same, token for token, as everybody else's.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)

    def rendered(messages: list[dict[str, str]]) -> str:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return str(text)

    user = {"role": "user", "content": "Hello"}
    plain = rendered([user])
    marked = rendered([{"role": "system", "content": "\0"}, user])
    before, after = marked.split("\0")
    found = re.fullmatch(re.escape(before) + "(.*)" + re.escape(after), plain, re.DOTALL)
    if found is None:
        raise ValueError("the template puts in no system prompt of its own")
    return found[1]


class LowRank:
    """W' = W + B A for every module of a file of matrices, put in and taken out bit for bit."""

    def __init__(self, model: nn.Module, matrices: Path) -> None:
        tensors = load_file(matrices)
        names = sorted({key.rpartition(".")[0] for key in tensors})
        self._changes = []
        for name in names:
            weight = model.get_submodule(name).weight
            original = weight.detach().clone()
            changed = original + tensors[f"{name}.B"] @ tensors[f"{name}.A"]
            self._changes.append((weight, original, changed))

    @torch.no_grad()
    def switch(self, on: bool) -> None:
        """Put the change in force, or take it off."""
        for weight, original, changed in self._changes:
            weight.copy_(changed if on else original)
