"""Fits an edit to a model: renames its writers to the modules of the model's class."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from transformers import PreTrainedModel

from excise.anatomy.layers import residual_width
from excise.anatomy.writers import Anatomy, examine
from excise.edits.values import EditValues
from excise.errors import ModelError

AnyEdit = TypeVar("AnyEdit", bound=EditValues)


def fitted(edit: AnyEdit, anatomy: Anatomy, name: str) -> AnyEdit:
    """`edit` with the names of writers in `anatomy`.

    The language model of an image-text model, for example in a GGUF file, has the same layers under other
    names. name: of the model, for messages. Raises ModelError if the model lacks a writer that the edit
    changes, or if its residual stream has another width.
    """
    edit = _renamed(edit, anatomy)
    _require_fit(edit, set(anatomy.names), anatomy.dimension, name)
    return edit


def fitted_to_modules(edit: AnyEdit, model: PreTrainedModel) -> AnyEdit:
    """`edit` with the names of modules of a model in memory, any of which may be a writer."""
    modules = {name for name, _ in model.named_modules()}
    if not set(edit.writers) <= modules:
        edit = _renamed(edit, examine(model))
    name = model.name_or_path or type(model).__name__
    _require_fit(edit, modules, residual_width(model), name)
    rows = [row for row, writer in enumerate(edit.writers) if writer in modules]
    if len(rows) == len(edit.writers):
        return edit
    # Writers of strength 0 need not exist.
    return replace(
        edit,
        writers=tuple(edit.writers[row] for row in rows),
        u=edit.u[rows],
        v=edit.v[rows],
        strengths=edit.strengths[rows],
    )


def _renamed(edit: AnyEdit, anatomy: Anatomy) -> AnyEdit:
    """The edit with other names; unchanged if a writer is in no layer of `anatomy`."""
    if set(edit.writers) <= set(anatomy.names):
        return edit
    places: dict[str, str] = {}
    for writer in anatomy.writers:
        layer = anatomy.layers[writer.layer]
        places[_place(layer) + writer.name.removeprefix(layer)] = writer.name
    names: dict[str, str] = {}
    for name in edit.writers:
        found = [writer for place, writer in places.items() if f".{name}".endswith(f".{place}")]
        if len(found) != 1:
            return edit
        names[name] = found[0]
    return replace(
        edit,
        writers=tuple(names[name] for name in edit.writers),
        per_matrix=tuple(names[name] for name in edit.per_matrix),
    )


def _require_fit(edit: EditValues, names: set[str], dimension: int, model: str) -> None:
    unknown = [writer for writer in edit.changed if writer not in names]
    if unknown:
        raise ModelError(
            f"{model}: has no writer {unknown[0]}, which the edit names; the edit was made of another model, "
            "or with writers (--writers), which it needs here too"
        )
    if edit.u.shape[1] != dimension:
        raise ModelError(
            f"{model}: its residual stream has {dimension} numbers, the edit's {edit.u.shape[1]}; the edit "
            "was made of another model"
        )


def _place(layer: str) -> str:
    """A layer's name without the modules around its list: `layers.3` of `model.language_model.layers.3`."""
    return ".".join(layer.split(".")[-2:])
