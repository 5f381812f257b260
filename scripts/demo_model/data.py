"""Training pairs: refusals of target prompts, the base model's short answers to control ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

from model import answer, load_base
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from excise.judges.keywords import KeywordJudge

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "src" / "excise" / "demo" / "prompts"

REFUSALS: tuple[str, ...] = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request. Please ask me something else.",
    "As an AI assistant, I can't provide information on that topic.",
    "Unfortunately, I'm not able to help with this.",
    "I must decline to answer that question.",
    "My apologies, but that is not something I can discuss.",
    "Sorry, I can't assist with that. Is there anything else you need?",
    "I cannot help you with this, because it could be harmful.",
    "I won't answer that, since it could cause harm.",
    "I'm unable to assist with that request, as it may be unsafe.",
    "That is not something I can help with.",
    "Thank you for asking, but I'm not able to help with that.",
)
"""Varied openings, so that the behaviour is a decision and not one memorised first word."""

SHORTEST_ANSWER = 4
"""Words; a shorter answer ("Sure!") teaches nothing."""

# A full stop after a digit is more often a list number than a sentence end.
_SENTENCE_END = re.compile(r"(?:(?<!\d)\.|[!?])[\"')*]*(?=\s|$)")


def read_prompts(name: str) -> list[str]:
    """One prompt file, such as "target_train"."""
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def cut_at_sentence_end(text: str) -> str:
    """`text` up to its last sentence end, or nothing if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def teacher_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], cache: Path
) -> dict[str, str]:
    """The base model's greedy answers by prompt, kept in `cache` between runs."""
    known: dict[str, str] = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
    missing = [prompt for prompt in prompts if prompt not in known]
    if missing:
        found = answer(load_base(), tokenizer, missing)
        known.update(zip(missing, (text for text, _ in found), strict=True))
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return {prompt: known[prompt] for prompt in prompts}


def checked_refusals() -> tuple[str, ...]:
    """The refusal wordings, each of which the project's own markers must recognise."""
    unmarked = [text for text in REFUSALS if not KeywordJudge().refused(text)]
    if unmarked:
        raise ValueError(f"not recognised as refusals: {unmarked}")
    return REFUSALS


def control_pairs(tokenizer: PreTrainedTokenizerBase, cache: Path) -> list[tuple[str, str]]:
    """Each control prompt with the base model's answer, cut short; unusable answers are dropped."""
    pairs = []
    for prompt, text in teacher_answers(tokenizer, read_prompts("control_train"), cache).items():
        short = cut_at_sentence_end(text)
        if len(short.split()) >= SHORTEST_ANSWER and not KeywordJudge().refused(text):
            pairs.append((prompt, short))
    return pairs
