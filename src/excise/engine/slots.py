"""A key-value cache of slots: sequences enter and leave while other sequences are decoded.

A row of the cache is a sequence in a slot. Every row is right-aligned: its newest token lies in the last
column, whatever its length. So all rows grow by the same column at every step. If a row leaves, the last row
moves into its slot. A new row is copied in beside the others. No step concatenates or waits for the slowest
row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

_CACHED = 2**20
"""Approximate size of the caches of a processor core, in bytes."""


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in buffers [slot, head, column, head_dim] that are allocated once.

    Rows 0 … rows − 1 are live, in columns start … end − 1; the model sees that window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.start = self.end = 0

    def take(self, key_buffer: Tensor, value_buffer: Tensor) -> None:
        """Use these buffers, all zeros."""
        self.dtype, self.device = key_buffer.dtype, key_buffer.device
        self._key_buffer, self._value_buffer = key_buffer, value_buffer
        # If this is False, transformers asks the device in every step whether it needs a mask. On a CPU the
        # answer saves time; with a GPU the host would wait for it.
        self.is_compileable = key_buffer.device.type != "cpu"
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Width of the window."""
        return self.end - self.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention sees after `query_length` more tokens, and their offset."""
        return self.get_seq_length() + query_length, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append one token to every live row; returns the window of keys and values."""
        end = self.end + key_states.shape[-2]
        self._key_buffer[: self.rows, :, self.end : end] = key_states
        self._value_buffer[: self.rows, :, self.end : end] = value_states
        self.end = end
        window = slice(self.start, end)
        return self._key_buffer[: self.rows, :, window], self._value_buffer[: self.rows, :, window]

    def admit(self, keys: Tensor, values: Tensor, places: Tensor | None) -> None:
        """Copy new rows [row, head, column, head_dim] in, right-aligned to the last column.

        places: [row · head · column], the index into the given vectors [row · head · column] of each vector
        of the right-aligned rows; None if the given rows are right-aligned already.
        """
        count, heads = keys.shape[:2]
        new = slice(self.rows, self.rows + count)
        for buffer, states in ((self._key_buffer, keys), (self._value_buffer, values)):
            if places is not None:
                flat = states.reshape(-1, states.shape[3]).index_select(0, places)
                states = flat.view(count, heads, -1, states.shape[3])
            buffer[new, :, self.end - states.shape[2] : self.end] = states
        self.rows += count

    def move(self, moves: Sequence[tuple[int, int]], slots: Tensor | None) -> None:
        """Copy rows from slots to other slots; all slots of the moves differ.

        slots: the moves as a tensor [from or to, move] on an accelerator, which moves all rows by one call;
        None on a CPU, where that call would copy each row twice.
        """
        window = slice(self.start, self.end)
        for buffer in (self._key_buffer, self._value_buffer):
            shown = buffer[:, :, window]
            if slots is not None:
                shown.index_copy_(0, slots[1], shown.index_select(0, slots[0]))
                continue
            for source, target in moves:
                shown[target] = shown[source]

    def shift(self, columns: int) -> None:
        """Move the window by `columns`, to the right if positive."""
        if self.is_initialized and self.rows:
            old, new = slice(self.start, self.end), slice(self.start + columns, self.end + columns)
            for buffer in (self._key_buffer, self._value_buffer):
                for rows in torch.split(buffer[: self.rows], _rows_at_once(buffer)):
                    # Source and target may overlap.
                    rows[:, :, new] = rows[:, :, old].clone()
        self.start += columns
        self.end += columns


def _rows_at_once(buffer: Tensor) -> int:
    """Rows of a buffer that move together: all rows on an accelerator, because each call costs a launch.

    On a CPU, as many rows as stay in its caches between the two copies, which halves the time.
    """
    if buffer.device.type != "cpu":
        return len(buffer)
    return max(1, _CACHED // (buffer[0].numel() * buffer.element_size()))


class SlotCache(Cache):  # type: ignore[misc]
    """The slots of all layers. lengths: tokens held by each live row, in slot order."""

    def __init__(self, layers: int, slots: int, longest: int) -> None:
        # Room for the longest row, and a little to grow into before the window moves back.
        self._columns = longest + max(16, longest // 8)
        self._layers = [SlotLayer() for _ in range(layers)]
        super().__init__(layers=list(self._layers))
        self.slots = slots
        self.lengths: list[int] = []

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.slots - len(self.lengths)

    def admit(self, cache: DynamicCache, lengths: Sequence[int], prefix: int) -> None:
        """Copy in rows of a cache: `prefix` columns, then padding, then the rest of each row."""
        self._place(max([*lengths, *self.lengths]))
        states: list[tuple[Tensor, Tensor]] = []
        for filled in cache.layers:
            assert isinstance(filled, DynamicLayer)
            states.append((filled.keys, filled.values))
        if not self._layers[0].is_initialized:
            self._take_buffers(states)
        # Computed once for all layers of the same shape on a device.
        known: dict[tuple[torch.device, torch.Size], Tensor | None] = {}
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            of = (keys.device, keys.shape[:3])
            if of not in known:
                known[of] = _places(lengths, prefix, keys)
            layer.admit(keys, values, known[of])
        self.lengths += lengths

    def _take_buffers(self, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Allocate buffers for states of these shapes [row, head, column, head_dim], in one piece a device.

        The allocator returns one large piece to the system when it is freed. Of many pieces of a few
        megabytes it keeps most.
        """

        def numbers(tensor: Tensor) -> int:
            return self.slots * tensor.shape[1] * self._columns * tensor.shape[3]

        sizes = Counter[tuple[torch.device, torch.dtype]]()
        for tensor in chain.from_iterable(states):
            sizes[tensor.device, tensor.dtype] += numbers(tensor)
        left = {
            (device, dtype): torch.zeros(size, device=device, dtype=dtype)
            for (device, dtype), size in sizes.items()
        }

        def buffer(tensor: Tensor) -> Tensor:
            place = (tensor.device, tensor.dtype)
            taken, left[place] = left[place].tensor_split([numbers(tensor)])
            return taken.view(self.slots, tensor.shape[1], self._columns, tensor.shape[3])

        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.take(buffer(keys), buffer(values))

    def release(self, slots: Sequence[int]) -> list[tuple[int, int]]:
        """Free `slots`. Returns the moves (from, to) that keep live rows together, in any order."""
        # From the last freed slot to the first, each takes the last live row. held: the old slot of each row.
        held = list(range(len(self.lengths)))
        for slot in sorted(slots, reverse=True):
            held[slot] = held[-1]
            held.pop()
        moves = [(source, target) for target, source in enumerate(held) if source != target]
        on: dict[torch.device, Tensor | None] = {torch.device("cpu"): None}
        for layer in self._layers if moves else ():
            if layer.device not in on:
                on[layer.device] = torch.tensor(moves).T.to(layer.device)
            layer.move(moves, on[layer.device])
        self.lengths = [self.lengths[source] for source in held]
        for layer in self._layers:
            layer.rows = len(held)
        return moves

    def prepare_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make room for one more token in each row; returns the step's attention mask and positions.

        mask: [row, column] bool over the window and the new token. positions: [row, 1].
        """
        self._place(max(self.lengths), room=1)
        lengths = torch.tensor(self.lengths, device=device).unsqueeze(1)
        self.lengths = [length + 1 for length in self.lengths]
        width = self._layers[0].get_seq_length()
        mask = torch.arange(width + 1, device=device) >= width - lengths
        return mask, lengths

    def _place(self, width: int, room: int = 0) -> None:
        """Set the window to the last `width` columns, with `room` free columns after it."""
        for layer in self._layers:
            if not self.lengths:
                layer.start = layer.end = width
            elif layer.end < width:
                layer.shift(width - layer.end)
            # Columns before the window are free.
            layer.start = layer.end - width
            if layer.end + room > self._columns:
                layer.shift(-layer.start)


def _places(lengths: Sequence[int], prefix: int, states: Tensor) -> Tensor | None:
    """`places` of `SlotLayer.admit` for states [row, head, column, head_dim].

    lengths: tokens of each row. The given rows hold `prefix` tokens, then padding, then the rest. The new
    rows hold the tokens without a gap, in the last columns.
    """
    rows, heads, width = states.shape[:3]
    if min(lengths) == width:
        return None
    own, longest = torch.tensor(lengths).unsqueeze(1), max(lengths)
    token = torch.arange(longest) - (longest - own)
    # Columns before a row's own tokens are masked.
    columns = torch.where(token < prefix, token, width - own + token).clamp_min(0)
    rows_and_heads = torch.arange(rows * heads).view(rows, heads, 1) * width
    return (rows_and_heads + columns.unsqueeze(1)).flatten().to(states.device)
