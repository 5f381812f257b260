"""Every kind of causal model, on the path the engine takes for it, against one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from conftest import random_prompts, tiny_model
from excise.edit.edit import Edit
from excise.edit.virtual import VirtualEdits
from excise.engine.batch_size import key_value_bytes
from excise.engine.capability import decodes_from_cache, slots_are_exact
from excise.engine.capture import listening, residuals, writer_statistics
from excise.engine.decode import greedy
from excise.engine.device import input_device
from excise.engine.prefill import first_token_log_probabilities, run_group, run_prefix
from excise.errors import TrialError

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "vocab_size": 96}

SLOTS: dict[str, dict[str, object]] = {
    "bert": {**_SHAPE, "is_decoder": True},
    "deepseek_v3": {**_SHAPE, **_LATENT, "v_head_dim": 4},
    "falcon": {key: value for key, value in _SHAPE.items() if key != "head_dim"} | {"alibi": True},
    "gemma3_text": {**_SHAPE, **_SLIDING},
    "gpt2": _GPT2,
    "gpt_neo": {
        **_SHAPE,
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
        "num_heads": 4,
        "window_size": 6,
    },
    "gpt_oss": {**_SHAPE, **_EXPERTS, **_SLIDING},
    "llama4_text": {**_SHAPE, **_EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 48},
    "opt": {**_SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
PLAIN: dict[str, dict[str, object]] = {
    "bamba": {**_SHAPE, **_MAMBA2, "attn_layer_indices": [1, 3]},
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4, "vocab_size": 96},
    "camembert": {**_SHAPE, "is_decoder": True},
    "deepseek_v32": {
        **_SHAPE,
        **_LATENT,
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 64,
    },
    "falcon_h1": {**_SHAPE, **_MAMBA2, "mamba_d_ssm": 64},
    "gemma3n_text": {
        **_SHAPE,
        **_SLIDING,
        "intermediate_size": [48] * 4,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 96,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        **_SHAPE,
        **_SLIDING,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 96,
        "global_head_dim": 16,
    },
    "granitemoehybrid": {
        **_SHAPE,
        **_EXPERTS,
        **_MAMBA2,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 16,
    },
    "jamba": {
        **_SHAPE,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {**_SHAPE, "layer_types": ["conv", "full_attention"] * 2},
    "mamba": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "vocab_size": 96,
        "state_size": 8,
        "time_step_rank": 4,
    },
    "mamba2": {
        **_SHAPE,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
        "chunk_size": 4,
    },
    "mpt": {"d_model": 32, "n_layers": 4, "n_heads": 4, "vocab_size": 96, "expansion_ratio": 2},
    "nemotron_h": {
        **_SHAPE,
        "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 4,
    },
    "openai-gpt": _GPT2,
    "qwen3_next": {
        **_SHAPE,
        **_LINEAR,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "recurrent_gemma": {
        **_SHAPE,
        "num_hidden_layers": 6,
        "lru_width": 32,
        "attention_window_size": 6,
    },
    "rwkv": {**_SHAPE, "attention_hidden_size": 32},
    "zamba2": {
        **_SHAPE,
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_mem_blocks": 1,
        "chunk_size": 4,
        "num_key_value_heads": 4,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "adapter_rank": 4,
    },
}
ENDS = [7, 21, 42, 63, 77, 90]
_models: dict[str, PreTrainedModel] = {}


def build(name: str) -> PreTrainedModel:
    """A random model of that type, with an end token that random answers meet now and then."""
    if name not in _models:
        torch.manual_seed(0)
        with torch.inference_mode(False):
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**(SLOTS | PLAIN)[name]))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.25)
        _models[name] = model.eval().requires_grad_(False)
    model = _models[name]
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=0)
    return model


@pytest.fixture(params=sorted(SLOTS | PLAIN))
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    with torch.inference_mode():
        yield build(request.param)


def alone(model: PreTrainedModel, prompt: list[int]) -> Tensor:
    return model(torch.tensor([prompt])).logits[0, -1]


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
    config = CONFIG_MAPPING["bert"](**_SHAPE)
    assert not slots_are_exact(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("shared", [0, 3])
def test_answers_are_those_of_one_row_at_a_time(model: PreTrainedModel, shared: int) -> None:
    prompts = [list(ids) for ids in random_prompts(9, seed=3, shared=shared)]
    expected = [generated(model, prompt, 12) for prompt in prompts]
    assert greedy(model, prompts, max_new_tokens=12, slots=4) == expected
    cut = greedy(
        model, prompts, max_new_tokens=12, slots=4, decided=lambda answer: answer[-1] % 3 == 0
    )
    for answer, whole in zip(cut, expected, strict=True):
        first = next((i for i, token in enumerate(whole) if token % 3 == 0), len(whole))
        assert answer == whole[: first + 1]


@pytest.mark.parametrize("shared", [0, 3])
def test_log_probabilities_are_those_of_one_row_at_a_time(
    model: PreTrainedModel, shared: int
) -> None:
    prompts = random_prompts(9, seed=3, shared=shared)
    expected = torch.stack([alone(model, prompt).log_softmax(-1) for prompt in prompts])
    found = first_token_log_probabilities(model, prompts, 4)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


def layers_of(model: PreTrainedModel) -> list[str]:
    count = model.config.num_hidden_layers
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return [f"{min(lists, key=lambda name: name.count('.'))}.{index}" for index in range(count)]


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
    found = residuals(model, layers, prompts, 4)
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
    found = writer_statistics(model, names, prompts, 4, dimension=width, second_moments=True)
    assert found.second_moments is not None
    for index, name in enumerate(names):
        calls = [tokens for prompt in prompts for tokens in outputs_of(model, name, prompt)]
        every, last = torch.cat(calls), torch.stack([tokens[-1] for tokens in calls]).mean(0)
        torch.testing.assert_close(found.means[index], last, atol=1e-4, rtol=1e-3)
        moment = every.T @ every / len(every)
        scale = float(moment.abs().max())
        torch.testing.assert_close(
            found.second_moments[index], moment, atol=1e-4 * scale, rtol=1e-3
        )


@pytest.mark.parametrize("name", ["gpt2", "mamba"])
def test_answers_are_the_largest_logits_whatever_the_generation_configuration_asks(
    name: str,
) -> None:
    model, prompts = build(name), random_prompts(6)
    expected = greedy(model, prompts, max_new_tokens=8, slots=3)
    model.generation_config = asked = GenerationConfig(
        eos_token_id=ENDS,
        repetition_penalty=5.0,
        min_new_tokens=8,
        suppress_tokens=sorted({answer[0] for answer in expected}),
        do_sample=True,
        temperature=0.3,
        max_length=3,
        num_beams=2,
    )
    assert greedy(model, prompts, max_new_tokens=8, slots=3) == expected
    assert model.generation_config is asked


@pytest.mark.parametrize("name", ["camembert", "mamba"])
def test_logits_that_are_no_numbers_fail_the_trial(name: str) -> None:
    model = build(name)
    weight = model.get_output_embeddings().weight.data
    kept = weight.clone()
    try:
        weight[0, 0] = float("nan")
        with pytest.raises(TrialError, match="not numbers"):
            first_token_log_probabilities(model, random_prompts(3), 4)
        with pytest.raises(TrialError, match="not numbers"):
            greedy(model, random_prompts(3), max_new_tokens=3, slots=2)
    finally:
        weight.copy_(kept)


def test_a_recurrent_state_does_not_grow_with_tokens() -> None:
    model = build("mamba")
    one = key_value_bytes(model, [[5]], 1)
    assert key_value_bytes(model, [[5] * 100], 50) == one > 0
    assert key_value_bytes(build("zamba2"), [[5] * 100], 50) > 0


def test_inputs_go_where_the_weights_really_are() -> None:
    model = tiny_model()
    assert input_device(model) == torch.device("cpu")
    first = next(iter(model.named_parameters()))[0].rsplit(".", 1)[0]
    model.get_submodule(first).to("meta")
    assert model.device.type == "meta"
    assert input_device(model) == torch.device("cpu")
    assert input_device(model.to("meta")) == torch.device("cpu")


class _Flat(nn.Module):
    """A block that puts out a tuple, or all tokens as one list."""

    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, states: Tensor) -> Tensor | tuple[Tensor, str]:
        return (states, "kept") if self.as_tuple else states.reshape(-1, states.shape[-1])


class _Around(nn.Module):
    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.block = _Flat(as_tuple)

    def forward(self, states: Tensor) -> Tensor | tuple[Tensor, str]:
        return self.block(states)  # type: ignore[no-any-return]


def _edits(count: int, width: int) -> list[Edit]:
    return [
        Edit("orthogonal", ("block",), torch.randn(1, width), torch.randn(1, width), torch.ones(1))
        for _ in range(count)
    ]


@pytest.mark.parametrize("as_tuple", [False, True])
def test_edits_reach_tuples_and_flattened_outputs(as_tuple: bool) -> None:
    torch.manual_seed(0)
    module, states, edits = _Around(as_tuple), torch.randn(3, 5, 8), _edits(2, 8)
    with VirtualEdits(module, ["block"]) as scope:
        scope.use_rows(edits, [1, 0, 1])
        output = module(states)
        single = []
        for edit in edits:
            scope.use(edit)
            single.append(module(states))
    if as_tuple:
        assert output[1] == "kept"
        output, single = output[0], [each[0] for each in single]
    mixed = torch.stack([single[c].view(3, 5, 8)[row] for row, c in enumerate([1, 0, 1])])
    torch.testing.assert_close(output.view(3, 5, 8), mixed)


def test_tokens_that_do_not_divide_among_the_rows_are_an_error() -> None:
    with VirtualEdits(module := _Around(), ["block"]) as scope:
        scope.use_rows(_edits(2, 8), [0, 1])
        with pytest.raises(ValueError, match="not a multiple"):
            module(torch.randn(1, 5, 8))


def test_an_output_that_is_not_a_vector_a_token_is_an_error() -> None:
    model = tiny_model()
    with (
        listening(model, ["lm_head"], lambda index, output: None),
        pytest.raises(ValueError, match="not one vector for each token"),
    ):
        run_group(model, [[5, 6, 7]], [0], run_prefix(model, []))
