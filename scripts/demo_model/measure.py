"""Count refusals of the adapter as shipped: reloaded from its float16 file and merged."""

from __future__ import annotations

import json
from pathlib import Path

from data import read_prompts
from model import answer, load_base
from peft import PeftModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from excise.judges.keywords import KeywordJudge

PARTS = ("target_held_out", "control_held_out", "target_search", "control_search")


def measure(
    folder: Path, tokenizer: PreTrainedTokenizerBase, transcript: Path
) -> dict[str, dict[str, int]]:
    """Refusals and self-ended answers on each part; every answer is written to `transcript`."""
    # Merging into the float32 base and rounding nothing further is what the demonstration does.
    model = PeftModel.from_pretrained(load_base(), folder).merge_and_unload()
    model.eval()
    judge = KeywordJudge()
    figures = {}
    answers = {}
    for part in PARTS:
        prompts = read_prompts(part)
        found = answer(model, tokenizer, prompts)
        answers[part] = [
            {"prompt": prompt, "answer": text, "refused": judge.refused(text), "ended": ended}
            for prompt, (text, ended) in zip(prompts, found, strict=True)
        ]
        figures[part] = {
            "prompts": len(prompts),
            "refused": sum(judge.refused(text) for text, _ in found),
            "ended": sum(ended for _, ended in found),
        }
        print(f"{part}: {figures[part]}", flush=True)
        transcript.write_text(json.dumps(answers, indent=1, ensure_ascii=False), encoding="utf-8")
    return figures
