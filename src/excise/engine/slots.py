"""A key-value cache of slots: rows come and go while the others go on decoding.

Every row is right-aligned: its newest token lies in the last column, whatever its length. So all rows
grow by the same column at every step, a row that leaves gives its slot to the last one, and a row that
arrives is copied in beside the others. Nothing is concatenated, and nobody waits for the slowest row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in buffers [slot, head, column, head_dim] that are taken once.

    Rows 0 … rows − 1 are live, in columns start … end − 1; what the model sees is that window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.start = self.end = 0

    def take(self, key_buffer: Tensor, value_buffer: Tensor) -> None:
        """Use these buffers, all zeros."""
        self.dtype, self.device = key_buffer.dtype, key_buffer.device
        self._key_buffer, self._value_buffer = key_buffer, value_buffer
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

    def admit(self, keys: Tensor, values: Tensor, lengths: Sequence[int], prefix: int) -> None:
        """Copy new rows [row, head, column, head_dim] in, right-aligned to the last column.

        lengths: tokens of each row. Its columns are `prefix` tokens, then padding, then the rest.
        """
        width = keys.shape[2]
        for buffer, states in ((self._key_buffer, keys), (self._value_buffer, values)):
            if min(lengths) == width:
                new = slice(self.rows, self.rows + len(lengths))
                buffer[new, :, self.end - width : self.end] = states
                continue
            for row, length in enumerate(lengths):
                slot, rest = buffer[self.rows + row], length - prefix
                slot[:, self.end - rest : self.end] = states[row, :, width - rest :]
                slot[:, self.end - length : self.end - rest] = states[row, :, :prefix]
        self.rows += len(lengths)

    def move(self, source: int, target: int) -> None:
        """Copy the row in slot `source` to slot `target`."""
        window = slice(self.start, self.end)
        for buffer in (self._key_buffer, self._value_buffer):
            buffer[target, :, window] = buffer[source, :, window]

    def shift(self, columns: int) -> None:
        """Move the window by `columns`, to the right if positive."""
        if self.is_initialized and self.rows:
            old, new = slice(self.start, self.end), slice(self.start + columns, self.end + columns)
            for buffer in (self._key_buffer, self._value_buffer):
                # One row at a time: source and target overlap, and a copy of one row is small.
                for row in range(self.rows):
                    buffer[row, :, new] = buffer[row, :, old].clone()
        self.start += columns
        self.end += columns


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
        """Take over the rows of a cache: `prefix` columns, then padding, then the rest of each row."""
        self._place(max([*lengths, *self.lengths]))
        states: list[tuple[Tensor, Tensor]] = []
        for filled in cache.layers:
            assert isinstance(filled, DynamicLayer)
            states.append((filled.keys, filled.values))
        if not self._layers[0].is_initialized:
            self._take_buffers(states)
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            layer.admit(keys, values, lengths, prefix)
        self.lengths += lengths

    def _take_buffers(self, states: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Buffers for states such as these [row, head, column, head_dim], in one piece on each device.

        One large piece goes back to the system when it is let go. Of many of a few megabytes the allocator
        keeps most, beside whatever is made in the meantime.
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
        """Free `slots`. Returns the moves (from, to) made to keep live rows together, in order."""
        moves: list[tuple[int, int]] = []
        for slot in sorted(slots, reverse=True):
            last = len(self.lengths) - 1
            if slot != last:
                moves.append((last, slot))
                self.lengths[slot] = self.lengths[last]
                for layer in self._layers:
                    layer.move(last, slot)
            self.lengths.pop()
            for layer in self._layers:
                layer.rows -= 1
        return moves

    def prepare_step(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make room for one more token a row; returns the step's attention mask and positions.

        mask: [row, column] bool over the window and the new token. positions: [row, 1].
        """
        self._place(max(self.lengths), room=1)
        lengths = torch.tensor(self.lengths, device=device).unsqueeze(1)
        self.lengths = [length + 1 for length in self.lengths]
        width = self._layers[0].get_seq_length()
        mask = torch.arange(width + 1, device=device) >= width - lengths
        return mask, lengths

    def _place(self, width: int, room: int = 0) -> None:
        """Let the window be the last `width` columns, with `room` columns free behind it."""
        for layer in self._layers:
            if not self.lengths:
                layer.start = layer.end = width
            elif layer.end < width:
                layer.shift(width - layer.end)
            # Columns before the window belong to nobody any more.
            layer.start = layer.end - width
            if layer.end + room > self._columns:
                layer.shift(-layer.start)
