"""Slots against the slow reference: each row's keys and values as a list of its own, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from excise.engine import slots as module
from excise.engine.slots import SlotCache
from virtual_devices import VirtualDevices

LAYERS = ((2, 4), (3, 6))
"""Heads and their width, which may differ from layer to layer."""
PREFIX = 3


class Reference:
    """What every live row holds, as [layer][which][head, token, head_dim], in slot order."""

    def __init__(self) -> None:
        self.rows: list[list[list[Tensor]]] = []

    def admit(self, cache: DynamicCache, lengths: Sequence[int]) -> None:
        for row, length in enumerate(lengths):
            self.rows.append(
                [
                    [
                        torch.cat(
                            [
                                states[row, :, :PREFIX],
                                states[row, :, states.shape[2] - length + PREFIX :],
                            ],
                            1,
                        )
                        for states in (layer.keys, layer.values)
                    ]
                    for layer in cache.layers
                ]
            )

    def append(self, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        for slot, row in enumerate(self.rows):
            for held, new in zip(row, states, strict=True):
                held[:] = [
                    torch.cat([old, one[slot]], 1) for old, one in zip(held, new, strict=True)
                ]

    def release(self, leaving: Sequence[int]) -> None:
        for slot in sorted(leaving, reverse=True):
            self.rows[slot] = self.rows[-1]
            self.rows.pop()


def draw(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator)


def a_cache(rows: int, width: int, generator: torch.Generator) -> DynamicCache:
    cache = DynamicCache()
    for index, (heads, size) in enumerate(LAYERS):
        shape = rows, heads, width, size
        cache.update(draw(*shape, generator=generator), draw(*shape, generator=generator), index)
    return cache


def assert_same(cache: SlotCache, seen: Sequence[tuple[Tensor, Tensor]], held: Reference) -> None:
    assert cache.lengths == [row[0][0].shape[1] for row in held.rows]
    for slot, row in enumerate(held.rows):
        for layer, both in enumerate(row):
            for which, expected in enumerate(both):
                length = expected.shape[1]
                found = seen[layer][which][slot, :, -length:]
                assert torch.equal(found, expected)


@pytest.mark.parametrize("cached", [1, 10**9], ids=["row by row", "all rows at once"])
@pytest.mark.parametrize("seed", range(6))
def test_rows_come_grow_and_go_as_if_each_were_alone(
    seed: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHED", cached)
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    cache, held = SlotCache(len(LAYERS), 7, 60), Reference()
    for step in range(60):
        if cache.free and (not held.rows or step % 4 == 0):
            rows = 1 + below(cache.free)
            lengths = [PREFIX + 1 + below(9) for _ in range(rows)]
            filled = a_cache(rows, max(lengths), generator)
            cache.admit(filled, lengths, PREFIX)
            held.admit(filled, lengths)
        mask, positions = cache.prepare_step(torch.device("cpu"))
        assert positions.flatten().tolist() == [row[0][0].shape[1] for row in held.rows]
        new = [
            (
                draw(len(held.rows), heads, 1, size, generator=generator),
                draw(len(held.rows), heads, 1, size, generator=generator),
            )
            for heads, size in LAYERS
        ]
        seen = [
            layer.update(keys, values)
            for layer, (keys, values) in zip(cache.layers, new, strict=True)
        ]
        held.append(new)
        assert_same(cache, seen, held)
        assert mask.sum(1).tolist() == cache.lengths
        leaving = [
            slot for slot in range(len(held.rows)) if below(6) == 0 or cache.lengths[slot] > 50
        ]
        names = list(range(len(held.rows)))
        for source, target in cache.release(leaving):
            names[target] = names[source]
        expected = list(range(len(held.rows)))
        for slot in sorted(leaving, reverse=True):
            expected[slot] = expected[-1]
            expected.pop()
        assert names[: len(expected)] == expected
        held.release(leaving)


def test_rows_on_an_accelerator_are_moved_by_one_call_each_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    cache = SlotCache(len(LAYERS), 9, 30)
    filled = a_cache(9, 12, generator)
    cache.admit(filled, [12] * 9, PREFIX)
    (layer, *_), moves = cache.layers, [(8, 1), (7, 0), (5, 3)]
    buffers = layer._key_buffer, layer._value_buffer
    expected = []
    for buffer in buffers:
        moved = buffer.clone()
        for source, target in moves:
            moved[target] = moved[source]
        expected.append(moved)
    layer.move(moves, torch.tensor(moves).T)
    assert all(map(torch.equal, buffers, expected))


@pytest.mark.parametrize("cached", [1, 10**9], ids=["row by row", "all rows at once"])
@pytest.mark.parametrize("columns", [-5, -2, 1, 3])
def test_a_window_that_moves_over_itself(
    columns: int, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHED", cached)
    generator = torch.Generator().manual_seed(0)
    cache = SlotCache(len(LAYERS), 4, 30)
    filled = a_cache(4, 12, generator)
    cache.admit(filled, [12] * 4, PREFIX)
    layer = cache.layers[0]
    layer.shift(6)
    layer.shift(columns)
    found = layer.update(filled.layers[0].keys[:, :, :1], filled.layers[0].values[:, :, :1])
    for one, given in zip(found, (filled.layers[0].keys, filled.layers[0].values), strict=True):
        assert torch.equal(one, torch.cat([given, given[:, :, :1]], 2))


def test_slots_on_a_device_bring_nothing_to_the_host() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [9, 12, 7, 12, 10]
    filled = a_cache(5, 12, generator)
    with VirtualDevices(2) as devices:
        there = DynamicCache()
        for index, layer in enumerate(filled.layers):
            device = torch.device("cuda", index)
            there.update(layer.keys.to(device), layer.values.to(device), index)
        plain, cache = (SlotCache(len(LAYERS), 6, 14) for _ in range(2))
        for one, given in ((plain, filled), (cache, there)):
            with devices.watched() as seen:
                one.admit(given, lengths, PREFIX)
                for step in range(20):
                    one.prepare_step(torch.device("cuda", 0))
                    for layer, states in zip(one.layers, given.layers, strict=True):
                        layer.update(
                            states.keys[: len(one.lengths), :, :1],
                            states.values[: len(one.lengths), :, :1],
                        )
                    if step in (3, 7):
                        one.release([0, 2])
                    one.lengths = [min(length, 13) for length in one.lengths]
            assert seen.to_host == seen.waits == []
        assert plain.lengths == cache.lengths
        for layer, other in zip(plain.layers, cache.layers, strict=True):
            assert torch.equal(layer._key_buffer, other._key_buffer.cpu())
            assert torch.equal(layer._value_buffer, other._value_buffer.cpu())
