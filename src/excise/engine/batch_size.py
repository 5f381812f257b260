"""The number of slots: as many as a share of memory holds, fewer if memory runs out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate.utils import release_memory
from transformers import PreTrainedConfig, PreTrainedModel

from excise.devices.memory import HOST, device_memory, execution_device, input_device
from excise.devices.out_of_memory import MEMORY_ADVICE, is_out_of_memory
from excise.engine.answers import StoppingRule
from excise.engine.decode import greedy
from excise.engine.prefill import Tokens
from excise.errors import OutOfMemoryError, first_line

Result = TypeVar("Result")

MEMORY_SHARE = 0.1
"""Share of the model's own size that a batch's keys and values may take."""
LEAST_MEMORY = 384 * 2**20
"""Bytes that a batch may always take. A tenth of a small model holds few sequences, and in steps of few
sequences each costs several times as much as in steps of many (bench/prepacked.py)."""
MOST_CANDIDATES = 8
"""With more candidates side by side, the search would propose too many trials before it learns of results."""
CANDIDATES_ON_A_CPU = 4
"""So many keep all slots busy while the last answers of each are decoded (docs/guides/speed.md)."""
_PROBE_TOKENS = 2
_WITH_OWN_MEMORY = frozenset(("cuda", "xpu"))
"""Types of devices whose memory is usually free for one process."""


def key_value_bytes(model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int) -> int:
    """Bytes of one slot for the longest of `prompts` and its answer: keys and values.

    If the configuration names no attention heads: bytes of a recurrent state, which does not grow with
    tokens.
    """
    config = model.config.get_text_config()
    layers = _largest(config, "num_hidden_layers") or 1
    size = torch.finfo(model.dtype).bits // 8
    width = _largest(config, "hidden_size") or 1
    queries = _largest(config, "num_attention_heads")
    if not queries:
        # A state matrix for each inner channel, in float32. Some configurations name its height `head_dim`.
        inner = max(_largest(config, "intermediate_size"), 2 * width)
        height = _largest(config, "state_size") or _largest(config, "head_dim") or 16
        return int(layers * inner * height * 4 * 9 // 8)
    heads = _largest(config, "num_key_value_heads") or queries
    head = max(
        _largest(config, "head_dim") or width // queries, _largest(config, "global_head_dim")
    )
    # Multi-head latent attention: keys have two parts, and values have a width of their own.
    keys = max(head, _largest(config, "qk_nope_head_dim") + _largest(config, "qk_rope_head_dim"))
    values = _largest(config, "v_head_dim") or head
    tokens = max(len(prompt) for prompt in prompts) + max_new_tokens
    return int(layers * heads * (keys + values) * size * tokens * 9 // 8)


def _largest(config: PreTrainedConfig, name: str) -> int:
    """A number of the configuration, the largest if layers differ; 0 if the configuration lacks the name."""
    # If widths differ from layer to layer (gemma4), only the layers' own configurations hold them.
    layers = getattr(config, "per_layer_config", ()) or (config,)
    values = [getattr(each, name, None) for each in layers]
    flat = [
        number
        for value in values
        for number in (value if isinstance(value, (list, tuple)) else [value])
    ]
    return max((number for number in flat if isinstance(number, int)), default=0)


class _ProbeRule(StoppingRule):
    def should_stop(self, index: int, answer: list[int]) -> bool:
        return len(answer) >= _PROBE_TOKENS


def find_batch_size(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    model_bytes: int,
    report: Callable[[int], None],
    candidates: int = 1,
) -> int:
    """The number of slots: as many as memory holds, tested by a short probe, halved if the probe fails.

    More sequences a step never cost throughput in measurements, so memory decides and not a clock. The run
    records the number, so that a resumed run has the same slots, and with them the same rounding. candidates:
    how many will answer `prompts` side by side; 0 for the most that `concurrent_candidates` gives. report:
    called with each smaller number that is tried.
    """
    # On a CPU, sequences of further candidates take the slots of finished sequences.
    widest = (candidates or MOST_CANDIDATES) if _is_accelerated(model) else 1
    budget = batch_memory(model_bytes)
    if input_device(model).type in _WITH_OWN_MEMORY:
        budget = max(budget, 0.7 * free_for_batch(model))
    else:
        # Other processes need memory of the host too.
        budget = min(budget, 0.5 * free_for_batch(model))
    most = min(len(prompts) * widest, slots_within(budget, model, prompts, max_new_tokens))

    def probe(slots: int) -> None:
        longest = sorted([*prompts] * widest, key=len, reverse=True)[:slots]
        # Buffers for whole answers, of which two tokens are decoded.
        greedy(
            model, longest, max_new_tokens=max_new_tokens, slots=slots, stopping_rule=_ProbeRule()
        )

    _, slots = with_halving(most, probe, report)
    return slots


def slots_fit(
    model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int, slots: int
) -> bool:
    """True if `slots` slots fit into the memory that is free now."""
    return slots * key_value_bytes(model, prompts, max_new_tokens) <= free_for_batch(model)


def free_for_batch(model: PreTrainedModel) -> float:
    """Bytes of keys and values that fit into free memory on the devices that the model runs on.

    Each layer's keys and values lie where it runs. Of several devices, the device with least room for its
    share decides.
    """
    shares = Counter[torch.device]()
    for module in model.modules():
        numbers = sum(weight.numel() for weight in module.parameters(recurse=False))
        if numbers:
            shares[execution_device(module)] += numbers
    total = sum(shares.values())
    return min(
        (device_memory(device).free * total / numbers for device, numbers in shares.items()),
        default=device_memory(HOST).free,
    )


def batch_memory(model_bytes: int) -> float:
    """Bytes that a batch's keys and values may take, whatever memory is free."""
    return max(MEMORY_SHARE * model_bytes, LEAST_MEMORY)


def slots_within(
    budget: float, model: PreTrainedModel, prompts: Sequence[Tokens], max_new_tokens: int
) -> int:
    """How many slots fit into `budget` bytes; at least 1."""
    return max(1, int(budget // key_value_bytes(model, prompts, max_new_tokens)))


def concurrent_candidates(slots: int, prompts: int, model: PreTrainedModel) -> int:
    """How many candidates to score at a time.

    An accelerator's steps wait for memory: sequences of further candidates cost nothing, as long as slots are
    free. A CPU's steps compute: there a few candidates fill the slots that finished sequences leave.
    """
    if _is_accelerated(model):
        return max(1, min(MOST_CANDIDATES, slots // prompts))
    return CANDIDATES_ON_A_CPU


def _is_accelerated(model: PreTrainedModel) -> bool:
    return input_device(model).type != "cpu"


def with_halving(
    slots: int, work: Callable[[int], Result], report: Callable[[int], None]
) -> tuple[Result, int]:
    """`work(slots)`, repeated with half as many slots each time memory runs out.

    Returns the result and the last number of slots. Raises OutOfMemoryError if memory runs out with one slot.
    report: called with each smaller number.
    """
    while True:
        try:
            return work(slots), slots
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if slots == 1:
                raise OutOfMemoryError(
                    f"memory ran out with a single prompt at a time ({first_line(error)}); {MEMORY_ADVICE}"
                ) from error
        # Outside the except block, because the traceback keeps tensors alive.
        slots //= 2
        release_memory()
        report(slots)
