"""Measures what each layer writes along a direction r: r is removed before the layer, measured after it.

If the input of a layer has no component along r, then any component of its output along r was written inside
the layer. This also holds for streams that are scaled or mixed by scalars (residual multipliers,
hyper-connections, AltUp). A norm on the stream itself (BERT, MiniMax) rotates directions without writing:
the stream is measured before such a norm, and r is removed again after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy
from excise.devices.memory import input_device
from excise.devices.transfers import as_float64
from excise.errors import ModelError

_SAME = 1e-2
"""Largest relative distance at which a norm's input counts as a known state of the stream: far above
bfloat16's rounding, far below the distance of unrelated tensors."""


@dataclass(frozen=True)
class Written:
    """What a layer wrote along r, and the rounding of the stream along r; both root mean square."""

    along: float
    rounding: float


@torch.inference_mode()
def forward(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """One forward pass without a cache."""
    model(torch.tensor([list(tokens)], device=input_device(model)), use_cache=False)


def stream_of(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
    """The residual stream among the arguments of a decoder layer: the first floating-point tensor."""
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise TypeError("a decoder layer was called without hidden states")


def first_tensor(output: object) -> Tensor | None:
    """A module's output, or the first element of a tuple; None if it is not a tensor."""
    value = output[0] if isinstance(output, tuple | list) and output else output
    return value if isinstance(value, Tensor) else None


class StreamProbe:
    """One forward pass with r [d], float32, removed from the stream before every layer.

    norms: names of the norms on the stream, see `norms_on_the_stream`.
    """

    def __init__(
        self, model: PreTrainedModel, anatomy: Anatomy, norms: frozenset[str], r: Tensor
    ) -> None:
        self._model, self._anatomy, self._norms, self._r = model, anatomy, norms, r
        self._squares: dict[int, list[float]] = defaultdict(list)
        self._rounding: dict[int, list[float]] = defaultdict(list)
        self._leaving: Tensor | None = None

    def run(self, tokens: Sequence[int]) -> list[Written]:
        """What each layer wrote along r on `tokens`; zero for a layer that did not run.

        Raises ModelError if no layer ran.
        """
        with ExitStack() as hooks:
            for index, name in enumerate(self._anatomy.layers):
                layer = self._model.get_submodule(name)
                enter, into, out = (
                    partial(hook, index)
                    for hook in (self._entering, self._into_norm, self._out_of_layer)
                )
                hooks.enter_context(layer.register_forward_pre_hook(enter, with_kwargs=True))
                for part, module in layer.named_modules():
                    if f"{name}.{part}" in self._norms:
                        hooks.enter_context(module.register_forward_pre_hook(into))
                        hooks.enter_context(module.register_forward_hook(self._out_of_norm))
                # Registered last, after the hooks of a norm at the end of the layer.
                hooks.enter_context(layer.register_forward_hook(out))
            forward(self._model, tokens)
        if not self._squares:
            raise ModelError(
                f"{type(self._model).__name__}: {self._anatomy.layers[0]} and the others do not run on "
                "text; they are not the decoder layers"
            )
        return [
            Written(_mean_root(self._squares[index]), _mean_root(self._rounding[index]))
            for index in range(len(self._anatomy.layers))
        ]

    def _clean(self, stream: Tensor) -> Tensor:
        hidden = self._streams(stream.to(torch.float32))
        r = self._r.to(stream.device)
        return (hidden - (hidden @ r).unsqueeze(-1) * r).reshape(stream.shape).to(stream.dtype)

    def _streams(self, stream: Tensor) -> Tensor:
        """[…, stream, d]: a vector may hold several streams."""
        return stream.reshape(*stream.shape[:-1], -1, len(self._r))

    def _measure(self, index: int, stream: Tensor) -> None:
        hidden = self._streams(as_float64(stream.cpu()))
        r = self._r.to(torch.float64)
        self._squares[index].append((hidden @ r).square().mean().item())
        # Each addition to the stream (two to four a layer) rounds a component by up to ε/2 of its size; along
        # r the errors add up like independent errors. A factor of four is a wide margin.
        epsilon = 4 * torch.finfo(stream.dtype).eps
        self._rounding[index].append(epsilon**2 * (hidden.square() @ r.square()).mean().item())

    def _entering(
        self, index: int, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        stream = stream_of(args, kwargs)
        if self._leaving is not None and self._leaving.shape == stream.shape:
            # A model spread over several devices moves the stream between its layers.
            between = stream - self._leaving.to(stream)
            if between.any():
                # A module between the layers wrote; it is counted with the following layer.
                self._measure(index, between)
        clean = self._clean(stream)
        return (
            tuple(clean if value is stream else value for value in args),
            {key: clean if value is stream else value for key, value in kwargs.items()},
        )

    def _into_norm(self, index: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._measure(index, args[0])

    def _out_of_norm(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        return self._clean(output)

    def _out_of_layer(self, index: int, module: nn.Module, args: object, output: object) -> None:
        leaving = first_tensor(output)
        assert leaving is not None
        self._leaving = leaving.clone()
        self._measure(index, leaving)


def _mean_root(squares: Sequence[float]) -> float:
    return float((sum(squares) / len(squares)) ** 0.5) if squares else 0.0


def norms_on_the_stream(
    model: PreTrainedModel, anatomy: Anatomy, tokens: Sequence[int]
) -> frozenset[str]:
    """Names of norms whose input is the residual stream itself and whose output may replace it.

    The outputs of all writers are set to zero. The stream then keeps its direction at every token between
    two norms, so a norm is on the stream if its input is a multiple of a known state of the stream (with
    several streams: a mixture). Post-norms of writers see zeros; other norms see other directions.
    """
    found: set[str] = set()
    states: list[Tensor] = []

    def silence(module: nn.Module, args: object, output: object) -> object:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        assert isinstance(output, Tensor)
        return torch.zeros_like(output)

    def entering(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        states[:] = [as_float64(stream_of(args, kwargs).cpu())]

    def record(name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        # A module with two inputs is a sum or a gate, and may carry the output of a writer.
        value = args[0] if len(args) == 1 else None
        if not isinstance(value, Tensor) or not isinstance(output, Tensor):
            return
        fits = value.shape[-1] == anatomy.dimension and value.shape == output.shape
        if fits and _in_span(value, states):
            found.add(name)
            states.append(as_float64(output.cpu()))

    with ExitStack() as hooks:
        for name in anatomy.names:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(silence))
        for name in anatomy.layers:
            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(entering, with_kwargs=True))
            for part, module in layer.named_modules():
                if part and _may_be_norm(module, anatomy.dimension):
                    recording = partial(record, f"{name}.{part}")
                    hooks.enter_context(module.register_forward_hook(recording))
        forward(model, tokens)
    return frozenset(found)


def _may_be_norm(module: nn.Module, width: int) -> bool:
    """True for a module without children whose parameters, if any, all have the shape [d]."""
    shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False)]
    return not any(True for _ in module.children()) and all(shape == (width,) for shape in shapes)


def _in_span(value: Tensor, states: Sequence[Tensor]) -> bool:
    """True if `value` [..., d] is, at every token, a linear combination of the streams of one state."""
    hidden = as_float64(value.cpu())
    if not hidden.any():
        return False
    for state in states:
        # With several streams, a state is [token, stream, d].
        streams = _by_token(state, hidden)
        if streams is None:
            continue
        basis = streams.transpose(-2, -1)
        wanted = hidden.reshape(-1, hidden.shape[-1]).unsqueeze(-1)
        rest = wanted - basis @ torch.linalg.lstsq(basis, wanted, driver="gelsd").solution
        if rest.norm() <= _SAME * wanted.norm():
            return True
    return False


def _by_token(state: Tensor, hidden: Tensor) -> Tensor | None:
    """A state as [token, stream, d] for `hidden` [..., d]; None if the sizes do not fit."""
    if state.numel() % hidden.numel():
        return None
    if state.dim() == hidden.dim() + 1 and state.shape[1:] == hidden.shape:
        return state.flatten(1, -2).transpose(0, 1)
    return state.reshape(hidden[..., 0].numel(), -1, hidden.shape[-1])
