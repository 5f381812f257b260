"""Which tensors PyTorch lets meet, where their result lies, and which operations make the host wait.

For `virtual_devices`. Operations are those that reach `__torch_dispatch__`; tensors say themselves where they
lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten
HOST = torch.device("cpu")

CROSSING = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
"""Operations that take tensors of several devices because that is what they are for."""
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
"""Operations whose index tensors may also lie on the CPU, wherever the values lie."""
JOINING = {aten.cat.default, aten.stack.default}
"""Operations that take not even a CPU tensor of no dimensions beside tensors of a GPU."""
READING = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.allclose.default,
}
"""Operations that hand their result to the host: `.item()`, `bool()`, `torch.equal`."""
SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.bincount.default,
}
"""Operations whose result has a size that the host has to wait for."""


def _on_host(one: Tensor) -> bool:
    return one.device == HOST


@cache
def argument_names(func: OpOverload) -> tuple[str, ...]:
    """Those of an operation, in order."""
    return tuple(one.name for one in func._schema.arguments)


@cache
def _written(func: OpOverload) -> tuple[str, ...]:
    return tuple(
        one.name
        for one in func._schema.arguments
        if one.alias_info is not None and one.alias_info.is_write
    )


def place_of(
    func: OpOverload, given: Mapping[str, Any], tensors: Sequence[Tensor]
) -> torch.device | None:
    """Where the result lies. Raises RuntimeError for tensors of devices that do not go together."""
    if func in CROSSING:
        return tensors[0].device
    if func in INDEXING:
        return _place_of_indexed(given)
    places = {
        one.device for one in tensors if func in JOINING or not (_on_host(one) and one.dim() == 0)
    }
    if len(places) > 1 and any(place.type == "cuda" for place in places):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(map(str, places)))}! ({func})"
        )
    place = next(iter(places), None)
    for name in _written(func) if place is not None and place.type == "cuda" else ():
        changed = given.get(name)
        if isinstance(changed, Tensor) and changed.device != place:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} is on "
                f"{changed.device}, not {place} ({func})"
            )
    return place or (tensors[0].device if tensors else None)


def _place_of_indexed(given: Mapping[str, Any]) -> torch.device:
    home = given["self"].device
    for index in given["indices"]:
        if index is not None and index.device not in (home, HOST):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor "
                f"({home}), not on {index.device}"
            )
    values = given.get("values")
    if values is not None and values.device != home and (values.dim() or not _on_host(values)):
        raise RuntimeError(
            f"expected self and values to be on the same device, not on {home} and {values.device}"
        )
    return home
