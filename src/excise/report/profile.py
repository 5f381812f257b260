"""An edit over the layers: strengths, norms, and cosines between directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from excise.anatomy import roles
from excise.edits.values import EditValues
from excise.operators.operator import unit

_PLACE = re.compile(r"(?:.*?\.)?(?P<layer>\d{1,4})\.(?P<module>.+)")


@dataclass(frozen=True)
class Profile:
    """One component of an edit over its layers.

    component: such as attn.o_proj; with the module's name if a layer has several such modules. direction:
    number of the direction, from 0. layers, strengths, norms: for each writer. A norm ‖u‖·‖v‖ is 1 for an
    orthogonal operator and larger for an oblique one. cosines: between u of each writer and the next.
    """

    component: str
    direction: int
    layers: tuple[int, ...]
    strengths: tuple[float, ...]
    norms: tuple[float, ...]
    cosines: tuple[float, ...]


def place(writer: str) -> tuple[int, str, str]:
    """Layer, component and module of a writer, from its name; the first number (1 to 4 digits) is the layer.

    A module without a declared role is its own component.
    """
    match = _PLACE.fullmatch(writer)
    layer, module = (int(match["layer"]), match["module"]) if match else (0, writer)
    component = roles.component_of(module)
    return layer, component or module, module


def profiles(edit: EditValues) -> tuple[Profile, ...]:
    """The edit's components in the order of its writers, for each direction in turn."""
    rows: dict[tuple[int, str, str], list[tuple[int, int]]] = {}
    seen: dict[str, int] = {}
    for row, writer in enumerate(edit.writers):
        direction = seen[writer] = seen.get(writer, -1) + 1
        layer, component, module = place(writer)
        rows.setdefault((direction, component, module), []).append((layer, row))
    grouped = sorted(_merged(rows).items(), key=lambda item: item[0][0])
    return tuple(
        _profile(edit, component, direction, sorted(places))
        for (direction, component), places in grouped
    )


def _merged(
    rows: Mapping[tuple[int, str, str], list[tuple[int, int]]],
) -> dict[tuple[int, str], list[tuple[int, int]]]:
    """Modules of one component become one profile, unless they share a layer."""
    merged: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for (direction, component, module), places in rows.items():
        held = merged.setdefault((direction, component), [])
        if {layer for layer, _ in held} & {layer for layer, _ in places}:
            merged[direction, f"{component} ({module})"] = places
        else:
            held += places
    return merged


def _profile(
    edit: EditValues, component: str, direction: int, places: list[tuple[int, int]]
) -> Profile:
    layers, rows = zip(*places, strict=True)
    u, v = edit.u[list(rows)], edit.v[list(rows)]
    directions = unit(u)
    cosines = (directions[:-1] * directions[1:]).sum(1)
    norms = torch.linalg.vector_norm(u, dim=1) * torch.linalg.vector_norm(v, dim=1)
    return Profile(
        component=component,
        direction=direction,
        layers=layers,
        strengths=tuple(edit.strengths[list(rows)].tolist()),
        norms=tuple(norms.tolist()),
        cosines=tuple(cosines.tolist()),
    )
