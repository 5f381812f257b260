"""Applying an edit to a large checkpoint: `python bench/apply.py`.

A synthetic checkpoint in bfloat16 (a Llama of width 4096, random numbers, shards of 1 GB) is written under
build/, copied file by file, and edited by `excise apply`, a process of its own whose peak memory is
measured. Every writer is edited. All three end with the files on disk (fsync), and begin with none of the
original in the page cache. What was written is deleted at the end.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import torch
from transformers import LlamaConfig

from bench.machine import described
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.checkpoint.tensors import Entry, safetensors_header
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.models.meta_model import meta_model
from excise.operators.operator import orthogonal, unit

SHARD = 10**9
WIDTH = 4096
BLOCK = 1 << 24


def config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def write_checkpoint(folder: Path, layers: int) -> None:
    """Random numbers under the model's own names, without the model ever being in memory."""
    folder.mkdir(parents=True)
    config(layers).save_pretrained(folder)
    model = meta_model("synthetic", folder, trust_remote_code=False)
    shards: list[list[Entry]] = [[]]
    for name, tensor in model.state_dict().items():
        if sum(one.size for one in shards[-1]) > SHARD:
            shards.append([])
        shards[-1].append(Entry(name, "BF16", tuple(tensor.shape), 0, 2 * tensor.numel()))
    numbers = (0.02 * torch.randn(BLOCK // 2)).to(torch.bfloat16).view(torch.uint8).numpy()
    weight_map: dict[str, str] = {}
    for index, shard in enumerate(shards, 1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(safetensors_header(shard, {"format": "pt"}))
            for entry in shard:
                for start in range(0, entry.size, BLOCK):
                    file.write(numbers[: min(BLOCK, entry.size - start)])
                weight_map[entry.name] = name
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_edit(folder: Path, path: Path) -> int:
    """An orthogonal edit of every writer; returns how many there are."""
    anatomy = examine(meta_model("synthetic", folder, trust_remote_code=False))
    count = len(anatomy.names)
    operator = orthogonal(unit(torch.randn(count, WIDTH)))
    base = Base.of(resolve(str(folder)))
    strengths = torch.full((count,), 0.9)
    Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths, base=base).save(path)
    return count


def forget(folder: Path) -> None:
    """Have the folder's files on disk, and none of them in memory."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copied(source: Path, target: Path) -> float:
    """Seconds that copying the files takes."""
    started = time.perf_counter()
    target.mkdir()
    for path in sorted(source.iterdir()):
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - started


def applied(edit: Path, source: Path, target: Path) -> tuple[float, float, int]:
    """Seconds on the clock, of processor time, and the most memory that the process held."""
    command = [sys.executable, "-m", "excise", "apply", str(edit), str(source), str(target)]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("excise apply failed")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/apply"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    try:
        source = folder / "model"
        write_checkpoint(source, options.layers)
        writers = write_edit(source, folder / "edit.safetensors")
        files = sorted(source.glob("*.safetensors"))
        size = sum(path.stat().st_size for path in source.iterdir())
        rows: list[str] = []
        for _ in range(options.times):
            forget(source)
            copying = copied(source, folder / "copy")
            shutil.rmtree(folder / "copy")
            forget(source)
            seconds, processor, memory = applied(
                folder / "edit.safetensors", source, folder / "out"
            )
            shutil.rmtree(folder / "out")
            rows.append(
                f"| {copying:.1f} s, {size / copying / 1e6:.0f} MB/s | {seconds:.1f} s, "
                f"{size / seconds / 1e6:.0f} MB/s | {processor:.1f} s | {copying / seconds:.2f} "
                f"| {memory / 1e9:.2f} GB |"
            )
            print(rows[-1], flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    largest = config(1).vocab_size * WIDTH * 2
    text = "\n".join(
        [
            f"{described()}. {size / 1e9:.2f} GB in {len(files)} shards, {writers} writers edited; largest "
            f"tensor {largest / 1e9:.2f} GB.",
            "",
            "| copying the files | excise apply, verification included | its processor time "
            "| speed against copying | peak memory of the process |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    print("\n" + text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
