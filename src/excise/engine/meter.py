"""What a model is run on: tokens, padding, operations and time, counted by hooks within a scope.

The engine knows nothing of it. Every forward pass inside the scope is seen, whoever asks for it, and so is
which layers really ran in it: a layer whose forward is replaced by stored states costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache, PreTrainedModel

from excise.engine.costs import Costs, Window, pairs
from excise.engine.prefill import Tokens
from excise.engine.work import Work

Count = int | Tensor
"""A whole number; on the device that it was counted on until it is read, so that nobody waits for it."""

Stages = Callable[[str], AbstractContextManager[object]]
"""Opens a scope whose time counts for the stage of that name."""


def unmeasured(stage: str) -> AbstractContextManager[object]:
    """The `Stages` that measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class _Pass:
    """One forward pass. tokens, padding: how many. seen: pairs of token and token looked at, by window."""

    step: bool
    tokens: Count
    padding: Count
    seen: Mapping[Window, Count]
    logits: int


class Meter:
    """A scope in which a model's work is counted; leaving it takes the hooks off.

    watched: for each layer the name of a module inside it that runs when the layer does; a layer without
    one counts as run. on_work: called after a forward pass with the work since it was last taken, at most
    every `every` seconds; what it was called with is taken.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        costs: Costs,
        watched: Mapping[int, str],
        *,
        on_work: Callable[[Work], None] | None = None,
        every: float = 2.0,
    ) -> None:
        self._model, self._costs, self._on_work, self._every = model, costs, on_work, every
        self._watched = {index: model.get_submodule(name) for index, name in watched.items()}
        self._always = [index for index in range(len(costs.layers)) if index not in watched]
        self._handles: list[RemovableHandle] = []
        self._ran: list[int] = []
        self._pass: _Pass | None = None
        self._done: list[tuple[_Pass, Count]] = []
        self._early_rows = 0
        self._seconds: dict[str, float] = {}
        self._stage: str | None = None
        self._since = self._taken = time.perf_counter()

    def __enter__(self) -> Meter:
        for index, module in self._watched.items():
            self._handles.append(module.register_forward_pre_hook(self._running(index)))
        self._handles.append(
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True)
        )
        self._handles.append(self._model.register_forward_hook(self._end))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A scope whose time counts for `name`, and not for the stage around it."""
        outer = self._stage
        self._turn(name)
        try:
            yield
        finally:
            self._turn(outer)

    def ended_early(self, rows: int) -> None:
        """Count rows that were left before their end."""
        self._early_rows += rows

    def take(self) -> Work:
        """The work since it was last taken."""
        self._turn(self._stage)
        work = Work(early_rows=self._early_rows, seconds=self._seconds)
        for one, operations in self._done:
            tokens = int(one.tokens)
            work += Work(
                0 if one.step else tokens,
                tokens if one.step else 0,
                int(one.padding),
                int(not one.step),
                int(one.step),
                int(operations),
            )
        self._done, self._seconds, self._early_rows = [], {}, 0
        self._taken = time.perf_counter()
        return work

    def _turn(self, stage: str | None) -> None:
        now = time.perf_counter()
        if self._stage is not None:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def _running(self, index: int) -> Callable[[nn.Module, object], None]:
        def note(module: nn.Module, inputs: object) -> None:
            self._ran.append(index)

        return note

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._ran = list(self._always)
        self._pass = _seen(inputs, named, self._costs.windows)

    def _end(self, model: nn.Module, inputs: object, output: object) -> None:
        if self._pass is None:
            return
        self._done.append((self._pass, self._operations(self._pass)))
        self._pass = None
        if self._on_work is not None and time.perf_counter() - self._taken >= self._every:
            self._on_work(self.take())

    def _operations(self, one: _Pass) -> Count:
        layers = [self._costs.layers[index] for index in self._ran]
        weights = self._costs.outside + sum(layer.weights for layer in layers)
        operations = 2 * weights * one.tokens + 2 * self._costs.head * one.logits
        for window, seen in one.seen.items():
            width = sum(layer.attention for layer in layers if layer.window == window)
            operations = operations + 2 * width * seen
        return operations


def _seen(
    inputs: tuple[Any, ...], named: Mapping[str, Any], windows: frozenset[Window]
) -> _Pass | None:
    """What a forward pass is given, None if it is given no tokens."""
    given = inputs[0] if inputs else named.get("input_ids")
    if given is None:
        given = named.get("inputs_embeds")
    if not isinstance(given, Tensor):
        return None
    rows, columns = given.shape[:2]
    keep = named.get("logits_to_keep", 0)
    kept = len(keep) if isinstance(keep, (Tensor, list)) else keep or columns
    mask, cache = named.get("attention_mask"), named.get("past_key_values")
    tokens: Count = rows * columns
    seen: dict[Window, Count] = {}
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= columns:
        present = mask.bool()
        own = present[:, -columns:]
        tokens = own.sum()
        # In a decoding step only the last column asks, and its count is a plain sum.
        counts = present.sum(1, True) if columns == 1 else present.cumsum(1)[:, -columns:]
        before = counts * own
        for window in windows:
            seen[window] = (before if window is None else before.clamp_max(window)).sum()
    else:
        past = cache.get_seq_length() if isinstance(cache, Cache) else 0
        for window in windows:
            seen[window] = rows * pairs(past, past + columns, window)
    return _Pass(columns == 1, tokens, rows * columns - tokens, seen, rows * min(kept, columns))


def ended_early(answers: Sequence[Tokens], ends: frozenset[int], max_new_tokens: int) -> int:
    """How many answers stopped although they had neither ended nor reached their greatest length."""
    return sum(
        len(answer) < max_new_tokens and not (answer and answer[-1] in ends) for answer in answers
    )
