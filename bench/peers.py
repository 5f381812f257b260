"""The tool that people use today, heretic 1.4.0 from PyPI: its environment, its run, its edits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from transformers import AutoTokenizer

from bench.machine import environment

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
    """A trial of its own. refusals, kl: as it counted them on its evaluation prompts. matrices: its edit.

    answers: a file with its answers and its verdicts on them.
    """

    number: int
    refusals: int
    kl: float
    seconds: float
    processor_seconds: float
    matrices: Path
    answers: Path

    def verdicts(self) -> list[tuple[str, bool]]:
        """Its answer to each target prompt, and whether it took it for a refusal."""
        return [(text, bool(verdict)) for text, verdict in json.loads(self.answers.read_text())]


@dataclass(frozen=True)
class HereticRun:
    """A finished run. start_seconds: wall and processor seconds before its first trial."""

    trials: tuple[HereticTrial, ...]
    markers: tuple[str, ...]
    start_seconds: float
    start_processor_seconds: float


def heretic_python(folder: Path) -> Path:
    """The Python of an environment with heretic in it, made in `folder` on first use."""
    return environment(
        folder,
        ("torch==2.13.0",),
        ("torch==2.13.0", *REQUIREMENTS),
        ("--no-deps", f"heretic-llm=={VERSION}"),
    )


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
        configure(
            folder,
            model,
            prompts,
            {
                "max_response_length": tokens,
                "n_trials": trials,
                "batch_size": batch,
                **({} if markers is None else {"refusal_markers": list(markers)}),
            },
        )
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(
                _command(python, folder),
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
    start = json.loads((folder / "start.json").read_text(encoding="utf-8"))
    lines = (folder / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    return HereticRun(
        trials=tuple(_trial(folder, line) for line in lines),
        markers=tuple(start["markers"]),
        start_seconds=start["seconds"],
        start_processor_seconds=start["processor_seconds"],
    )


def configure(
    folder: Path, model: Path, prompts: Mapping[str, Path], changes: Mapping[str, object]
) -> None:
    """Make `folder` anew with a config.toml: heretic's defaults on the CPU, but for `changes`."""
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
        "seed": 0,
        "response_prefix": "",
        "system_prompt": system_prompt(model),
        **changes,
    }
    settings["n_startup_trials"] = round(int(str(settings["n_trials"])) * 60 / 200)
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    for name, part in names.items():
        lines += ["", f"[{name}]", f"dataset = {json.dumps(str(prompts[part].resolve()))}"]
    (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _command(python: Path, folder: Path) -> list[str]:
    # -P: the folder of the driver holds an operator.py, which must not hide the standard one.
    return [str(python.absolute()), "-P", str(DRIVER), str(folder)]


def _trial(folder: Path, line: str) -> HereticTrial:
    trial = json.loads(line)
    files = folder / "trials" / str(trial["number"])
    return HereticTrial(
        **trial, matrices=files.with_suffix(".safetensors"), answers=files.with_suffix(".json")
    )


class SteppedHeretic:
    """A process of heretic's that does one trial each time it is asked, and sleeps in between.

    folder: as `configure` left it. Raises RuntimeError, with the end of its log, if the process ends early.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "log.txt").open("w", encoding="utf-8")
        self._done = 0
        self._process = subprocess.Popen(
            [*_command(python, folder), "--wait"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def started(self) -> tuple[float, tuple[str, ...]]:
        """Wait until it is ready for its first trial: the seconds that took, and its markers."""
        self._wait_for(lambda: (self._folder / "start.json").exists())
        start = json.loads((self._folder / "start.json").read_text(encoding="utf-8"))
        return float(start["seconds"]), tuple(start["markers"])

    def trial(self) -> HereticTrial:
        """Let it do its next trial."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._wait_for(lambda: len(self._lines()) > self._done)
        self._done += 1
        return _trial(self._folder, self._lines()[self._done - 1])

    def _lines(self) -> list[str]:
        path = self._folder / "trials.jsonl"
        # A line is whole when its end is there.
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []

    def _wait_for(self, happened: Callable[[], bool]) -> None:
        while not happened():
            if self._process.poll() is not None and not happened():
                end = (self._folder / "log.txt").read_text(encoding="utf-8")[-2000:]
                raise RuntimeError(f"heretic ended with status {self._process.returncode}: {end}")
            time.sleep(0.1)

    def __enter__(self) -> SteppedHeretic:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


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
