"""Prepacked weights compared with PyTorch's own layout: `python bench/prepacked.py`.

The demonstration model, float32 and bfloat16: a forward pass over 100 prompts, and a decoding step of more
and more rows, which also says what slots are worth. Both ways take turns in one process.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from bench.machine import described
from excise.checkpoint.source import resolve
from excise.demo.model import materialise
from excise.demo.settings import PROMPTS
from excise.devices.prepacked import prepack, undo_prepacking
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.models.chat import Chat
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.prompts.sets import Prompt

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "prepacked.md"
ROWS = (1, 4, 8, 16, 21, 32, 53, 100)
STEPS = 16


def one_pass(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> float:
    """Seconds of a forward pass over all prompts."""
    started = time.perf_counter()
    first_token_logits(model, prompts, 32)
    return time.perf_counter() - started


def one_step(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> float:
    """Seconds of a decoding step with a row for each prompt."""
    seconds = []
    for tokens in (2, 2 + STEPS):
        started = time.perf_counter()
        greedy(model, prompts, max_new_tokens=tokens, slots=len(prompts))
        seconds.append(time.perf_counter() - started)
    return (seconds[1] - seconds[0]) / STEPS


def table(dtype: str, repeats: int) -> list[str]:
    loaded = load(resolve(str(materialise(print)), None), LoadOptions(dtypes=(dtype,)))
    model = loaded.model
    # Every row has to last.
    model.generation_config.eos_token_id = None
    texts = (PROMPTS / "target_search.txt").read_text(encoding="utf-8").splitlines()
    prompts = Chat(loaded.tokenizer, "", loaded.call).encode(
        [Prompt(text, None) for text in texts[:100]]
    )
    seconds: dict[tuple[bool, int], list[float]] = {}
    for _ in range(repeats):
        for prepacked, switch in ((True, prepack), (False, undo_prepacking)):
            switch(model)
            seconds.setdefault((prepacked, 0), []).append(one_pass(model, prompts))
            for rows in ROWS:
                step = one_step(model, prompts[:rows])
                seconds.setdefault((prepacked, rows), []).append(step / rows)
    lines = [f"| {dtype} | ordinary | prepacked | times as fast |", "|---|---|---|---|"]
    for rows in (0, *ROWS):
        unit, scale = ("ms a row", 1e3) if rows else ("s", 1.0)
        ordinary, ours = (
            scale * statistics.median(seconds[prepacked, rows]) for prepacked in (False, True)
        )
        what = f"decoding, {rows} rows a step" if rows else f"a pass over {len(prompts)} prompts"
        lines.append(
            f"| {what} | {ordinary:.2f} {unit} | {ours:.2f} {unit} | {ordinary / ours:.2f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    lines = [
        "# Prepacked weights",
        "",
        f"`python {' '.join(sys.argv)}`. {described()}. The demonstration model; median of "
        f"{options.repeats}.",
        "",
    ]
    for dtype in options.dtypes:
        lines += table(dtype, options.repeats)
    text = "\n".join(lines)
    print(text)
    options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
