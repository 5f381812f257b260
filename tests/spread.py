"""Models spread over devices by accelerate, as transformers spreads them with a device map."""

from __future__ import annotations

from pathlib import Path

from accelerate import dispatch_model
from transformers import PreTrainedModel

from excise.anatomy.writers import examine

Place = int | str
"""A GPU's number, "cpu" or "disk"."""


def spread(
    model: PreTrainedModel, first: Place, second: Place, folder: Path | None = None
) -> PreTrainedModel:
    """The model itself, the first half of its layers in one place and all behind them in another.

    folder: where weights go that are to lie on disk.
    """
    layers = examine(model).layers
    places: dict[str, Place] = {name: second for name, _ in model.named_children()}
    _split(places, layers[0].rpartition(".")[0], model, first, second)
    for index, name in enumerate(layers):
        places[name] = first if index < (len(layers) + 1) // 2 else second
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        # What shares a tensor has to lie in one place.
        head = next(
            name for name, one in model.named_modules() if one is model.get_output_embeddings()
        )
        places[head] = first
    return dispatch_model(model, places, offload_dir=folder)


def _split(
    places: dict[str, Place], stack: str, model: PreTrainedModel, first: Place, second: Place
) -> None:
    """Name what stands beside the list of layers, on the way down to it."""
    path = stack.split(".")
    for depth in range(len(path)):
        outer = ".".join(path[:depth])
        places.pop(outer, None)
        met = False
        for name, _ in model.get_submodule(outer).named_children():
            full = f"{outer}.{name}".removeprefix(".")
            met = met or name == path[depth]
            # Embeddings stand before the layers, norms behind them; rotary tables go where they start.
            early = not met or "rotary" in name
            places[full] = first if early and depth else places.get(full, second)
    places.pop(stack, None)
