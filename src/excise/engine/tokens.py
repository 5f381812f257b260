"""Counts the tokens that go through a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class TokenCounter:
    """A scope that counts the tokens of every forward pass of a model.

    One hook on the model sees the passes of the engine and of `generate` alike. Padding does not count if the
    attention mask marks it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # A tensor on the model's device, so that no pass waits for the device.
        self._tokens: int | Tensor = 0

    def __enter__(self) -> TokenCounter:
        self._handle = self._model.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.remove()

    def take(self) -> int:
        """Tokens since the last call."""
        tokens, self._tokens = int(self._tokens), 0
        return tokens

    def _count(self, model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given = inputs[0] if inputs else named.get("input_ids")
        rows, columns = (named["inputs_embeds"] if given is None else given).shape[:2]
        mask = named.get("attention_mask")
        if columns > 1 and isinstance(mask, Tensor) and mask.dim() == 2:
            # The columns before these belong to the cache.
            self._tokens = self._tokens + mask[:, -columns:].sum()
        else:
            self._tokens = self._tokens + rows * columns
