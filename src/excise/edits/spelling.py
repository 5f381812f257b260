"""An edit under the names of another class of the same model: its language model alone, or all of it."""

from __future__ import annotations

from dataclasses import replace

from excise.anatomy.writers import Anatomy
from excise.edits.edit import Edit


def spelt_for(edit: Edit, anatomy: Anatomy) -> Edit:
    """`edit` with its writers under the names that `anatomy` has for them.

    The class that holds only the language model of an image-text model, as that of a GGUF file does, has the
    same layers under another name. An edit with a writer that is in no such layer is returned as it is.
    """
    if set(edit.writers) <= set(anatomy.names):
        return edit
    places: dict[str, str] = {}
    for writer in anatomy.writers:
        layer = anatomy.layers[writer.layer]
        places[_place(layer) + writer.name.removeprefix(layer)] = writer.name
    names: dict[str, str] = {}
    for name in edit.writers:
        found = [own for place, own in places.items() if f".{name}".endswith(f".{place}")]
        if len(found) != 1:
            return edit
        names[name] = found[0]
    return replace(
        edit,
        writers=tuple(names[name] for name in edit.writers),
        per_matrix=tuple(names[name] for name in edit.per_matrix),
    )


def _place(layer: str) -> str:
    """A layer's name without the modules around its list: `layers.3` of `model.language_model.layers.3`."""
    return ".".join(layer.split(".")[-2:])
