"""Prepacked weights: the same numbers, the same products, and the way back to the bit."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from conftest import wide_model
from excise.devices.prepacked import (
    PrepackedLinear,
    SharedOneDnnLinear,
    can_prepack,
    is_prepacked,
    plain_weights,
    prepack,
    undo_prepacking,
)
from excise.models.weights import dense, stored_bytes
from excise.undocumented import prepacked_linear

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.float32), reason="this processor has no products of prepacked weights"
)


def random_layer(bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(300, 260, bias=bias, dtype=dtype).requires_grad_(False)


def prepacked(layer: nn.Linear) -> nn.Linear:
    found = deepcopy(layer)
    assert prepack(nn.ModuleList([found])) == 1
    assert isinstance(found, PrepackedLinear)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(300,), (1, 300), (7, 300), (2, 5, 300), (0, 300), (2, 0, 300)])
def test_products_are_those_of_the_ordinary_layer(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    if not can_prepack(dtype):
        pytest.skip("not on this processor")
    layer, values = random_layer(bias, dtype), torch.randn(shape).to(dtype)
    exact = functional.linear(
        values.double(), layer.weight.double(), layer.bias.double() if bias else None
    )
    found = prepacked(layer)(values)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), exact, rtol=0, atol=float(40 * torch.finfo(dtype).eps)
    )


def test_values_may_lie_in_any_order() -> None:
    layer = random_layer(True)
    values = torch.randn(300, 6).T
    torch.testing.assert_close(prepacked(layer)(values), layer(values))


def test_gradients_are_those_of_the_ordinary_layer() -> None:
    layer, found = random_layer(True), []
    for each in (layer, prepacked(layer)):
        values = torch.linspace(-1, 1, 600).view(2, 300).requires_grad_()
        each(values).sin().sum().backward()
        assert values.grad is not None
        found.append(values.grad)
    torch.testing.assert_close(*found)


def test_the_way_back_is_exact_and_names_stay() -> None:
    model, original = wide_model(), wide_model()
    names = [name for name, _ in model.named_parameters()]
    assert prepack(model) == 20
    assert [name for name, _ in model.named_parameters()] == names
    assert is_prepacked(model.get_parameter("model.layers.0.mlp.down_proj.weight"))
    assert stored_bytes(model) == stored_bytes(original)
    for name, module in original.named_modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(dense(model.get_submodule(name), "weight"), module.weight)
    with plain_weights(model):
        inside = model.state_dict()
        assert inside.keys() == original.state_dict().keys()
        assert all(torch.equal(inside[name], one) for name, one in original.state_dict().items())
    assert is_prepacked(model.get_parameter("model.layers.0.mlp.down_proj.weight"))
    undo_prepacking(model)
    assert not any(isinstance(module, PrepackedLinear) for module in model.modules())


def test_what_may_not_be_laid_out_stays() -> None:
    class Own(nn.Linear):
        pass

    elsewhere, shared, small = nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(8, 8)
    elsewhere.forward = lambda values: values  # type: ignore[method-assign]
    table = nn.Embedding(300, 300)
    shared.weight = table.weight
    trained = nn.Linear(300, 300)
    model = nn.ModuleList([Own(300, 300), elsewhere, shared, small, table])
    model.requires_grad_(False)
    model.append(trained)
    assert prepack(model) == 0
    assert not any(is_prepacked(parameter) for parameter in model.parameters())


def test_a_table_of_embeddings_is_multiplied_where_it_lies() -> None:
    table, head = nn.Embedding(400, 300), nn.Linear(300, 400, bias=False)
    head.weight = table.weight
    model = nn.ModuleDict({"table": table, "head": head}).requires_grad_(False)
    values = (0.05 * torch.randn(3, 1, 300)).requires_grad_()
    wanted = functional.linear(values, table.weight)
    (gradient,) = torch.autograd.grad(wanted.sin().sum(), values)
    prepack(model)
    assert isinstance(head, SharedOneDnnLinear)
    for _ in range(2):
        assert head.weight is table.weight
        assert not is_prepacked(head.weight)
        torch.testing.assert_close(head(values), wanted, rtol=1e-4, atol=1e-4)
        (found,) = torch.autograd.grad(head(values).sin().sum(), values)
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-4)
        with plain_weights(model):
            assert type(head) is nn.Linear
    undo_prepacking(model)
    assert type(head) is nn.Linear
    assert head.weight is table.weight
    model.to(torch.bfloat16)
    prepack(model)
    # There PyTorch's own product is oneDNN's.
    assert type(head) is nn.Linear


def test_taking_weights_in_ordinary_order_copies_nothing_else() -> None:
    table, layer = nn.Embedding(40, 300), nn.Linear(300, 300)
    model = nn.ModuleDict({"table": table, "layer": layer}).requires_grad_(False)
    assert prepack(model) == 1
    place = table.weight.data_ptr()
    with plain_weights(model):
        pass
    assert is_prepacked(layer.weight)
    assert table.weight.data_ptr() == place


def test_a_layer_stays_the_object_that_it_is() -> None:
    layer, heard = random_layer(True), []
    layer.register_forward_hook(lambda *_: heard.append(1))
    model = nn.ModuleDict({"one": layer, "other": nn.ModuleList([layer])})
    assert prepack(model) == 1
    assert model["one"] is layer
    assert model["other"][0] is layer  # type: ignore[index]
    with plain_weights(model):
        assert type(layer) is nn.Linear
    layer(torch.randn(2, 300))
    assert heard == [1]


def test_what_was_put_back_stays_so() -> None:
    model = wide_model()
    with plain_weights(model):
        pass
    assert not any(is_prepacked(parameter) for parameter in model.parameters())


def test_a_machine_without_such_products_keeps_weights_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert prepack(wide_model()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_products_are_found_out(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_prepack(dtype)
    for wrong in (
        lambda values, weight, bias: torch.zeros(len(values), len(weight)),
        lambda values, weight, bias: prepacked_linear(values, weight, bias).roll(1, 0),
        lambda values, weight, bias: prepacked_linear(values, weight, bias) * 1.5,
    ):
        with monkeypatch.context() as patch:
            patch.setattr("excise.devices.prepacked.prepacked_linear", wrong)
            assert not can_prepack(dtype)
