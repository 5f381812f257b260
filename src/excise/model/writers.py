"""Writers: the modules that add to the residual stream, found by declared names.

Names are a claim, not a proof. `excise.model.coverage` measures whether the claim holds for the model
at hand, and the run stops where it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.errors import ModelError

ATTENTION = "attn.o_proj"
MLP = "mlp.down_proj"

_WRITER_NAMES: dict[str, str] = {
    "self_attn.o_proj": ATTENTION,
    "self_attn.out_proj": ATTENTION,
    "self_attn.dense": ATTENTION,
    "attention.o_proj": ATTENTION,
    "attention.out_proj": ATTENTION,
    "attention.dense": ATTENTION,
    "attn.out_proj": ATTENTION,
    "mlp.down_proj": MLP,
    "mlp.fc2": MLP,
    "mlp.c_proj": MLP,
    "mlp.dense_4h_to_h": MLP,
    "feed_forward.down_proj": MLP,
    "feed_forward.w2": MLP,
}
"""Module name inside a decoder layer → component."""

_POST_NORM_NAMES: tuple[dict[str, str], ...] = (
    # Gemma 2 and 3, OLMo 2: the presence of the second name says that the first one is a post-norm.
    {MLP: "post_feedforward_layernorm", ATTENTION: "post_attention_layernorm"},
    # GLM 4.
    {MLP: "post_mlp_layernorm", ATTENTION: "post_self_attn_layernorm"},
)
"""Norms between a writer and the residual add, by family; a family applies if all its names exist."""


@dataclass(frozen=True)
class Writer:
    """One module that adds to the residual stream.

    name: inside the model. layer: index of its decoder layer. shape: (d, k) of its weight.
    post_norm: name of the norm its output passes before it is added, if any.
    """

    name: str
    component: str
    layer: int
    shape: tuple[int, int]
    post_norm: str | None

    @property
    def matrices(self) -> int:
        """How many weight matrices the writer holds."""
        return 1


@dataclass(frozen=True)
class Anatomy:
    """What excise knows of a model: its decoder layers and their writers, in order.

    layers: module names of the decoder layers. dimension: d, the width of the residual stream.
    """

    layers: tuple[str, ...]
    writers: tuple[Writer, ...]
    dimension: int

    @property
    def names(self) -> tuple[str, ...]:
        """Module names of the writers."""
        return tuple(writer.name for writer in self.writers)

    def matrices(self) -> dict[str, int]:
        """Number of matrices of each component, components without any left out."""
        return dict(Counter(writer.component for writer in self.writers))


def examine(model: PreTrainedModel) -> Anatomy:
    """Find the decoder layers and writers of `model`.

    Raises ModelError if the decoder layers cannot be told, or a layer has no known writer, or a known
    writer is not a linear layer.
    """
    config = model.config.get_text_config()
    prefix, layers = _decoder_layers(model, config.num_hidden_layers)
    writers: list[Writer] = []
    for index, layer in enumerate(layers):
        modules = dict(layer.named_modules())
        post_norms = _post_norms(modules)
        found = [(name, _WRITER_NAMES[name]) for name in modules if name in _WRITER_NAMES]
        if not found:
            raise ModelError(
                f"layer {index} ({type(layer).__name__}) of {config.model_type} has no writer that "
                "excise knows; this architecture is not covered"
            )
        for name, component in found:
            module = modules[name]
            if not isinstance(module, nn.Linear):
                raise ModelError(
                    f"{prefix}.{index}.{name} is a {type(module).__name__}, not a linear layer; "
                    "this architecture is not covered"
                )
            norm = post_norms.get(component)
            writers.append(
                Writer(
                    name=f"{prefix}.{index}.{name}",
                    component=component,
                    layer=index,
                    shape=(module.out_features, module.in_features),
                    post_norm=None if norm is None else f"{prefix}.{index}.{norm}",
                )
            )
    names = tuple(f"{prefix}.{index}" for index in range(len(layers)))
    return Anatomy(layers=names, writers=tuple(writers), dimension=config.hidden_size)


def _decoder_layers(model: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    # The outermost list is the decoder's: lists inside a layer are nested deeper.
    candidates.sort(key=lambda candidate: candidate[0].count("."))
    if not candidates:
        raise ModelError(f"found no list of {count} decoder layers in {type(model).__name__}")
    return candidates[0]


def _post_norms(modules: dict[str, nn.Module]) -> dict[str, str]:
    for family in _POST_NORM_NAMES:
        if all(name in modules for name in family.values()):
            return family
    return {}


def post_norm_gains(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """γ of the norm behind each writer, ones where there is none: [writer, d], float32.

    Read off by passing ones through the norm: an RMSNorm maps them to γ / √(1 + ε), whichever way it
    stores γ (Gemma keeps γ − 1). The common factor does not matter to a direction.
    """
    gains = torch.ones(len(writers), dimension)
    for index, writer in enumerate(writers):
        if writer.post_norm is not None:
            norm = model.get_submodule(writer.post_norm)
            parameter = next(norm.parameters())
            with torch.inference_mode():
                ones = torch.ones(1, dimension, dtype=parameter.dtype, device=parameter.device)
                gains[index] = norm(ones)[0].to("cpu", torch.float32)
    return gains


def row_norms(model: nn.Module, writers: Sequence[Writer], dimension: int) -> Tensor:
    """Euclidean norms of the rows of each writer's weight: [writer, d], float32."""
    norms = torch.empty(len(writers), dimension)
    for index, writer in enumerate(writers):
        weight = model.get_submodule(writer.name).weight
        assert isinstance(weight, Tensor)
        norms[index] = weight.detach().to(torch.float32).norm(dim=1).cpu()
    return norms
