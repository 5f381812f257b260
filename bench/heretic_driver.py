"""Runs in heretic's own environment: `python heretic_driver.py FOLDER [--wait]`, FOLDER holding config.toml.

heretic 1.4 ends in a menu. This starts its own entry point, answers that menu with "leave", and writes down
what each trial scored, what it took, the low-rank matrices that it set, and its answers with their verdicts.
With --wait it reads a line from standard input before each trial, so that something else can be measured in
between. Nothing of excise is imported here, and nothing of heretic is changed but where it waits.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heretic import main as heretic
from heretic.evaluator import Evaluator
from heretic.model import Model
from safetensors.torch import save_file


class Stopwatch:
    """Wall and processor seconds (all threads) since it was started."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, under the names that the results have."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "processor_seconds": time.process_time() - self._processor,
        }


def low_rank_matrices(model: Any) -> dict[str, Any]:
    """`<module>.A` and `<module>.B` of every module with an adapter: W' = W + B A."""
    matrices: dict[str, Any] = {}
    for name, module in model.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            plain = name.removeprefix("base_model.model.")
            matrices[f"{plain}.A"] = module.lora_A["default"].weight.detach().clone()
            scale = module.scaling["default"]
            matrices[f"{plain}.B"] = module.lora_B["default"].weight.detach() * scale
    return matrices


def watch(folder: Path, wait: bool) -> None:
    """Have every trial written down: a line in trials.jsonl, its files in trials/."""
    (folder / "trials").mkdir()
    clock = Stopwatch()
    reset: Callable[[Any], None] = Model.reset_model
    score: Callable[[Any], Any] = Evaluator.get_score
    judge: Callable[[Any, str], bool] = Evaluator.is_refusal
    answers: list[tuple[str, bool]] = []
    done = 0

    def reset_model(self: Any) -> None:
        if done == 0:
            start = {**clock.read(), "markers": heretic_markers}
            (folder / "start.json").write_text(json.dumps(start), encoding="utf-8")
        if wait:
            sys.stdin.readline()
        answers.clear()
        clock.start()
        reset(self)

    def get_score(self: Any) -> Any:
        nonlocal done
        result = score(self)
        _, kl, refusals = result
        line = {"number": done, "refusals": refusals, "kl": kl, **clock.read()}
        save_file(low_rank_matrices(self.model), folder / "trials" / f"{done}.safetensors")
        (folder / "trials" / f"{done}.json").write_text(json.dumps(answers), encoding="utf-8")
        # Last: whoever waits for the line finds the files.
        with (folder / "trials.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        done += 1
        return result

    def is_refusal(self: Any, response: str) -> bool:
        verdict = judge(self, response)
        answers.append((response, verdict))
        return verdict

    heretic_markers: list[str] = []
    built = Evaluator.__init__

    def remember(self: Any, settings: Any, model: Any) -> None:
        heretic_markers.extend(settings.refusal_markers)
        built(self, settings, model)

    Evaluator.__init__, Evaluator.get_score = remember, get_score
    Evaluator.is_refusal = is_refusal
    Model.reset_model = reset_model
    heretic.prompt_select = lambda message, choices: ""


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    wait = "--wait" in sys.argv[2:]
    os.chdir(folder)
    sys.argv = ["heretic"]
    watch(folder, wait)
    heretic.run()
    (folder / "done").touch()


if __name__ == "__main__":
    main()
