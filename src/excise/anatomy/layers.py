"""Where a model's decoder layers are, and how wide its residual stream is."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel

from excise.anatomy.roles import TOWERS
from excise.errors import ModelError


def residual_width(model: PreTrainedModel) -> int:
    """d, the width of the residual stream: that of the language model's layers."""
    config = model.config.get_text_config(decoder=True)
    for name in ("hidden_size", "d_model", "n_embd"):
        width = getattr(config, name, None)
        if isinstance(width, int):
            return width
    raise ModelError(
        f"{config.model_type}: its configuration names no width of the residual stream"
    )


def decoder_layers(model: PreTrainedModel, writes: Callable[[nn.Module], bool]) -> tuple[str, ...]:
    """Module names of the language model's decoder layers, in order.

    They are a list of modules as long as the configuration says, or, where there is none of that length,
    every outermost list whose members write. Of a model with towers for images or sound, only its language
    model is searched. writes: tells whether a module holds a known writer.
    Raises ModelError if there is no such list.
    """
    config = model.config.get_text_config(decoder=True)
    lists = _outermost_lists(model)
    if config is not model.config:
        root = _name_of(model, model.get_decoder())
        lists = {
            name: modules for name, modules in lists.items() if name.startswith(f"{root}.")
        } or lists
    counts = {
        count
        for name in ("num_hidden_layers", "decoder_layers", "num_decoder_layers", "num_layers")
        if isinstance(count := getattr(config, name, None), int)
    }
    fitting = [name for name, modules in lists.items() if len(modules) in counts]
    writing = [name for name in fitting or lists if any(map(writes, lists[name]))]
    if fitting:
        # A decoder before an encoder of the same length, and else the first.
        writing = sorted(writing, key=lambda name: "decoder" not in name)[:1]
    if not writing:
        raise ModelError(f"{type(model).__name__}: found no list of decoder layers in it")
    return tuple(f"{name}.{index}" for name in writing for index in range(len(lists[name])))


def _name_of(model: nn.Module, part: nn.Module) -> str | None:
    return next((name for name, module in model.named_modules() if module is part), None)


def _outermost_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Lists of modules by name, without those inside others and those of vision or audio towers."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside and not TOWERS.fullmatch(name):
            lists[name] = module
    return lists
