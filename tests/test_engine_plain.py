"""Every kind of causal model, on the path the engine takes for it, against one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from conftest import Thirds, random_prompts
from excise.anatomy.writers import examine
from excise.engine.capability import decodes_from_cache, slots_are_exact
from excise.engine.capture import Accumulators, residuals, writer_statistics
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.operators.moments import ExactMoments
from zoo import tiny

SLOTS = (
    *(
        "bert",
        "deepseek_v3",
        "falcon",
        "gemma3_text",
        "gpt2",
        "gpt_neo",
        "gpt_oss",
        "llama4_text",
        "opt",
    ),
)
PLAIN = (
    *("bamba", "bloom", "camembert", "deepseek_v32", "falcon_h1", "gemma3n_text", "gemma4_text"),
    *("granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "mpt", "nemotron_h", "openai-gpt"),
    *("qwen3_next", "recurrent_gemma", "rwkv", "zamba2"),
)
ENDS = [7, 21, 42, 63, 77, 90]
_models: dict[str, PreTrainedModel] = {}


def build(name: str) -> PreTrainedModel:
    """A random model of that type, with an end token that random answers meet now and then."""
    if name not in _models:
        with torch.inference_mode(False):
            _models[name] = tiny(name)
    model = _models[name]
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=0)
    return model


@pytest.fixture(params=SLOTS + PLAIN)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    with torch.inference_mode():
        yield build(request.param)


def alone(model: PreTrainedModel, prompt: list[int]) -> Tensor:
    return model(torch.tensor([prompt]), use_cache=False).logits[0, -1]


def generated(model: PreTrainedModel, prompt: list[int], tokens: int) -> list[int]:
    """The answer of `generate`; of the forward pass alone where `generate` is known not to follow it."""
    if not decodes_from_cache(model) or len(prompt) == 1:
        answer: list[int] = []
        while len(answer) < tokens and not set(answer) & set(ENDS):
            ids = torch.tensor([prompt + answer])
            answer.append(int(model(ids, use_cache=False).logits[0, -1].argmax()))
        return answer
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens
    )
    return out[0, len(prompt) :].tolist()


def test_the_path_is_the_one_that_is_exact() -> None:
    assert [name for name in SLOTS if not slots_are_exact(build(name))] == []
    assert [name for name in PLAIN if slots_are_exact(build(name))] == []


def test_an_encoder_that_is_no_decoder_takes_the_plain_path() -> None:
    model = tiny("bert")
    model.config.is_decoder = False
    assert not slots_are_exact(model)


@pytest.mark.parametrize("shared", [0, 3])
def test_answers_are_those_of_one_row_at_a_time(model: PreTrainedModel, shared: int) -> None:
    prompts = [list(ids) for ids in random_prompts(9, seed=3, shared=shared)]
    expected = [generated(model, prompt, 12) for prompt in prompts]
    assert greedy(model, prompts, max_new_tokens=12, slots=4) == expected
    cut = greedy(model, prompts, max_new_tokens=12, slots=4, stopping_rule=Thirds())
    assert cut.pop(3) == []
    for answer, whole in zip(cut, expected[:3] + expected[4:], strict=True):
        first = next((i for i, token in enumerate(whole) if token % 3 == 0), len(whole))
        assert answer == whole[: first + 1]


@pytest.mark.parametrize("shared", [0, 3])
def test_logits_are_those_of_one_row_at_a_time(model: PreTrainedModel, shared: int) -> None:
    prompts = random_prompts(9, seed=3, shared=shared)
    expected = torch.stack([alone(model, prompt) for prompt in prompts]).log_softmax(-1)
    found = first_token_logits(model, prompts, 4).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


def layers_of(model: PreTrainedModel) -> list[str]:
    return list(examine(model).layers)


def outputs_of(model: PreTrainedModel, name: str, prompt: list[int]) -> list[Tensor]:
    """What a module puts out in one pass over one prompt, [token, d] a call."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        tensor = tensor[0] if tensor.dim() == 4 else tensor
        seen.append(tensor.reshape(-1, tensor.shape[-1]).double())

    handle = model.get_submodule(name).register_forward_hook(hook)
    model(torch.tensor([prompt]))
    handle.remove()
    return seen


def test_residuals_are_those_of_one_row_at_a_time(model: PreTrainedModel) -> None:
    prompts, layers = random_prompts(9, seed=3), layers_of(model)
    width = examine(model).dimension
    found = residuals(model, layers, prompts, 4, dimension=width)
    for index in (1, 3):
        last = [outputs_of(model, layers[index], prompt)[-1][-1].float() for prompt in prompts]
        torch.testing.assert_close(found[:, index], torch.stack(last), atol=2e-4, rtol=1e-3)


def writers_of(model: PreTrainedModel) -> list[str]:
    """Modules that put out one vector of the residual's width for every token, experts among them."""
    prompt, layers = list(range(20, 25)), layers_of(model)[0].rsplit(".", 1)[0]
    names = [
        name
        for name, module in model.named_modules()
        if name.startswith(layers)
        and (isinstance(module, nn.Linear) or name.endswith(("experts", "mlp", "mixer", "block")))
    ]
    fitting = [
        name
        for name in names
        if (seen := outputs_of(model, name, prompt))
        and all(each.shape == (5, model.config.hidden_size) for each in seen)
    ]
    experts = [name for name in fitting if name.endswith("experts")]
    return fitting[:2] + fitting[-2:] + experts[:1]


def test_statistics_are_those_of_one_row_at_a_time(model: PreTrainedModel) -> None:
    prompts, names = random_prompts(9, seed=3), writers_of(model)
    width = model.config.hidden_size
    moments = ExactMoments(len(names), width)
    found = writer_statistics(
        model, names, prompts, 4, dimension=width, accumulators=Accumulators(moments)
    )
    for index, name in enumerate(names):
        calls = [tokens for prompt in prompts for tokens in outputs_of(model, name, prompt)]
        every, last = torch.cat(calls), torch.stack([tokens[-1] for tokens in calls]).mean(0)
        torch.testing.assert_close(found.means[index], last, atol=1e-4, rtol=1e-3)
        moment = every.T @ every / len(every)
        scale = float(moment.abs().max())
        torch.testing.assert_close(
            moments.system(index).matrix(), moment, atol=1e-4 * scale, rtol=1e-3
        )
