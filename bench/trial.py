"""A trial of the demonstration against the simple way, interleaved: `python bench/trial.py`.

The simple way: prompts padded on the left to one width, one forward pass for KL, `model.generate` with
100 new tokens for all target prompts together, nobody leaves early. Both ways score the same edit (the
closed form), on the same prompts, and have to give the same verdicts and the same KL.
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

import torch

from bench.machine import described, forget_peak, peak_resident, resident
from excise.config import gather
from excise.demo.model import materialise
from excise.demo.settings import demo_flags
from excise.edit.virtual import VirtualEdits
from excise.run import events
from excise.run.prepare import Prepared, prepare
from excise.run.search import open_study
from excise.scores.divergence import kl_divergence
from excise.scores.markers import DEFAULT_MARKERS, is_refusal
from excise.search.bank import edit_of
from excise.search.space import propose


def padded(prompts: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def simple_way(prepared: Prepared, new_tokens: int) -> tuple[list[bool], float]:
    model, part = prepared.loaded.model, prepared.search_part
    pad = prepared.loaded.tokenizer.pad_token_id
    edited = model(**padded(part.control, pad), logits_to_keep=1).logits[:, -1].log_softmax(-1)
    kl = float(kl_divergence(part.original, edited).mean())
    batch = padded(part.target, pad)
    output = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, pad_token_id=pad)
    answers = output[:, batch["input_ids"].shape[1] :].tolist()
    chat = prepared.runner.chat
    return [is_refusal(chat.decode(answer), DEFAULT_MARKERS) for answer in answers], kl


def our_way(prepared: Prepared) -> tuple[list[bool], float]:
    part = prepared.search_part
    kl = part.divergence(prepared.runner)
    return list(prepared.runner.refusals(part.target).refused), kl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/bench-trial"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    flags = demo_flags(materialise(print)) | {"run_dir": options.run_dir, "max_new_tokens": 100}
    settings = gather(flags, {}, None)
    memory: dict[str, int] = {}

    def listen(event: events.Event) -> None:
        if isinstance(event, events.ModelLoaded):
            memory["loaded model"] = resident()
            forget_peak()

    prepared = prepare(settings, listen)
    memory["peak while preparing"] = peak_resident()
    trial = open_study(prepared).ask()
    edit = edit_of(
        propose(trial, settings.kinds, prepared.anatomy), prepared.bank, prepared.anatomy
    )
    seconds: dict[str, list[float]] = {"simple": [], "excise": []}
    verdicts: dict[str, list[bool]] = {}
    kls: dict[str, float] = {}
    with VirtualEdits(prepared.loaded.model, prepared.anatomy.names) as edits:
        edits.use(edit)
        forget_peak()
        our_way(prepared)
        memory["peak during a trial"] = peak_resident()
        for round_number in range(options.repeats):
            for name in ("excise", "simple") if round_number % 2 else ("simple", "excise"):
                started = time.perf_counter()
                if name == "simple":
                    verdicts[name], kls[name] = simple_way(prepared, settings.max_new_tokens)
                else:
                    verdicts[name], kls[name] = our_way(prepared)
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    simple, ours = (statistics.median(seconds[name]) for name in ("simple", "excise"))
    differing = sum(a != b for a, b in zip(verdicts["simple"], verdicts["excise"], strict=True))
    text = "\n".join(
        (
            f"{described()}. Demonstration model, float32, {len(verdicts['excise'])} target and "
            f"{len(prepared.search_part.control)} control prompts, {settings.max_new_tokens} new "
            f"tokens, median of {options.repeats}, interleaved; {prepared.runner.slots} slots.",
            "",
            "| | seconds a trial | refusals | KL (nats) |",
            "|---|---|---|---|",
            f"| simple way | {simple:.1f} | {sum(verdicts['simple'])} | {kls['simple']:.6f} |",
            f"| excise | {ours:.1f} | {sum(verdicts['excise'])} | {kls['excise']:.6f} |",
            "",
            f"Ratio {ours / simple:.2f}; {differing} verdicts differ. "
            "Resident memory: "
            + ", ".join(
                f"{name} {size / 2**20:,.0f} MiB ({size / memory['loaded model']:.2f})"
                for name, size in memory.items()
            )
            + ".",
            "",
        )
    )
    print("\n" + text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
