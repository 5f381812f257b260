"""Switches off notices of libraries that are meant for developers."""

from __future__ import annotations

import logging

_TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes")


def quiet_libraries() -> None:
    """Log only errors of some libraries. Call it before transformers is imported, which imports torchao."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
