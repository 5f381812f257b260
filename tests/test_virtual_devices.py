"""The harness of virtual devices: it refuses, allows and counts what PyTorch on a GPU does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from virtual_devices import VirtualDevices

A = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "mix",
    [
        lambda first, second: first + second,
        lambda first, second: first + A,
        lambda first, second: first @ second.T,
        lambda first, second: torch.cat([first, second]),
        lambda first, second: torch.stack([first.sum(), torch.tensor(1.0)]),
        lambda first, second: first.add_(second),
        lambda first, second: torch.where(second > 1, first, first),
        lambda first, second: first[torch.zeros(1, dtype=torch.long, device="cuda:1")],
        lambda first, second: first.index_select(0, torch.zeros(1, dtype=torch.long)),
        lambda first, second: nn.functional.embedding(torch.zeros(1, dtype=torch.long), first),
        lambda first, second: nn.functional.linear(first, second),
        lambda first, second: A.clone().add_(first),
        lambda first, second: first.masked_fill(second > 1, 0.0),
        lambda first, second: first.index_put_((torch.tensor([0]),), second[0]),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_tensors_of_two_devices_are_refused(
    mix: Callable[[Tensor, Tensor], Tensor], inference: bool
) -> None:
    with VirtualDevices(2), torch.inference_mode(inference):
        first, second = A.to("cuda:0"), A.to("cuda:1")
        with pytest.raises(RuntimeError, match=r"same device|on cpu or on"):
            mix(first, second)
        # The same beside one another is no mistake.
        assert (first + A.to("cuda:0")).device == torch.device("cuda:0")


def test_what_pytorch_lets_mix() -> None:
    with VirtualDevices(2):
        first = A.to("cuda:0")
        assert (first + torch.tensor(1.0)).tolist() == (A + 1).tolist()
        assert first[torch.tensor([1])].tolist() == A[[1]].tolist()
        assert first[:, [2, 0]].device == torch.device("cuda:0")
        first[torch.tensor([0])] = torch.tensor(7.0)
        assert first[0].tolist() == [7.0, 7.0, 7.0]
        second = torch.zeros(2, 3, device="cuda:1")
        assert second.copy_(first).device == torch.device("cuda:1")
        second[1] = first[0]
        assert second.tolist() == [[7.0] * 3] * 2


def test_where_tensors_are_made() -> None:
    with VirtualDevices(2):
        places = [
            torch.zeros(2, device="cuda:1"),
            torch.tensor([1, 2], device="cuda:1"),
            torch.arange(3, device=torch.device("cuda", 1)),
            torch.zeros(2, device=1),
            torch.zeros(2).to(1),
            torch.zeros(2, device="cuda:1").new_tensor([3]),
            torch.zeros(2, device="cuda:1").new_zeros(2),
            torch.zeros_like(torch.zeros(2, device="cuda:1")),
        ]
        assert {one.device for one in places} == {torch.device("cuda", 1)}
        assert torch.zeros(2, device="cuda").device == torch.device("cuda", 0)
        assert torch.zeros(2).cuda().device == torch.device("cuda", 0)
        assert torch.zeros(2, device="cuda:1").new_zeros(2, device="cpu").device.type == "cpu"
        assert torch.zeros(2, device="cuda:1").to("meta").device.type == "meta"
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.zeros(2, device="cuda:2")
        with pytest.raises(TypeError, match="can't convert"):
            torch.zeros(2, device="cuda").numpy()


def test_views_share_memory_and_copies_do_not() -> None:
    with VirtualDevices():
        host = A.clone()
        whole = host.to("cuda")
        whole[0].add_(1)
        whole.view(-1)[5] = 9
        assert whole.tolist() == [[1.0, 2.0, 3.0], [3.0, 4.0, 9.0]]
        assert host.tolist() == A.tolist()
        assert whole.to("cuda:0") is whole
        assert whole.to("cuda:0", copy=True).add_(1).tolist() != whole.tolist()


@pytest.mark.parametrize(
    ("read", "times"),
    [
        (lambda one: one.cpu(), 1),
        (lambda one: one.to("cpu", torch.float64), 1),
        (lambda one: one.tolist(), 1),
        (lambda one: one.sum().item(), 1),
        (lambda one: float(one[0, 0]), 1),
        (lambda one: bool((one > 2).any()), 1),
        (lambda one: torch.equal(one, one), 1),
        (lambda one: torch.zeros(2, 3).copy_(one), 1),
        (lambda one: one.cpu().numpy(), 1),
        (lambda one: [float(each) for each in one[0]], 3),
        (lambda one: one.to("cuda:1"), 0),
        (lambda one: one.to(torch.float64).softmax(-1), 0),
        (lambda one: torch.zeros(3).to("cuda") + one[0], 0),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_comes_to_the_host_is_counted(
    read: Callable[[Tensor], object], times: int, inference: bool
) -> None:
    with VirtualDevices(2) as devices, torch.inference_mode(inference):
        one = A.to("cuda")
        with devices.watched() as seen:
            read(one)
        assert len(seen.to_host) == times
        assert not seen.waits


def test_sizes_that_the_host_waits_for_are_counted() -> None:
    with VirtualDevices() as devices:
        one = A.to("cuda")
        with devices.watched() as seen:
            one[one > 2]
            one.nonzero()
            one[torch.ones(2, 3, dtype=torch.bool)]
        # A mask on the host has its size there.
        assert len(seen.waits) == 2


def test_modules_move_and_learn() -> None:
    with VirtualDevices(2):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        expected = layer(A).square().sum()
        gradient = torch.autograd.grad(expected, layer.weight)[0]
        layer.to("cuda:1")
        assert isinstance(layer.weight, nn.Parameter)
        assert layer.weight.device == torch.device("cuda:1")
        found = layer(A.to("cuda:1")).square().sum()
        found.backward()
        assert found.item() == expected.item()
        assert layer.weight.grad is not None
        assert layer.weight.grad.device == torch.device("cuda:1")
        assert layer.weight.grad.tolist() == gradient.tolist()


def test_gradients_go_back_over_devices() -> None:
    def loss(first: str, second: str) -> Tensor:
        weight = torch.linspace(0, 1, 6).view(2, 3).requires_grad_()
        there = (A.to(first) * weight.to(first)).to(second)
        there[:, [0, 2]].square().sum().backward()
        assert weight.grad is not None
        assert weight.grad.device.type == "cpu"
        return weight.grad

    expected = loss("cpu", "cpu")
    with VirtualDevices(2):
        assert torch.equal(loss("cuda:0", "cuda:1"), expected)
        assert torch.equal(loss("cuda:1", "cpu"), expected)


def test_nothing_is_left_behind() -> None:
    had = torch.cuda.is_available()
    with VirtualDevices():
        assert torch.cuda.is_available()
    assert torch.cuda.is_available() is had
    assert isinstance(torch.zeros(1).device, torch.device)
