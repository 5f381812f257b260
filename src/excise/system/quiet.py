"""Libraries that talk: notices for their own developers, off for the users of excise."""

from __future__ import annotations

import logging

_TALKATIVE = ("torchao", "torch.utils._pytree", "bitsandbytes")


def quiet_libraries() -> None:
    """Turn off what libraries log at import, or at every layer of every pass; errors stay.

    Where torchao is installed, transformers imports it, so this has to come before transformers.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
