"""Floating-point operations that a forward pass needs, told from a model's shapes alone.

A weight that multiplies a token costs 2 operations, a multiplication and an addition (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). Attention costs 2 (d_k + d_v) operations for each head and each pair of a
token and one that it looks at: a logit, and its share of the sum of values (Hoffmann et al. 2022, arXiv
2203.15556, appendix F). Embeddings are looked up and cost nothing; the head counts where logits are
computed. Norms, activations, rotations and the states of recurrences are left out: they are no matrix
products, and small beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from excise.anatomy.roles import TOWERS
from excise.engine.prefill import Tokens, common_prefix_length

Window = int | None
"""How many tokens a token looks at, itself included; None: all before it."""

_CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_top_k", "moe_topk", "num_experts_per_token")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class LayerCost:
    """One decoder layer.

    weights: numbers that multiply each token; of routed experts, as many as a token is sent to.
    attention: multiplications for each pair of a token and one that it looks at, heads · (d_k + d_v);
    0 in a layer without attention.
    """

    weights: int
    attention: int
    window: Window


@dataclass(frozen=True)
class Costs:
    """What a model costs. outside: weights outside its layers that multiply each token. head: logits'."""

    layers: tuple[LayerCost, ...]
    outside: int
    head: int

    @property
    def windows(self) -> frozenset[Window]:
        """The windows that its attention has."""
        return frozenset(layer.window for layer in self.layers if layer.attention)

    def answering(
        self, prompts: Sequence[Tokens], answers: Sequence[Tokens], *, shared: bool = True
    ) -> int:
        """Operations to say the first tokens of `answers` to `prompts`, and no more.

        Every token runs once and unpadded, the last one of an answer not at all, and logits are computed
        only where a token is chosen. An answer of one token is a forward pass of its prompt. shared: the
        beginning that all prompts have in common runs once; otherwise each prompt has it run for itself.
        """
        beginning = common_prefix_length(prompts) if shared and len(prompts) > 1 else 0
        spans = [(0, beginning)] if beginning else []
        for prompt, answer in zip(prompts, answers, strict=True):
            spans.append((beginning, len(prompt) + max(len(answer), 1) - 1))
        tokens = sum(end - start for start, end in spans)
        operations = 2 * tokens * (self.outside + sum(layer.weights for layer in self.layers))
        for window in self.windows:
            seen = sum(pairs(start, end, window) for start, end in spans)
            operations += 2 * seen * self._attention(window)
        return operations + 2 * self.head * sum(max(len(answer), 1) for answer in answers)

    def _attention(self, window: Window) -> int:
        return sum(layer.attention for layer in self.layers if layer.window == window)


def pairs(start: int, end: int, window: Window = None) -> int:
    """How many pairs of a token and one that it looks at tokens `start` … `end` − 1 of a row have."""
    if window is None or end <= window:
        return (end * (end + 1) - start * (start + 1)) // 2
    full = max(0, end - max(start, window))
    return full * window + (pairs(start, window) if start < window else 0)


def costs_of(model: PreTrainedModel, layers: Sequence[str]) -> Costs:
    """The costs of a model. layers: names of its decoder layers."""
    config = model.config.get_text_config(decoder=True)
    counted = {id(module) for name in layers for module in model.get_submodule(name).modules()}
    head = model.get_output_embeddings()
    counted.add(id(head))
    outside = [
        module
        for name, module in model.named_modules()
        if id(module) not in counted and not TOWERS.fullmatch(name)
    ]
    weights = [_weights(_running(model.get_submodule(name)), config) for name in layers]
    looks = _looks(config, len(layers))
    return Costs(
        tuple(
            LayerCost(count, attention, window)
            for count, (attention, window) in zip(weights, looks, strict=True)
        ),
        outside=_weights(iter(outside), config),
        head=0 if head is None else _weights(iter((head,)), config),
    )


def _running(layer: nn.Module) -> Iterator[nn.Module]:
    """The modules of a layer, without those that look at an encoder, which nobody runs here."""
    return (module for name, module in layer.named_modules() if "encoder_attn" not in name)


def _weights(modules: Iterator[nn.Module], config: PreTrainedConfig) -> int:
    """How many weights of `modules` multiply a token."""
    experts, chosen = _number(config, _EXPERTS), _number(config, _CHOSEN)
    count = 0
    for module in modules:
        if isinstance(module, nn.Embedding):
            continue
        if isinstance(module, nn.Linear):
            # Not the parameter's own size: quantised weights are packed several to a number.
            count += module.in_features * module.out_features
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dim() < 2:
                continue
            routed = parameter.dim() == 3 and experts and len(parameter) == experts and chosen
            count += parameter.numel() * chosen // experts if routed else parameter.numel()
    return count


def _looks(config: PreTrainedConfig, layers: int) -> list[tuple[int, Window]]:
    """(attention, window) of each layer, see `LayerCost`."""
    # Widths and windows may differ from layer to layer; such a configuration answers for a layer only.
    # Earlier releases of transformers 5 know of no such thing.
    own = getattr(config, "per_layer_config", ())
    configs = own if len(own) == layers else [config] * layers
    types = getattr(config, "layer_types", None)
    if types is None or len(types) != layers:
        types = [
            "sliding_attention" if _number(each, ("sliding_window",)) else "full_attention"
            for each in configs
        ]
    found: list[tuple[int, Window]] = []
    for kind, each in zip(types, configs, strict=True):
        if "linear" in kind or not ("attention" in kind or "hybrid" in kind):
            found.append((0, None))
            continue
        limits = {"sliding": "sliding_window", "chunked": "attention_chunk_size"}
        names = [name for word, name in limits.items() if word in kind]
        found.append((_attention_width(each), _number(each, names) or None))
    return found


def _attention_width(config: PreTrainedConfig) -> int:
    """Heads · (width of a key + width of a value)."""
    heads = _number(config, ("num_attention_heads", "n_head"))
    if not heads:
        return 0
    head = _number(config, ("head_dim",)) or _number(config, ("hidden_size", "n_embd")) // heads
    # Multi-head latent attention: keys are of two parts, and values have a width of their own.
    parts = [_number(config, (name,)) for name in ("qk_nope_head_dim", "qk_rope_head_dim")]
    key = sum(parts) if all(parts) else head
    return heads * (key + (_number(config, ("v_head_dim",)) or head))


def _number(config: PreTrainedConfig, names: Sequence[str]) -> int:
    """The first of these fields of the configuration that is a number; 0 if none is."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value), 0)
