"""The number of slots: as many as pay, within a share of memory, fewer when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch
from transformers import PreTrainedModel

from excise.engine.decode import greedy
from excise.engine.prefill import Tokens

Result = TypeVar("Result")

MEMORY_SHARE = 0.2
"""Share of the model's own size that a batch's keys and values may take."""
LEAST_MEMORY = 192 * 2**20
"""What a batch may take in any case: for a small model a fifth of it would be next to nothing."""
_PROBE_TOKENS = 6


def key_value_bytes(model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int) -> int:
    """Bytes of keys and values that one slot takes for the longest of `prompts` and its answer."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = max(len(prompt) for prompt in prompts) + max_new_tokens
    size = torch.finfo(model.dtype).bits // 8
    return int(2 * config.num_hidden_layers * heads * head * size * tokens * 9 // 8)


def find_batch_size(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    model_bytes: int,
    tell: Callable[[int, float], None],
) -> int:
    """The number of slots that decodes most tokens a second, found by short trials.

    Doubles from 8 while throughput grows by a tenth and memory allows; `tell(slots, tokens per second)`
    is called for each trial.
    """
    budget = max(MEMORY_SHARE * model_bytes, LEAST_MEMORY)
    if model.device.type == "cuda":
        budget = max(budget, 0.7 * torch.cuda.mem_get_info(model.device)[0])
    else:
        budget = min(budget, 0.5 * psutil.virtual_memory().available)
    most = max(1, min(len(prompts), int(budget // key_value_bytes(model, prompts, max_new_tokens))))
    best, best_rate, slots = 1, 0.0, min(8, most)
    while True:
        try:
            started = time.perf_counter()
            answers = greedy(model, prompts[:slots], max_new_tokens=_PROBE_TOKENS, slots=slots)
            rate = sum(map(len, answers)) / (time.perf_counter() - started)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return best
        tell(slots, rate)
        if rate < 1.1 * best_rate:
            return best if rate < best_rate else slots
        best, best_rate = slots, rate
        if slots == most:
            return best
        slots = min(2 * slots, most)


def with_halving(
    slots: int, work: Callable[[int], Result], tell: Callable[[int], None]
) -> tuple[Result, int]:
    """`work(slots)`, again with half as many slots each time memory runs out.

    Returns the result and the number of slots that it took. Raises the out-of-memory error if one slot
    is still too many. `tell` is called with each smaller number.
    """
    while True:
        try:
            return work(slots), slots
        except RuntimeError as error:
            if slots == 1 or not is_out_of_memory(error):
                raise
        # Outside the except block: the traceback, and the tensors that it keeps alive, are gone here.
        slots //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tell(slots)


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for the ways in which PyTorch says that memory ran out, on an accelerator or on the host."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
