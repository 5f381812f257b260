"""Whole runs wherever a model lies: each gives what the one on the CPU gives, to the digit.

A run is coverage, baseline, directions, trials of several candidates side by side that begin at cached
layers, the held-out report, a saved model, and chat. Virtual devices take the CPU's numbers; a real GPU has
its own, so that there two runs are compared, and their figures with the CPU's within rounding.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_helpers import result
from conftest import tiny_model, tiny_tokenizer, write_prompts
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.config.memory import memory_limits
from excise.engine import cached_layers
from excise.models.load import load
from excise.models.options import LoadOptions
from virtual_devices import VirtualDevices

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

PROMPTS = 6
TRIALS = 4
_ELSEWHERE = ("seconds", "circumstances", "trials", "device", "sha256")
_SLOW = ("second of two GPUs", "partly on a GPU")
"""Variants of the others, of which the fast tests need none."""


@dataclass(frozen=True)
class Place:
    """Where a run has its model. flags: of the command line; on: where weights lie between passes."""

    flags: tuple[str, ...]
    machine: Callable[[], AbstractContextManager[object]]
    on: frozenset[str]

    @property
    def limits(self) -> list[str]:
        """The value of --max-memory."""
        values = dict(zip(self.flags[::2], self.flags[1::2], strict=True))
        return [one for one in values.get("--max-memory", "").split(",") if one]


def _virtual(count: int) -> Callable[[], VirtualDevices]:
    return lambda: VirtualDevices(count)


PLACES = {
    "one GPU": Place(("--device", "cuda"), _virtual(1), frozenset({"cuda:0"})),
    "second of two GPUs": Place(("--device", "cuda:1"), _virtual(2), frozenset({"cuda:1"})),
    "layers on two GPUs": Place(
        ("--max-memory", "0=100KiB,1=1GiB"), _virtual(2), frozenset({"cuda:0", "cuda:1"})
    ),
    "partly on disk": Place(
        ("--max-memory", "cpu=80KiB", "--offload-folder", "offloaded"),
        nullcontext,
        frozenset({"cpu", "meta"}),
    ),
    "partly on a GPU": Place(
        ("--max-memory", "0=90KiB,cpu=40KiB", "--offload-folder", "offloaded"),
        _virtual(1),
        frozenset({"cuda:0", "meta"}),
    ),
}
REAL = {
    "a real GPU": Place(("--device", "cuda"), nullcontext, frozenset({"cuda:0"})),
    "a real GPU and the disk": Place(
        ("--max-memory", "0=90KiB,cpu=40KiB", "--offload-folder", "offloaded"),
        nullcontext,
        frozenset({"cuda:0", "meta"}),
    ),
}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose numbers begin at a multiple of 64 bytes in their file.

    From there they are mapped into memory on a CPU, and copied elsewhere: the last digit of a product depends
    on where its numbers lie.
    """
    folder = tmp_path_factory.mktemp("models") / "aligned"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    spaces = b" " * (-(8 + size) % 64)
    header = content[8 : 8 + size] + spaces
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])
    return folder


@pytest.fixture(scope="module")
def command(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    flags = write_prompts(tmp_path_factory.mktemp("prompts"), PROMPTS)
    return [
        str(aligned),
        *(f"--{name.replace('_', '-')}={path}" for name, path in flags.items()),
        *("--trials", str(TRIALS), "--startup-trials", "2", "--max-new-tokens", "4"),
        *("--batch-size", "6", "--candidates", "2", "--dtype", "float32"),
        *("--allow-absent", "--markers", "e,o", "--select", "knee", "--yes"),
    ]


@dataclass(frozen=True)
class Outcome:
    """What a run found and wrote, and what its model then said. replays: passes from a start layer."""

    record: dict[str, Any]
    saved: dict[str, torch.Tensor]
    edits: dict[str, dict[str, torch.Tensor]]
    said: str
    replays: int


def run(command: list[str], directory: Path, flags: tuple[str, ...]) -> Outcome:
    replays = 0
    with pytest.MonkeyPatch.context() as patch:

        def counted(self: cached_layers.CachedLayers, start_layer: int) -> object:
            nonlocal replays
            replays += 1
            return replaying(self, start_layer)

        replaying = cached_layers.CachedLayers.replaying
        patch.setattr(cached_layers.CachedLayers, "replaying", counted)
        patch.setattr(
            cached_layers.CachedLayers,
            "forget",
            lambda *_: pytest.fail("a start_layer was not proven"),
        )
        saved = directory / "saved"
        status = main([*command, *flags, "--run-dir", str(directory / "run"), "--save", str(saved)])
        assert status == 0
        patch.setattr("sys.stdin", io.StringIO("hello\nbake the cake\n/quit\n"))
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        assert main(["chat", str(directory / "run"), *flags]) == 0
    return Outcome(
        result(directory / "run"),
        load_file(saved / "model.safetensors"),
        {path.name: load_file(path) for path in sorted((directory / "run").glob("edit-*"))},
        out.getvalue().partition("Chat; ")[2],
        replays,
    )


@pytest.fixture(scope="module")
def reference(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run on the CPU."""
    return run(command, tmp_path_factory.mktemp("reference"), ("--device", "cpu"))


def figures(outcome: Outcome) -> dict[str, Any]:
    """The record but for times, the machine, and the hash over all of it."""
    record = {key: value for key, value in outcome.record.items() if key not in _ELSEWHERE}
    trials = [
        {key: value for key, value in trial.items() if key != "seconds"}
        for trial in outcome.record["trials"]
    ]
    return {**record, "trials": trials}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def lies_on(place: Place, model: Path, folder: Path) -> set[str]:
    """The devices of the parameters of a model that is loaded as the run loads it."""
    limits = place.limits
    loaded = load(
        resolve(str(model)),
        LoadOptions(
            dtypes=("float32",),
            device="auto" if limits else place.flags[1],
            max_memory=memory_limits(limits),
            offload_folder=folder if limits else None,
        ),
    )
    return {str(parameter.device) for parameter in loaded.model.parameters()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in _SLOW)) for name in PLACES]
)
def test_a_run_gives_what_one_on_the_cpu_gives(
    name: str, command: list[str], reference: Outcome, aligned: Path, tmp_path: Path
) -> None:
    place = PLACES[name]
    with place.machine():
        assert lies_on(place, aligned, tmp_path / "tried") == place.on
        found = run(command, tmp_path / "run", place.flags)
    assert figures(found) == figures(reference)
    assert len(found.record["trials"]) == TRIALS
    assert found.edits.keys() == reference.edits.keys() != set()
    for name, edit in found.edits.items():
        assert equal(edit, reference.edits[name])
    assert equal(found.saved, reference.saved)
    assert found.said == reference.said
    assert "model: " in found.said
    assert found.replays == reference.replays > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", REAL)
def test_runs_on_a_real_gpu_are_alike_and_close_to_the_one_on_the_cpu(
    name: str, command: list[str], reference: Outcome, aligned: Path, tmp_path: Path
) -> None:
    place = REAL[name]
    assert lies_on(place, aligned, tmp_path / "tried") == place.on
    found = run(command, tmp_path / "first", place.flags)
    again = run(command, tmp_path / "second", place.flags)
    assert figures(found) == figures(again)
    assert found.said == again.said
    assert all(equal(edit, again.edits[key]) for key, edit in found.edits.items())
    assert found.replays > 0
    # Trials behind the first ones follow every digit of those before: the first two do not.
    for there, here in zip(found.record["trials"][:2], reference.record["trials"][:2], strict=True):
        assert there["parameters"] == here["parameters"]
        assert there["kl"] == pytest.approx(here["kl"], rel=1e-2)
