"""The number of slots: as many as a share of memory holds, fewer when memory runs out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from excise.devices.device import execution_device, input_device
from excise.devices.memory import HOST, device_memory
from excise.devices.out_of_memory import LESS_MEMORY, is_out_of_memory, release_memory
from excise.engine.answers import Referee
from excise.engine.decode import greedy
from excise.engine.prefill import Tokens
from excise.errors import OutOfMemoryError, first_line

Result = TypeVar("Result")

MEMORY_SHARE = 0.1
"""Share of the model's own size that a batch's keys and values may take."""
LEAST_MEMORY = 384 * 2**20
"""What a batch may take in any case. A tenth of a small model is a handful of rows, and in steps of few rows
each costs several times what it does in steps of many (bench/layout.py)."""
MOST_CANDIDATES = 8
"""More of them side by side would leave too few trials to learn from."""
CANDIDATES_ON_A_CPU = 4
"""So many keep the slots full while the last answers of each run on to their end (docs/speed.md)."""
_PROBE_TOKENS = 2
_WITH_OWN_MEMORY = frozenset(("cuda", "xpu"))
"""Types of devices whose memory nobody else is likely to need."""


def key_value_bytes(model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int) -> int:
    """Bytes that one slot keeps for the longest of `prompts` and its answer: keys and values.

    Where the configuration names no attention heads, a recurrent state, which does not grow with tokens.
    """
    config = model.config.get_text_config()
    layers = _largest(config, "num_hidden_layers") or 1
    size = torch.finfo(model.dtype).bits // 8
    width = _largest(config, "hidden_size") or 1
    queries = _largest(config, "num_attention_heads")
    if not queries:
        # A state matrix for each inner channel, in float32. Where its height goes unnamed it is a head's.
        inner = max(_largest(config, "intermediate_size"), 2 * width)
        height = _largest(config, "state_size") or _largest(config, "head_dim") or 16
        return int(layers * inner * height * 4 * 9 // 8)
    heads = _largest(config, "num_key_value_heads") or queries
    head = max(
        _largest(config, "head_dim") or width // queries, _largest(config, "global_head_dim")
    )
    # Multi-head latent attention: keys are of two parts, and values have a width of their own.
    keys = max(head, _largest(config, "qk_nope_head_dim") + _largest(config, "qk_rope_head_dim"))
    values = _largest(config, "v_head_dim") or head
    tokens = max(len(prompt) for prompt in prompts) + max_new_tokens
    return int(layers * heads * (keys + values) * size * tokens * 9 // 8)


def _largest(config: PreTrainedConfig, name: str) -> int:
    """A number of the configuration, the largest if there is one for each layer; 0 if there is none."""
    # Where widths differ from layer to layer (gemma4), only the layers' own configurations answer.
    layers = getattr(config, "per_layer_config", ()) or (config,)
    values = [getattr(each, name, None) for each in layers]
    flat = [
        one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return max((each for each in flat if isinstance(each, int)), default=0)


class _Brief(Referee):
    def decided(self, row: int, answer: list[int]) -> bool:
        return len(answer) >= _PROBE_TOKENS


def find_batch_size(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    model_bytes: int,
    report: Callable[[int], None],
    candidates: int = 1,
) -> int:
    """The number of slots: as many as memory allows, proven by a short trial, halved if it fails.

    More rows a step never cost throughput where it was measured, so memory decides, and not a clock. What
    is found is recorded, so that a resumed run has the same slots, and with them the same rounding.
    candidates: how many will be asked `prompts` side by side; 0 for as many as `side_by_side` may say.
    `report` is called with each smaller number that had to be tried.
    """
    # On a CPU rows of further candidates take the place of rows that are done, not slots of their own.
    widest = (candidates or MOST_CANDIDATES) if _is_accelerated(model) else 1
    budget = batch_memory(model_bytes)
    if input_device(model).type in _WITH_OWN_MEMORY:
        budget = max(budget, 0.7 * free_for_batch(model))
    else:
        # Memory of the host is not for one process alone.
        budget = min(budget, 0.5 * free_for_batch(model))
    most = min(len(prompts) * widest, slots_within(budget, model, prompts, max_new_tokens))

    def probe(slots: int) -> None:
        longest = sorted([*prompts] * widest, key=len, reverse=True)[:slots]
        # Buffers for whole answers, of which two tokens are said.
        greedy(model, longest, max_new_tokens=max_new_tokens, slots=slots, referee=_Brief())

    _, slots = with_halving(most, probe, report)
    return slots


def still_fit(
    model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int, slots: int
) -> bool:
    """True if so many slots fit into the memory that is free now, whatever share of it a batch may take."""
    return slots * key_value_bytes(model, prompts, max_new_tokens) <= free_for_batch(model)


def free_for_batch(model: PreTrainedModel) -> float:
    """Bytes of keys and values that fit into what is free on the devices that the model runs on.

    Each layer's lie where it runs, so that of several devices the one with least room for its share decides.
    """
    shares = Counter[torch.device]()
    for module in model.modules():
        numbers = sum(one.numel() for one in module.parameters(recurse=False))
        if numbers:
            shares[execution_device(module)] += numbers
    total = sum(shares.values())
    return min(
        (device_memory(device).free * total / numbers for device, numbers in shares.items()),
        default=device_memory(HOST).free,
    )


def batch_memory(model_bytes: int) -> float:
    """Bytes that a batch's keys and values may take, however much is free."""
    return max(MEMORY_SHARE * model_bytes, LEAST_MEMORY)


def slots_within(
    budget: float, model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int
) -> int:
    """How many slots so many bytes hold; 1 at least."""
    return max(1, int(budget // key_value_bytes(model, prompts, max_new_tokens)))


def side_by_side(slots: int, prompts: int, model: PreTrainedModel) -> int:
    """How many candidates to have under way at a time.

    An accelerator's steps wait for memory: rows of further candidates ride along for nothing, as long as
    there are slots. A CPU's steps compute; there a few candidates fill the slots that others leave.
    """
    if _is_accelerated(model):
        return max(1, min(MOST_CANDIDATES, slots // prompts))
    return CANDIDATES_ON_A_CPU


def _is_accelerated(model: PreTrainedModel) -> bool:
    return input_device(model).type != "cpu"


def with_halving(
    slots: int, work: Callable[[int], Result], report: Callable[[int], None]
) -> tuple[Result, int]:
    """`work(slots)`, again with half as many slots each time memory runs out.

    Returns the result and the number of slots that it took. Raises OutOfMemoryError if one slot is still
    too many. `report` is called with each smaller number.
    """
    while True:
        try:
            return work(slots), slots
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if slots == 1:
                raise OutOfMemoryError(
                    f"memory ran out with a single prompt at a time ({first_line(error)}); {LESS_MEMORY}"
                ) from error
        # Outside the except block: the traceback, and the tensors that it keeps alive, are gone here.
        slots //= 2
        release_memory()
        report(slots)
