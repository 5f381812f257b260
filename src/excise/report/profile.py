"""An edit seen over the layers: strengths of each component, and how its directions turn."""

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
    """One component of an edit along the layers that it is in.

    component: such as attn.o_proj; with the module's own name where a layer has several of them.
    direction: 0, or which one of an edit of several directions. layers, strengths: one a writer.
    norms: ‖u‖·‖v‖ of each writer, the norm of the operator u vᵀ: 1 if it is orthogonal, more the more
    oblique. cosines: between u of each writer and of the next one, one fewer.
    """

    component: str
    direction: int
    layers: tuple[int, ...]
    strengths: tuple[float, ...]
    norms: tuple[float, ...]
    cosines: tuple[float, ...]


def place(writer: str) -> tuple[int, str, str]:
    """Layer, component and module of a writer, by its name: the first number in it, of 4 digits at most,
    is the layer.

    A module of no declared role is its own component.
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
