"""The zoo itself, on a dozen types that have little in common."""

from __future__ import annotations

import pytest
import torch

from zoo import MODEL_TYPES, CannotBuild, tiny, tiny_config

DIVERSE = (
    "llama",  # the plain case
    "gpt2",  # transposed weights
    "bert",  # norms on the stream, an encoder made causal
    "bart",  # the decoder of an encoder-decoder
    "xlnet",  # two streams, and weights that belong to no Linear
    "deepseek_v3",  # latent attention, dense and expert layers
    "deepseek_v4",  # four streams, compressed attention
    "gemma4_text",  # shared keys and values, an embedding for every layer
    "gemma3",  # composite
    "jamba",  # Mamba, attention and experts
    "qwen3_next",  # linear attention
    "reformer",  # reversible layers
)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(5, 61, (1, 10), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model_type", DIVERSE)
@torch.no_grad()
def test_a_tiny_model_is_small_finite_and_the_same_again(
    model_type: str, ids: torch.Tensor
) -> None:
    model = tiny(model_type)
    logits = model(input_ids=ids).logits
    assert model.num_parameters() < 1_000_000
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.isfinite(logits).all()
    assert torch.equal(logits, model(input_ids=ids).logits)
    assert torch.equal(logits, tiny(model_type).eval()(input_ids=ids).logits)
    assert not torch.equal(logits, tiny(model_type, seed=1)(input_ids=ids).logits)


def test_nothing_is_left_at_a_constant() -> None:
    for model_type in DIVERSE:
        for name, parameter in tiny(model_type).named_parameters():
            assert parameter.numel() == 1 or parameter.std() > 0, (model_type, name)


def test_tied_weights_stay_tied() -> None:
    model = tiny("gpt2")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_default_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    tiny("llama")
    assert torch.equal(before, torch.get_rng_state())


def test_all_types_are_known_and_the_impossible_say_why() -> None:
    assert len(MODEL_TYPES) > 150
    with pytest.raises(CannotBuild, match="timm"):
        tiny_config("gemma3n")
