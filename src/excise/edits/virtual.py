"""Virtual edits: hooks on the writers' outputs. No weight is read, written, copied or reloaded.

Hooks are registered once, when the context is entered; a change of the candidate only replaces small tensors
of shape [writer, d]. Switching to another edit costs O(writers·d), and an edit costs O(d) for each token.
Both are the same for quantised, offloaded and shared weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from excise.edits.values import EditValues


@dataclass(frozen=True)
class _Stack:
    """Operators of all candidates on one device. minus_alpha_u, v: [candidate, writer, d], float32."""

    minus_alpha_u: Tensor
    v: Tensor


class VirtualEdits:
    """A context in which the outputs of the named writers are edited; the model is restored at its end.

    A writer that is named several times has several operators, which apply in order. `use` applies one edit
    to every row of a batch. After `use_several`, `assign` selects an edit for each row. `use(None)` restores
    the original model, bit for bit.
    """

    def __init__(self, model: nn.Module, writers: Sequence[str]) -> None:
        self._writers = tuple(writers)
        self._modules = [model.get_submodule(name) for name in self._writers]
        self._handles: list[RemovableHandle] = []
        self._active = [False] * len(self._writers)
        self._stacks: dict[torch.device, _Stack] = {}
        self._only, self._paused = 0, False
        self._rows: tuple[int, ...] = ()
        self._rows_on: dict[torch.device, Tensor] = {}
        self._edits: tuple[EditValues, ...] = ()

    def __enter__(self) -> Self:
        for index, module in enumerate(self._modules):
            self._handles.append(module.register_forward_hook(self._hook(index)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.use(None)

    def use(self, edit: EditValues | None) -> None:
        """Apply `edit` to every row; None removes all edits."""
        self._set(() if edit is None else (edit,))

    def use_several(self, edits: Sequence[EditValues]) -> None:
        """Prepare `edits` for `assign`; until `assign` is called, the first edit applies to every row."""
        self._set(tuple(edits))

    def pause(self, *, paused: bool) -> None:
        """Apply no edit while `paused`; afterwards the edits in use apply again."""
        self._paused = paused

    def assign(self, rows: Sequence[int]) -> None:
        """Apply edit number `rows[i]` of those in use to row i of every batch until the next call."""
        # If all rows have the same edit, one matrix product is enough, which is cheaper.
        self._only = rows[0]
        mixed = () if all(row == self._only for row in rows) else tuple(rows)
        if mixed != self._rows:
            # The tensors on the devices are kept while the rows stay the same.
            self._rows, self._rows_on = mixed, {}

    def _set(self, edits: tuple[EditValues, ...]) -> None:
        for edit in edits:
            if edit.writers != self._writers:
                raise ValueError("the edit has other writers than this context")
        self._edits, self._stacks = edits, {}
        self._only, self._rows, self._rows_on = 0, (), {}
        changed = {row for edit in edits for row in edit.strengths.nonzero().flatten().tolist()}
        self._active = [row in changed for row in range(len(self._writers))]

    def _stack(self, device: torch.device) -> _Stack:
        # Made on first use on each device of the model.
        stack = self._stacks.get(device)
        if stack is None:
            scaled = torch.stack([edit.u * -edit.strengths.unsqueeze(-1) for edit in self._edits])
            v = torch.stack([edit.v for edit in self._edits])
            stack = self._stacks[device] = _Stack(scaled.to(device), v.to(device))
        return stack

    def _hook(self, index: int):  # type: ignore[no-untyped-def]
        def edited(
            module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]
        ) -> Tensor | tuple[Tensor, ...] | None:
            if self._paused or not self._active[index]:
                return None
            if isinstance(output, Tensor):
                return self._apply(index, output)
            # A module may also return its bias, which is added later.
            width = output[0].shape[-1:]
            return (
                self._apply(index, output[0]),
                *(
                    self._apply(index, part) if _is_bias(part, width) else part
                    for part in output[1:]
                ),
            )

        return edited

    def _apply(self, index: int, output: Tensor) -> Tensor:
        """The edit of one writer on its output [row, token, d], or [row·token, d] as experts have it."""
        stack = self._stack(output.device)
        hidden = output.to(torch.float32)
        if not self._rows:
            amount = hidden @ stack.v[self._only, index]
            minus_alpha_u = stack.minus_alpha_u[self._only, index]
        else:
            rows = self._rows_on.get(output.device)
            if rows is None:
                # One copy for each pass and device: copies are slow.
                rows = torch.tensor(self._rows, device=output.device)
                self._rows_on[output.device] = rows
            if hidden.dim() == 1:
                raise ValueError(
                    f"{self._writers[index]} returns one bias for all rows; rows cannot have different edits"
                )
            if len(hidden) != len(rows) and (hidden.dim() > 2 or len(hidden) % len(rows)):
                raise ValueError(
                    f"{self._writers[index]} returns {tuple(output.shape)}: not a multiple of the "
                    f"{len(rows)} rows with edits"
                )
            # Row-major: the tokens of a row are adjacent, and each row has the vectors of its candidate.
            hidden = hidden.reshape(len(rows), -1, hidden.shape[-1])
            amount = (hidden * stack.v[rows, index].unsqueeze(1)).sum(-1)
            minus_alpha_u = stack.minus_alpha_u[rows, index].unsqueeze(1)
        applied = torch.addcmul(hidden, amount.unsqueeze(-1), minus_alpha_u)
        return applied.view(output.shape).to(output.dtype)


def _is_bias(value: object, width: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == width
