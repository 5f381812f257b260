"""Which of transformers' classes runs a checkpoint's language model: causal, image-text or any-to-any."""

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
"""Auto classes and their mappings from configurations to models, the preferred ones first."""

_OTHER_ANSWERS: dict[str, str] = {
    "diffusion_gemma": "draws whole answers out of noise, not token by token",
    "pi0": "answers with the motions of a robot",
    **dict.fromkeys(
        ("qwen2_5_omni", "qwen3_omni_moe"),
        "hands text to a part of it, its thinker, and has no pass of its own",
    ),
}
"""Types in these mappings whose models do not answer text with tokens, and what they do."""


def auto_class(name: str, config: PreTrainedConfig) -> Any:
    """The auto class to build or load a model of `config` with.

    Where several know the type, the class that the checkpoint itself names decides: its tensors and
    adapters go by that one's names. Raises ModelError for a type that none of them knows, for an
    encoder-decoder that has no decoder of its own, for one that does not answer token by token, and where
    the names of classes are none.
    """
    if config.model_type in _OTHER_ANSWERS:
        raise ModelError(f"{name}: {config.model_type} {_OTHER_ANSWERS[config.model_type]}")
    own = config.architectures or []
    if not isinstance(own, list) or not all(isinstance(one, str) for one in own):
        raise ModelError(f"{name}: architectures in config.json are no list of names")
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
            f"{name}: {config.model_type} is an encoder-decoder, whose answers do not come from one residual "
            "stream; excise edits decoders"
        )
    return auto
