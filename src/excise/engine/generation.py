"""Settings of a model's own generation configuration that change greedy decoding.

`generate` and servers follow these settings. Scores do not, because they compare models and not settings. The
user is told which settings the scores leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedModel

from excise.errors import shortened

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "constraints": (),
    "diversity_penalty": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "forced_bos_token_id": (),
    "forced_decoder_ids": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "repetition_penalty": (1,),
    "sequence_bias": (),
    "stop_strings": (),
    "suppress_tokens": (),
    "watermarking_config": (),
}
"""Settings that change greedy decoding, with their neutral values; None and empty values are always neutral.

Sampling is left out: users who sample know that answers differ.
"""
_SHOWN = 60


def settings_not_followed(configuration: GenerationConfig | None) -> dict[str, str]:
    """The settings of a generation configuration that scores do not follow: name to value, as text."""
    if configuration is None:
        return {}
    found: dict[str, str] = {}
    for name, neutral in _NEUTRAL.items():
        value = getattr(configuration, name, None)
        if value is None or value in neutral or (hasattr(value, "__len__") and not len(value)):
            continue
        found[name] = shortened(str(value), _SHOWN)
    return found


def settings_text(settings: Mapping[str, str]) -> str:
    """`repetition_penalty 1.3, num_beams 4`."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@contextmanager
def following(model: PreTrainedModel, configuration: GenerationConfig) -> Iterator[None]:
    """Let `generate` follow `configuration` alone while the block runs.

    Without this scope, `generate` takes settings that `configuration` leaves open from the model's own.
    """
    own = model.generation_config
    model.generation_config = configuration
    try:
        yield
    finally:
        model.generation_config = own
