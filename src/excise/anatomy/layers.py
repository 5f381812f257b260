"""Finds a model's decoder layers and the width of its residual stream."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from excise.anatomy.roles import TOWERS
from excise.errors import ModelError


def residual_width(model: PreTrainedModel) -> int:
    """d, the width of the residual stream of the language model. Raises ModelError."""
    config = model.config.get_text_config(decoder=True)
    for name in ("hidden_size", "d_model", "n_embd"):
        width = getattr(config, name, None)
        if isinstance(width, int):
            return width
    raise ModelError(
        f"{config.model_type}: its configuration does not state the width of the residual stream"
    )


def decoder_layers(model: PreTrainedModel, writes: Callable[[nn.Module], bool]) -> tuple[str, ...]:
    """Module names of the language model's decoder layers, in order.

    They are the `ModuleList` whose length the configuration states; without such a list, every outermost list
    whose members hold a writer. In a multimodal model, only the language model is searched. writes: whether a
    module holds a known writer. Raises ModelError if no list is found.
    """
    config = model.config.get_text_config(decoder=True)
    lists = _outermost_lists(model)
    if config is not model.config:
        decoder = model.get_decoder()
        root = next((name for name, module in model.named_modules() if module is decoder), None)
        lists = {name: one for name, one in lists.items() if name.startswith(f"{root}.")} or lists
    counts = {
        count
        for name in ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "num_layers")
        if isinstance(count := getattr(config, name, None), int)
    }
    fitting = [name for name, modules in lists.items() if len(modules) in counts]
    writing = [name for name in fitting or lists if any(map(writes, lists[name]))]
    if fitting:
        # A decoder is preferred to an encoder of the same length; otherwise the first list.
        writing = sorted(writing, key=lambda name: "decoder" not in name)[:1]
    if not writing:
        raise ModelError(f"{type(model).__name__}: found no list of decoder layers")
    return tuple(f"{name}.{index}" for name in writing for index in range(len(lists[name])))


def _outermost_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Outermost `ModuleList`s by name, without those of vision and audio towers."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside and not TOWERS.fullmatch(name):
            lists[name] = module
    return lists
