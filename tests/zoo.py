"""Tiny random models of every causal, image-text and any-to-any type that transformers knows."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from excise.checkpoint.auto_class import auto_class
from zoo_multimodal import MULTIMODAL, NOT_SMALL
from zoo_shapes import EXPERTS, IMPOSSIBLE, KEEP, LAYERS, SIZES, TYPES, VOCABULARY

CAUSAL_TYPES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
IMAGE_TEXT_TYPES: tuple[str, ...] = tuple(
    sorted(
        {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
        - {*CAUSAL_TYPES}
    )
)
"""Types that are in no causal mapping."""
MODEL_TYPES: tuple[str, ...] = tuple(sorted((*CAUSAL_TYPES, *IMAGE_TEXT_TYPES)))
_EXCEPTIONS = {**TYPES, **MULTIMODAL}
_NOT_BUILT = {**IMPOSSIBLE, **NOT_SMALL}

# Decays and steps of recurrences: initialised with care, and another draw may let a state grow.
_RECURRENT = re.compile(r"(A_log|dt_bias|time_decay|time_first|recurrent_param|dt_proj\.bias)$")
# A field that names a layer pattern has one entry for each layer.
_PATTERNS = ("layer_types", "mlp_layer_types", "indexer_types")
_SPECIAL = re.compile(r"_(token_id|token_index)$")
_COMMON = {field.name for field in dataclasses.fields(PreTrainedConfig)}


class CannotBuild(Exception):  # noqa: N818 - says it better than an Error
    """This type has no tiny model here; the message says why, in one line."""


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The type's own configuration with every width, depth and vocabulary made small."""
    if model_type in _NOT_BUILT:
        raise CannotBuild(_NOT_BUILT[model_type])
    config_class = CONFIG_MAPPING[model_type]
    # A configuration may change the lists it is given: they must not be the table's own.
    return config_class(**copy.deepcopy(_small(config_class, {}, _EXCEPTIONS.get(model_type, {}))))


def tiny(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the type, in float32 and frozen; the same for the same seed."""
    config = tiny_config(model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(model_type, config).from_config(config, dtype=torch.float32)
        _draw(model)
    if (generation := getattr(model, "generation_config", None)) is not None:
        generation.eos_token_id = generation.pad_token_id = 1
    return model.float().eval().requires_grad_(False)


def _small(
    config_class: type[PreTrainedConfig], given: dict[str, Any], special: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments that make a small configuration of this class.

    `given` are the values a composite configuration starts this part with; `special` is this
    type's own entry in the table of exceptions.
    """
    values = dict(given)
    fields = {f.name: f for f in dataclasses.fields(config_class) if f.name not in _COMMON}
    spare = iter(range(VOCABULARY - 1, 60, -1))
    for name, field in fields.items():
        default = given.get(name, field.default)
        if name in SIZES and not (name in KEEP and default is None):
            values[name] = SIZES[name]
            if SIZES[name] is None and "None" not in str(field.type):
                values[name] = next(spare)
        elif _SPECIAL.search(name) and isinstance(default, int) and default > 60:
            # Beyond the small vocabulary, or among the ids of a test's prompt.
            values[name] = next(spare)
    if "kv_lora_rank" in fields:  # latent attention: every head has keys of its own, and
        values["num_key_value_heads"] = SIZES["num_attention_heads"]
        values["head_dim"] = SIZES["qk_rope_head_dim"]  # the rotary embedding reads this one
    for name, spec in config_class.sub_configs_defaults.items():
        if name in special and special[name] is None:
            continue  # a tower that this type can do without
        part = spec.config_class
        chosen: dict[str, Any] = {}
        if not issubclass(part, PreTrainedConfig):
            part = CONFIG_MAPPING[spec.model_type]
            chosen["model_type"] = spec.model_type
        own = {**_EXCEPTIONS.get(spec.model_type, {}), **special.get(name, {})}
        values[name] = chosen | _small(part, dict(spec.init_kwargs), own)
    parts = config_class.sub_configs_defaults
    values |= {n: value for n, value in special.items() if n not in parts or value is None}
    return values | _patterns(config_class, values, special)


def _patterns(
    config_class: type[PreTrainedConfig], values: dict[str, Any], special: dict[str, Any]
) -> dict[str, list[str]]:
    """Layer patterns in which every kind of layer of the full-size default occurs."""
    fields = {field.name for field in dataclasses.fields(config_class)}
    patterns = [name for name in _PATTERNS if name in fields and name not in special]
    if not patterns:
        return {}
    full = config_class()
    kinds = list(zip(*(getattr(full, name) or () for name in patterns), strict=False))
    if not kinds:
        return {}
    chosen = sorted({kinds.index(kind) for kind in kinds})
    depth = max(values.get("num_hidden_layers", LAYERS), len(chosen))
    # More layers from further down: it is the first ones that are the exceptions.
    more = [index for index in range(len(kinds)) if index not in chosen]
    more.sort(key=lambda index: (index < chosen[-1], index))
    chosen = sorted(chosen + more[: depth - len(chosen)])
    small = {name: [getattr(full, name)[index] for index in chosen] for name in patterns}
    return {"num_hidden_layers": len(chosen), **small} if "num_hidden_layers" in fields else small


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    """New values for every parameter, so that nothing is zero, one or symmetric.

    The initial values of a model hide what a trained one does: gates and output projections that
    start at zero contribute nothing, and gains that start at one are no test of a gain.
    """
    saved = model.state_dict(keep_vars=True)
    buffers = [(n, t) for n, t in saved.items() if not isinstance(t, nn.Parameter)]
    for name, tensor in [*model.named_parameters(), *buffers]:
        uniform = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
        if name.endswith("tid2eid"):  # the experts of each token of the vocabulary
            tensor.copy_(torch.rand(len(tensor), EXPERTS).argsort(1)[:, : tensor.shape[1]])
        elif not tensor.is_floating_point():
            continue
        elif not uniform and (_RECURRENT.search(name) or not isinstance(tensor, nn.Parameter)):
            continue  # a decay with values of its own, or a table that the model computes
        elif tensor.dim() >= 2:
            tensor.normal_(0.0, 1.0 / math.sqrt(tensor.shape[-1]))
        elif tensor.numel() > 1:
            tensor.normal_(0.5, 0.3)
        elif tensor.dim() == 1:
            tensor.uniform_(0.5, 1.0)  # a lone factor of a whole layer must not vanish
