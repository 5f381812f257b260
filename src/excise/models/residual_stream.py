"""The residual stream under test: cleaned of a direction before every layer, measured behind it.

If what enters a layer has no component along r, then whatever leaves it along r was written inside. That
holds for streams that are scaled or mixed by scalars too (residual multipliers, hyper-connections,
AltUp). Where a norm sits on the stream itself (BERT's layers; MiniMax's residual), the norm turns
directions, and turning is not writing: the stream is measured before such a norm and cleaned behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy
from excise.devices.device import input_device
from excise.devices.float64 import as_float64
from excise.errors import ModelError

_SAME = 1e-2
"""Relative distance from a stream state up to which a norm's input counts as that state: far above the
rounding of bfloat16, far below that of anything unrelated."""


@dataclass(frozen=True)
class Written:
    """What a layer wrote along r, root mean square; and the rounding of the stream along r."""

    along: float
    rounding: float


@torch.inference_mode()
def forward(model: PreTrainedModel, tokens: Sequence[int]) -> None:
    """One forward pass without a cache."""
    model(torch.tensor([list(tokens)], device=input_device(model)), use_cache=False)


def stream_of(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
    """The residual stream among the arguments of a decoder layer: the first tensor of numbers."""
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    raise TypeError("a decoder layer was called without hidden states")


def first_tensor(output: object) -> Tensor | None:
    """A module's output, or the first one of several; None if that is no tensor."""
    value = output[0] if isinstance(output, tuple | list) and output else output
    return value if isinstance(value, Tensor) else None


class StreamProbe:
    """One forward pass with the stream cleaned of r [d], float32, in front of every layer.

    norms: names of the norms that sit on the stream.
    """

    def __init__(
        self, model: PreTrainedModel, anatomy: Anatomy, norms: frozenset[str], r: Tensor
    ) -> None:
        self._model, self._anatomy, self._norms, self._r = model, anatomy, norms, r
        self._squares: dict[int, list[float]] = defaultdict(list)
        self._rounding: dict[int, list[float]] = defaultdict(list)
        self._leaving: Tensor | None = None

    def run(self, tokens: Sequence[int]) -> list[Written]:
        """What each layer wrote along r on `tokens`; nothing for a layer that did not run.

        Raises ModelError if none did.
        """
        with ExitStack() as stack:
            for index, name in enumerate(self._anatomy.layers):
                layer = self._model.get_submodule(name)
                before = layer.register_forward_pre_hook(self._entering(index), with_kwargs=True)
                stack.callback(before.remove)
                for part, module in layer.named_modules():
                    if f"{name}.{part}" in self._norms:
                        for handle in (
                            module.register_forward_pre_hook(self._into_norm(index)),
                            module.register_forward_hook(self._out_of_norm),
                        ):
                            stack.callback(handle.remove)
                # Registered last: a norm at the end of the layer cleans what leaves it.
                stack.callback(layer.register_forward_hook(self._out_of_layer(index)).remove)
            forward(self._model, tokens)
        if not self._squares:
            raise ModelError(
                f"{type(self._model).__name__}: {self._anatomy.layers[0]} and its like do not run on text; "
                "they are not its decoder layers"
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
        """[…, stream, d]: several streams may lie side by side in one vector."""
        return stream.reshape(*stream.shape[:-1], -1, len(self._r))

    def _measure(self, index: int, stream: Tensor) -> None:
        hidden = self._streams(as_float64(stream.cpu()))
        r = self._r.to(torch.float64)
        self._squares[index].append((hidden @ r).square().mean().item())
        # Each component of the stream is rounded by up to ε/2 of itself at every add (two to four a
        # layer); along r these errors add up like independent ones. Four of them is a wide margin.
        epsilon = 4 * torch.finfo(stream.dtype).eps
        self._rounding[index].append(epsilon**2 * (hidden.square() @ r.square()).mean().item())

    def _entering(self, index: int):  # type: ignore[no-untyped-def]
        def hook(
            module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[tuple[object, ...], dict[str, object]]:
            stream = stream_of(args, kwargs)
            if self._leaving is not None and self._leaving.shape == stream.shape:
                # A model spread over several devices moves the stream between its layers.
                between = stream - self._leaving.to(stream)
                if between.any():
                    # Something between the layers wrote, and counts with the layer that it came before.
                    self._measure(index, between)
            clean = self._clean(stream)
            return (
                tuple(clean if value is stream else value for value in args),
                {key: clean if value is stream else value for key, value in kwargs.items()},
            )

        return hook

    def _into_norm(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._measure(index, args[0])

        return hook

    def _out_of_norm(self, module: nn.Module, args: object, output: Tensor) -> Tensor:
        return self._clean(output)

    def _out_of_layer(self, index: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: object, output: object) -> None:
            leaving = first_tensor(output)
            assert leaving is not None
            self._leaving = leaving.clone()
            self._measure(index, leaving)

        return hook


def _mean_root(squares: Sequence[float]) -> float:
    return float((sum(squares) / len(squares)) ** 0.5) if squares else 0.0


def norms_on_the_stream(
    model: PreTrainedModel, anatomy: Anatomy, tokens: Sequence[int]
) -> frozenset[str]:
    """Names of modules in the layers whose input is the residual stream and whose output may replace it.

    Found with all writers silent: the stream then keeps its direction at every token from one norm to
    the next, so a norm whose input is a multiple (or, of several streams, a mixture) of a known state
    of the stream sits on the stream. Norms behind a writer see zeros, other norms see something else.
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

    def listen(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            # Of two inputs it is a sum or a gate, which may carry what a writer wrote.
            given = args[0] if len(args) == 1 else None
            if not isinstance(given, Tensor) or not isinstance(output, Tensor):
                return
            if given.shape[-1] != anatomy.dimension or given.shape != output.shape:
                return
            if _in_span(given, states):
                found.add(name)
                states.append(as_float64(output.cpu()))

        return hook

    with ExitStack() as stack:
        for name in anatomy.names:
            handle = model.get_submodule(name).register_forward_hook(silence)
            stack.callback(handle.remove)
        for name in anatomy.layers:
            layer = model.get_submodule(name)
            stack.callback(layer.register_forward_pre_hook(entering, with_kwargs=True).remove)
            for part, module in layer.named_modules():
                if part and _may_be_norm(module, anatomy.dimension):
                    handle = module.register_forward_hook(listen(f"{name}.{part}"))
                    stack.callback(handle.remove)
        forward(model, tokens)
    return frozenset(found)


def _may_be_norm(module: nn.Module, width: int) -> bool:
    """True for a module without parts whose parameters, if any, are as wide as the stream."""
    shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False)]
    return not any(True for _ in module.children()) and all(shape == (width,) for shape in shapes)


def _in_span(given: Tensor, states: Sequence[Tensor]) -> bool:
    """True if `given` [..., d] is, at every token, a combination of streams of one of the states."""
    hidden = as_float64(given.cpu())
    if not hidden.any():
        return False
    for state in states:
        # Several streams lie side by side on one axis: a state is then [token, stream, d].
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
    """A state as [token, stream, d] where `hidden` is [..., d] over the same tokens; None if it is not."""
    if state.numel() % hidden.numel():
        return None
    if state.dim() == hidden.dim() + 1 and state.shape[1:] == hidden.shape:
        return state.flatten(1, -2).transpose(0, 1)
    return state.reshape(hidden[..., 0].numel(), -1, hidden.shape[-1])
