"""The transformers auto class for a checkpoint's language model: causal, image-text or any-to-any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
)

from excise.errors import ModelError

_CLASSES: tuple[tuple[Any, Mapping[type, Any]], ...] = (
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
)
"""Auto classes and their mappings from configurations to models; preferred classes first."""

_OTHER_ANSWERS: dict[str, str] = {
    "diffusion_gemma": "generates whole answers by diffusion, not token by token",
    "pi0": "answers with robot actions",
    **dict.fromkeys(
        ("qwen2_5_omni", "qwen3_omni_moe"),
        "passes text to its thinker, a part of the model, and has no forward pass of its own",
    ),
}
"""Model types in these mappings that do not generate text token by token, with the reason."""


def auto_class(name: str, config: PreTrainedConfig) -> Any:
    """The auto class to build or load a model of `config` with.

    If several auto classes know the type, the class in the checkpoint's configuration decides, because its
    tensors and adapters have the names of that class. Raises ModelError for an unknown type, for an
    encoder-decoder, for a model that does not generate token by token, and for damaged `architectures`.
    """
    if config.model_type in _OTHER_ANSWERS:
        raise ModelError(f"{name}: {config.model_type} {_OTHER_ANSWERS[config.model_type]}")
    own = config.architectures or []
    if not isinstance(own, list) or not all(isinstance(one, str) for one in own):
        raise ModelError(f"{name}: architectures in config.json is not a list of names")
    brought = getattr(config, "auto_map", None)
    brought = brought if isinstance(brought, Mapping) else {}
    known = [
        (auto, _names(mapping[type(config)]))
        for auto, mapping in _CLASSES
        if type(config) in mapping
    ]
    for auto, names in known:
        if names.intersection(own):
            return _decoder_only(name, config, auto)
    for auto, _ in (*known, *(pair for pair in _CLASSES if pair[0].__name__ in brought)):
        return _decoder_only(name, config, auto)
    raise ModelError(
        f"{name}: transformers knows no language model of the type {config.model_type} that is causal, "
        "image-text or any-to-any"
    )


def _names(classes: Any) -> set[str]:
    return {one.__name__ for one in (classes if isinstance(classes, list | tuple) else [classes])}


def _decoder_only(name: str, config: PreTrainedConfig, auto: Any) -> Any:
    if auto is not AutoModelForCausalLM and config.is_encoder_decoder:
        raise ModelError(
            f"{name}: {config.model_type} is an encoder-decoder; excise edits decoder-only models"
        )
    return auto
