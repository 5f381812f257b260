"""Layers before the first edited one: their output on fixed prompts is computed once for all candidates.

While the original model answers the prompts, the hidden states that enter a few layers, the start layers, are
stored, with the keys and values of all layers before the last start layer. A candidate whose first edited
layer is at or behind a start layer begins its passes there: the layers before it return stored states and do
not run. This needs layers that take hidden states and return hidden states. Whether a model has such layers
is not declared but measured, on its own logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from excise.engine.assignment import Assignment, LayerCache
from excise.engine.prefill import Group, Prefill, Tokens

_PROOF_ROWS = 8
_CLOSE = 64
"""Logits may differ by so many units in the last place of the largest: stored states ran in other groups."""


@dataclass
class _Stored:
    """Stored states of one prompt, or of the common prefix, on the host.

    states: by start layer, [token, d]. keys: by layer, keys and values [head, token, head_dim].
    """

    states: dict[int, Tensor]
    keys: list[tuple[Tensor, Tensor]]


class CachedLayers:
    """The stored states of one set of prompts.

    layers: names of the model's layers. start_layers: indices of layers at which a pass may begin. with_keys:
    whether answers decode from the passes; a forward pass alone needs no keys.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[str],
        start_layers: Sequence[int],
        *,
        with_keys: bool,
    ) -> None:
        self.start_layers, self._with_keys = tuple(sorted(start_layers)), with_keys
        self._modules = [model.get_submodule(name) for name in layers[: self.start_layers[-1]]]
        self._in_tuples = [False] * len(self._modules)
        # Where each layer's keys and values lay: its weights may be elsewhere between passes.
        self._devices = [torch.device("cpu")] * len(self._modules)
        self._prefix, self._rows = _Stored({}, []), dict[int, _Stored]()

    def last_start(self, first_edited: int) -> int:
        """The last start layer at or before a layer; 0 if every start layer is behind it."""
        return max((start for start in self.start_layers if start <= first_edited), default=0)

    def recording(self) -> LayerCache:
        """Store the states of passes of the original model."""
        return self._record

    def replaying(self, start_layer: int) -> LayerCache:
        """Begin passes at `start_layer`."""
        return partial(self._replay, start_layer)

    def forget(self, start_layer: int) -> None:
        """Begin no pass at `start_layer` any more."""
        self.start_layers = tuple(each for each in self.start_layers if each != start_layer)

    def is_exact(self, model: PreTrainedModel, prompts: Sequence[Tokens], start_layer: int) -> bool:
        """True if passes that begin at `start_layer` give the results of whole passes, on a few prompts.

        The results are logits and, if answers decode from the passes, keys and values of every layer.
        """
        found: list[Group] = []
        with torch.inference_mode():
            for cached_layers in (None, self.replaying(start_layer)):
                assignment = Assignment(cached_layers=cached_layers)
                prefill = Prefill.start(model, prompts, assignment)
                found.append(prefill.run(prefill.groups(_PROOF_ROWS)[0]))
        whole, replayed = found
        return _close(whole.logits, replayed.logits) and (
            not self._with_keys or _same_keys(whole, replayed)
        )

    @contextmanager
    def _record(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> Iterator[None]:
        newest = dict[int, Tensor]()

        def listen(
            index: int, module: object, inputs: object, output: Tensor | tuple[Tensor]
        ) -> None:
            self._in_tuples[index] = isinstance(output, tuple)
            newest[index + 1] = output[0] if isinstance(output, tuple) else output

        with ExitStack() as hooks:
            for index, module in enumerate(self._modules):
                hooks.enter_context(module.register_forward_hook(partial(listen, index)))
            yield
        # Whole tensors are copied to the host, not one row after the other: the host waits for each copy.
        states = {start: newest[start].to("cpu") for start in self.start_layers}
        keys: list[tuple[Tensor, Tensor]] = []
        if self._with_keys or rows is None:
            for index, layer in enumerate(cache.layers[: len(self._modules)]):
                self._devices[index] = layer.keys.device
                keys.append((layer.keys.to("cpu"), layer.values.to("cpu")))
        for place, length in enumerate(lengths):
            stored = _Stored(
                {start: _own(each[place], length, 0) for start, each in states.items()},
                [
                    (_own(each[place], length, 1), _own(others[place], length, 1))
                    for each, others in keys
                ],
            )
            if rows is None:
                self._prefix = stored
            else:
                self._rows[rows[place]] = stored

    @contextmanager
    def _replay(
        self,
        start_layer: int,
        cache: DynamicCache,
        rows: Sequence[int] | None,
        lengths: Sequence[int],
    ) -> Iterator[None]:
        stored = (
            [self._prefix] * len(lengths) if rows is None else [self._rows[row] for row in rows]
        )
        states = _padded([each.states[start_layer] for each in stored])

        def replaced(
            index: int, hidden_states: Tensor, *others: object, **named: object
        ) -> Tensor | tuple[Tensor]:
            if index == start_layer - 1:
                hidden_states = states.to(hidden_states.device)
            return (hidden_states,) if self._in_tuples[index] else hidden_states

        modules = self._modules[:start_layer]
        # An accelerate hook puts a forward of its own on the instance, which is restored afterwards.
        own = [vars(module).get("forward") for module in modules]
        for index, module in enumerate(modules):
            module.forward = partial(replaced, index)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module, former in zip(modules, own, strict=True):
                if former is None:
                    del module.forward
                else:
                    module.forward = former
        if self._with_keys or rows is None:
            for index in range(len(modules)):
                keys, values = (
                    _padded([each.keys[index][which].transpose(0, 1) for each in stored])
                    .transpose(1, 2)
                    .to(self._devices[index])
                    for which in (0, 1)
                )
                cache.update(keys, values, index)


def _same_keys(whole: Group, replayed: Group) -> bool:
    """True if two passes over the same rows left the same keys and values, each on the same device."""
    assert whole.cache is not None, "cached layers need slots"
    assert replayed.cache is not None, "cached layers need slots"
    assert whole.present is not None, "a pass with a cache marks its padding"
    for one, other in zip(whole.cache.layers, replayed.cache.layers, strict=True):
        for states, handed in ((one.keys, other.keys), (one.values, other.values)):
            if states.device != handed.device or states.shape != handed.shape:
                return False
            # States at padding have no meaning.
            own = whole.present.to(states.device)
            if not _close(states.transpose(1, 2)[own], handed.transpose(1, 2)[own]):
                return False
    return True


def _close(one: Tensor, other: Tensor) -> bool:
    unit = torch.finfo(one.dtype).eps * float(one.float().abs().max())
    return bool((one.float() - other.float()).abs().max() <= _CLOSE * unit)


def _own(states: Tensor, length: int, axis: int) -> Tensor:
    """The last `length` along an axis, as a copy."""
    return states.narrow(axis, states.shape[axis] - length, length).detach().clone()


def _padded(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [token, …] of different lengths side by side, right-aligned, zeros before them."""
    width = max(map(len, parts))
    result = parts[0].new_zeros(len(parts), width, *parts[0].shape[1:])
    for row, part in enumerate(parts):
        result[row, width - len(part) :] = part
    return result


def start_layers_within(
    budget: float,
    layers: int,
    tokens: tuple[int, int],
    width: int,
    key_value_bytes: int,
    size: int,
) -> tuple[int, ...]:
    """Start layers at a sixth, a third and half of the layers, as many of them as `budget` bytes hold.

    Search spaces begin to edit in the first half, if not with the first layer. tokens: of target and of
    control prompts, without their common prefix; keys and values are stored of target prompts only. width:
    of a hidden state. key_value_bytes: of one token in one layer. size: bytes of a number.
    """
    target, control = tokens
    chosen: tuple[int, ...] = ()
    for share in (6, 3, 2):
        start = layers // share
        more = (*chosen, start)
        if start == 0 or start in chosen:
            continue
        states = (target + control) * width * size * len(more)
        if states + target * key_value_bytes * start > budget:
            break
        chosen = more
    return chosen


@dataclass(frozen=True)
class CachedPart:
    """Stored states of target and of control prompts, and the layer that each writer belongs to."""

    target: CachedLayers
    control: CachedLayers
    layer_of: Mapping[str, int]

    def start_layer(self, changed: Sequence[str]) -> int:
        """The layer at which passes may begin if these modules are edited; 0 for whole passes."""
        # A module that is not a known writer may be in any layer.
        first = min((self.layer_of.get(name, 0) for name in changed), default=len(self.layer_of))
        return self.control.last_start(first)

    def verify(
        self, model: PreTrainedModel, target: Sequence[Tokens], control: Sequence[Tokens]
    ) -> None:
        """Forget the start layers from which the original model does not give its own logits."""
        for start_layer in self.control.start_layers:
            sets = ((self.target, target), (self.control, control))
            if not all(layers.is_exact(model, prompts, start_layer) for layers, prompts in sets):
                for layers, _ in sets:
                    layers.forget(start_layer)
