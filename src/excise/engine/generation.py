"""What a model's own generation configuration asks for beyond the most probable token.

`generate` and every server follow it. Scores do not: they compare what two models say, not what was done to
it. Whoever reads them has to know the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedModel

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
"""Settings that change greedy decoding, and the values at which they do not; None and nothing never do.

Sampling is left out: whoever samples knows that answers differ.
"""
_SHOWN = 60


def asked_for(configuration: GenerationConfig | None) -> dict[str, str]:
    """What a generation configuration asks for that scores do not follow: name to value, as text."""
    if configuration is None:
        return {}
    found: dict[str, str] = {}
    for name, neutral in _NEUTRAL.items():
        value = getattr(configuration, name, None)
        if value is None or value in neutral or (hasattr(value, "__len__") and not len(value)):
            continue
        text = str(value)
        found[name] = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    return found


def in_words(asked: Mapping[str, str]) -> str:
    """`repetition_penalty 1.3, num_beams 4`."""
    return ", ".join(f"{name} {value}" for name, value in asked.items())


@contextmanager
def following(model: PreTrainedModel, configuration: GenerationConfig) -> Iterator[None]:
    """Let `generate` follow `configuration` and nothing else while the block runs.

    `generate` fills in from the model's own configuration whatever a given one leaves open.
    """
    own = model.generation_config
    model.generation_config = configuration
    try:
        yield
    finally:
        model.generation_config = own
