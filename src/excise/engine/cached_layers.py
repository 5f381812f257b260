"""Layers before the first edited one: what they make of fixed prompts is computed once for all candidates.

While the original model answers the prompts, the hidden states that enter a few layers, the start_layers, are kept,
with the keys and values of all layers before the deepest start_layer. A candidate whose first edited layer lies
behind a start_layer then begins there: for one pass the layers before it hand on what is kept in place of running.
Any stack of layers will do whose members take hidden states and return them; whether a model has one is
not declared but proven, on its own logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from excise.engine.assignment import Assignment, LayerCache
from excise.engine.prefill import (
    Group,
    Tokens,
    common_prefix_length,
    length_groups,
    padding_slack,
    run_group,
    run_prefix,
)

_PROOF_ROWS = 8
_CLOSE = 64
"""Logits may differ by so many units in the last place of the largest: kept states ran in other groups."""


@dataclass
class _Kept:
    """What is kept of one prompt, or of the beginning of all, on the host.

    states: by start_layer, [token, d]. keys: by layer, keys and values [head, token, head_dim].
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    keys: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class CachedLayers:
    """The kept states of one set of prompts.

    layers: names of the model's layers. start_layers: indices of layers that a pass may begin at. with_keys: whether
    answers are to go on from the passes; a forward pass alone needs no keys.
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
        self._beginning, self._rows = _Kept(), dict[int, _Kept]()

    def deepest(self, first_edited: int) -> int:
        """The deepest start_layer at or before a layer; 0 if there is none."""
        return max(
            (start_layer for start_layer in self.start_layers if start_layer <= first_edited),
            default=0,
        )

    def recording(self) -> LayerCache:
        """Keep what passes of the original model show."""
        return _Recording(self)

    def replaying(self, start_layer: int) -> LayerCache:
        """Begin passes at `start_layer`."""
        return _Replay(self, start_layer)

    def forget(self, start_layer: int) -> None:
        """Begin no pass there any more."""
        self.start_layers = tuple(one for one in self.start_layers if one != start_layer)

    def proven(self, model: PreTrainedModel, prompts: Sequence[Tokens], start_layer: int) -> bool:
        """True if passes that begin at `start_layer` give what whole passes give, on a few prompts.

        That is logits and, where answers are to go on from them, keys and values of every layer.
        """
        found: list[Group] = []
        with torch.inference_mode():
            for cached_layers in (None, self.replaying(start_layer)):
                assignment = Assignment(cached_layers=cached_layers)
                shared = prompts[0][: common_prefix_length(prompts)]
                prefix = run_prefix(model, shared, assignment)
                slack = padding_slack(model, prompts, prefix)
                rows = length_groups(prompts, range(len(prompts)), _PROOF_ROWS, slack)[0]
                found.append(run_group(model, prompts, rows, prefix, assignment=assignment))
        whole, begun = found
        return _close(whole.logits, begun.logits) and (
            not self._with_keys or _same_keys(whole, begun)
        )


def _same_keys(whole: Group, begun: Group) -> bool:
    """True if two passes over the same rows left the same keys and values, each on the same device."""
    assert whole.cache is not None, "early layers want slots"
    assert begun.cache is not None, "early layers want slots"
    assert whole.present is not None, "a pass with a cache says what is padding"
    for one, other in zip(whole.cache.layers, begun.cache.layers, strict=True):
        for states, handed in ((one.keys, other.keys), (one.values, other.values)):
            if states.device != handed.device or states.shape != handed.shape:
                return False
            # What stands at padding means nothing.
            own = whole.present.to(states.device)
            if not _close(states.transpose(1, 2)[own], handed.transpose(1, 2)[own]):
                return False
    return True


def _close(one: Tensor, other: Tensor) -> bool:
    unit = torch.finfo(one.dtype).eps * float(one.float().abs().max())
    return bool((one.float() - other.float()).abs().max() <= _CLOSE * unit)


class _Recording:
    def __init__(self, cached_layers: CachedLayers) -> None:
        self._layers = cached_layers

    @contextmanager
    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> Iterator[None]:
        """See `LayerCache`."""
        cached_layers, newest = self._layers, dict[int, Tensor]()

        def listen(index: int):  # type: ignore[no-untyped-def]
            def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor]) -> None:
                cached_layers._in_tuples[index] = isinstance(output, tuple)
                newest[index + 1] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [
            module.register_forward_hook(listen(index))
            for index, module in enumerate(cached_layers._modules)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        # Whole tensors come to the host, not one row after the other: each is waited for.
        states = {
            start_layer: newest[start_layer].to("cpu") for start_layer in cached_layers.start_layers
        }
        keys: list[tuple[Tensor, Tensor]] = []
        if cached_layers._with_keys or rows is None:
            for index, layer in enumerate(cache.layers[: len(cached_layers._modules)]):
                cached_layers._devices[index] = layer.keys.device
                keys.append((layer.keys.to("cpu"), layer.values.to("cpu")))
        for place, length in enumerate(lengths):
            kept = _Kept(
                {start_layer: _own(each[place], length) for start_layer, each in states.items()},
                [
                    (
                        _own(each[place].transpose(0, 1), length).transpose(0, 1),
                        _own(others[place].transpose(0, 1), length).transpose(0, 1),
                    )
                    for each, others in keys
                ],
            )
            if rows is None:
                cached_layers._beginning = kept
            else:
                cached_layers._rows[rows[place]] = kept


def _own(states: Tensor, length: int) -> Tensor:
    """The last `length` along the first axis, as a copy."""
    return states[len(states) - length :].detach().clone()


class _Replay:
    def __init__(self, cached_layers: CachedLayers, start_layer: int) -> None:
        self._layers, self._start_layer = cached_layers, start_layer

    @contextmanager
    def around(
        self, cache: DynamicCache, rows: Sequence[int] | None, lengths: Sequence[int]
    ) -> Iterator[None]:
        """See `LayerCache`."""
        cached_layers, last = self._layers, self._start_layer - 1
        kept = (
            [cached_layers._beginning] * len(lengths)
            if rows is None
            else [cached_layers._rows[row] for row in rows]
        )
        states = _padded([one.states[self._start_layer] for one in kept])

        def handing_on(index: int):  # type: ignore[no-untyped-def]
            def forward(hidden_states: Tensor, *others: object, **named: object) -> object:
                handed = states.to(hidden_states.device) if index == last else hidden_states
                return (handed,) if cached_layers._in_tuples[index] else handed

            return forward

        modules = cached_layers._modules[: self._start_layer]
        # An accelerate hook has put a forward of its own on the instance: that one comes back.
        own = [vars(module).get("forward") for module in modules]
        for index, module in enumerate(modules):
            module.forward = handing_on(index)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module, former in zip(modules, own, strict=True):
                if former is None:
                    del module.forward
                else:
                    module.forward = former
        if cached_layers._with_keys or rows is None:
            for index in range(len(modules)):
                keys, values = (
                    _padded([one.keys[index][which].transpose(0, 1) for one in kept])
                    .transpose(1, 2)
                    .to(cached_layers._devices[index])
                    for which in (0, 1)
                )
                cache.update(keys, values, index)


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
    """Cuts at a sixth, a third and half of the layers, as many of them as `budget` bytes hold.

    Search spaces begin to edit in the first half, if not with the first layer. tokens: of target and of
    control prompts, without their beginning; only the former's keys and values are kept. key_value_bytes: of
    one token in one layer; size: bytes of a number.
    """
    target, control = tokens
    start_layers: tuple[int, ...] = ()
    for share in (6, 3, 2):
        start_layer = layers // share
        more = (*start_layers, start_layer)
        if start_layer == 0 or start_layer in start_layers:
            continue
        states = (target + control) * width * size * len(more)
        if states + target * key_value_bytes * start_layer > budget:
            break
        start_layers = more
    return start_layers


@dataclass(frozen=True)
class CachedPart:
    """Kept states of target and of control prompts, and the layer that each writer writes in."""

    target: CachedLayers
    control: CachedLayers
    layer_of: Mapping[str, int]

    def start_layer(self, changed: Sequence[str]) -> int:
        """Where passes may begin that edit these writers; 0 for at the beginning."""
        first = min((self.layer_of[name] for name in changed), default=len(self.layer_of))
        return self.control.deepest(first)

    def prove(
        self, model: PreTrainedModel, target: Sequence[Tokens], control: Sequence[Tokens]
    ) -> None:
        """Forget the start_layers at which a pass of the original model does not give its own logits."""
        for start_layer in self.control.start_layers:
            sets = ((self.target, target), (self.control, control))
            if not all(
                cached_layers.proven(model, prompts, start_layer) for cached_layers, prompts in sets
            ):
                for cached_layers, _ in sets:
                    cached_layers.forget(start_layer)
