"""Tiny random models of every causal-LM type that the installed transformers knows. No download."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from zoo_shapes import CANNOT, EXCEPTIONS, LAYERS, SMALL

MODEL_TYPES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
_LARGEST = 100_000_000
"""Parameters of a model that counts as tiny."""
_KEPT = ("A_log", "dt_bias", "time_decay", "time_first", "dt_proj.bias", "recurrent_param")
"""Parameters whose values mean rates and time constants: other values than the initial ones explode."""


class CannotBuild(Exception):  # noqa: N818 - an outcome, not a fault
    """A type that cannot be built small here, with the reason in one line."""


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The type's own configuration with everything made small. Raises CannotBuild."""
    if model_type in CANNOT:
        raise CannotBuild(CANNOT[model_type])
    default = AutoConfig.for_model(model_type)
    values = _small_values(default, EXCEPTIONS.get(model_type, {}))
    config: PreTrainedConfig = type(default)(**values)
    return config


def _small_values(plain: PreTrainedConfig, declared: Mapping[str, object]) -> dict[str, object]:
    """Constructor arguments: what the default declares, small; what an exception says, as it says."""
    known = plain.to_dict()
    values: dict[str, object] = {}
    for name, value in SMALL.items():
        own = plain.attribute_map.get(name, name)
        if own in known and (isinstance(known[own], int | float) or name in _OFTEN_NONE):
            values[own] = value
    for name in ("layer_types", "mlp_layer_types"):
        kinds = known.get(name)
        if isinstance(kinds, list) and not isinstance(getattr(type(plain), name, None), property):
            values[name] = _every_kind(kinds)
    if isinstance(known.get("is_decoder"), bool):
        values["is_decoder"] = True
    for name, sub in plain.sub_configs.items():
        if isinstance(known.get(name), dict):
            own = getattr(plain, name)
            inner = declared.get(name, {})
            assert isinstance(inner, Mapping)
            values[name] = _small_values(sub() if own is None else own, inner)
    return values | {key: value for key, value in declared.items() if key not in plain.sub_configs}


_OFTEN_NONE = {
    *("eos_token_id", "pad_token_id", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *(
        "n_routed_experts",
        "num_experts_per_tok",
        "sliding_window",
        "mamba_d_ssm",
        "n_group",
        "topk_group",
    ),
}
"""Names that are set even where a type's default is none."""


def _every_kind(kinds: list[str]) -> list[str]:
    """LAYERS kinds of layer: each of the type's at least once, the rarest first kept."""
    distinct = list(dict.fromkeys(kinds))
    return (distinct * LAYERS)[: max(LAYERS, len(distinct))]


def tiny(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the type, float32, ready to run. Raises CannotBuild."""
    try:
        config = tiny_config(model_type)
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except CannotBuild:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise CannotBuild(f"{type(error).__name__}: {' '.join(lines)[:160]}") from error
    size = sum(parameter.numel() for parameter in model.parameters())
    if size > _LARGEST:
        raise CannotBuild(f"its smallest form found has {size:,} parameters")
    _randomise(model)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = 1
        model.generation_config.pad_token_id = 1
    return model.eval().requires_grad_(False)


def _randomise(model: PreTrainedModel) -> None:
    """Nothing zero, one or symmetric: gains, biases and gates that are off would hide what they do."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(kept in name for kept in _KEPT) or not parameter.is_floating_point():
                continue
            if parameter.dim() == 1:
                parameter.normal_(mean=0.5, std=0.3)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
