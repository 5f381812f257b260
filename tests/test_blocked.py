"""Weights in blocks: the same numbers, the same products, and the way back to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from conftest import SHAPE, fill, tiny_tokenizer
from excise.engine.decode import greedy
from excise.engine.prefill import first_token_logits
from excise.model.blocked import (
    BlockedLinear,
    block,
    blocked,
    in_ordinary_order,
    is_blocked,
    unblock,
    works,
)
from excise.model.load import load
from excise.model.source import resolve
from excise.model.weights import dense, stored_bytes

pytestmark = pytest.mark.skipif(
    not works(torch.float32), reason="this processor has no products with weights in blocks"
)
WIDE = {"hidden_size": 256, "intermediate_size": 320, "head_dim": 64, "initializer_range": 0.05}
"""Matrices large enough to be laid out."""


def wide_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return fill(AutoModelForCausalLM.from_config(LlamaConfig(**(SHAPE | WIDE))))


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    wide_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def random_layer(bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(300, 260, bias=bias, dtype=dtype).requires_grad_(False)


def in_blocks(layer: nn.Linear) -> nn.Linear:
    holder = nn.ModuleList([layer])
    assert block(holder) == 1
    found = holder[0]
    assert isinstance(found, nn.Linear)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(300,), (1, 300), (7, 300), (2, 5, 300), (0, 300), (2, 0, 300)])
def test_products_are_those_of_the_ordinary_layer(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    if not works(dtype):
        pytest.skip("not on this processor")
    layer, values = random_layer(bias, dtype), torch.randn(shape).to(dtype)
    exact = functional.linear(
        values.double(), layer.weight.double(), layer.bias.double() if bias else None
    )
    found = in_blocks(layer)(values)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), exact, rtol=0, atol=float(40 * torch.finfo(dtype).eps)
    )


def test_values_may_lie_in_any_order() -> None:
    layer = random_layer(True)
    values = torch.randn(300, 6).T
    torch.testing.assert_close(in_blocks(layer)(values), layer(values))


def test_gradients_are_those_of_the_ordinary_layer() -> None:
    layer, found = random_layer(True), []
    for each in (layer, in_blocks(layer)):
        values = torch.linspace(-1, 1, 600).view(2, 300).requires_grad_()
        each(values).sin().sum().backward()
        assert values.grad is not None
        found.append(values.grad)
    torch.testing.assert_close(*found)


def test_the_way_back_is_exact_and_names_stay() -> None:
    model, original = wide_model(), wide_model()
    names = [name for name, _ in model.named_parameters()]
    assert block(model) == 20
    assert [name for name, _ in model.named_parameters()] == names
    assert is_blocked(model.get_parameter("model.layers.0.mlp.down_proj.weight"))
    assert stored_bytes(model) == stored_bytes(original)
    for name, module in original.named_modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(dense(model.get_submodule(name), "weight"), module.weight)
    with in_ordinary_order(model):
        inside = model.state_dict()
        assert inside.keys() == original.state_dict().keys()
        assert all(torch.equal(inside[name], one) for name, one in original.state_dict().items())
    assert is_blocked(model.get_parameter("model.layers.0.mlp.down_proj.weight"))
    unblock(model)
    assert not any(isinstance(module, BlockedLinear) for module in model.modules())


def test_what_may_not_be_laid_out_stays() -> None:
    class Own(nn.Linear):
        pass

    hooked, shared, small = (
        nn.Linear(300, 300, bias=False),
        nn.Linear(300, 300, bias=False),
        nn.Linear(8, 8),
    )
    hooked.register_forward_pre_hook(lambda module, inputs: None)
    table = nn.Embedding(300, 300)
    shared.weight = table.weight
    trained = nn.Linear(300, 300)
    model = nn.ModuleList([Own(300, 300), hooked, shared, small, table])
    model.requires_grad_(False)
    model.append(trained)
    assert block(model) == 0
    assert not any(is_blocked(parameter) for parameter in model.parameters())


def test_a_machine_without_such_products_keeps_weights_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert block(wide_model()) == 0


def test_a_loaded_model_answers_as_the_ordinary_one(wide_folder: Path) -> None:
    loaded = load(resolve(str(wide_folder), None), dtypes=("float32",))
    assert isinstance(loaded.model.get_submodule("model.layers.3.mlp.up_proj"), BlockedLinear)
    prompts = [[2, 9, 17, 4], [2, 30, 4], [2, 11, 12, 13, 14, 4]]
    ordinary = wide_model()
    torch.testing.assert_close(
        first_token_logits(loaded.model, prompts, 4),
        first_token_logits(ordinary, prompts, 4),
        rtol=0,
        atol=1e-4,
    )
    answers = [
        greedy(model, prompts, max_new_tokens=12, slots=2) for model in (loaded.model, ordinary)
    ]
    assert answers[0] == answers[1]


def test_a_layer_that_looks_into_its_weights_keeps_them(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = LlamaMLP.forward

    def looking(self: LlamaMLP, values: Tensor) -> Tensor:
        # As some architectures multiply two weights before they meet a token.
        scale = self.down_proj.weight.abs().max() / self.down_proj.weight.abs().max()
        return ordinary(self, values) * scale

    monkeypatch.setattr(LlamaMLP, "forward", looking)
    loaded = load(resolve(str(wide_folder), None), dtypes=("float32",))
    assert not any(is_blocked(parameter) for parameter in loaded.model.parameters())
    assert torch.isfinite(first_token_logits(loaded.model, [[2, 9, 4]], 1)).all()


def test_another_sum_is_not_taken_for_rounding(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "excise.model.blocked.blocked", lambda weight: blocked(weight.flip(0).contiguous())
    )
    loaded = load(resolve(str(wide_folder), None), dtypes=("float32",))
    assert not any(isinstance(module, BlockedLinear) for module in loaded.model.modules())
