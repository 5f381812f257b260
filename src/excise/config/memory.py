"""Parses memory limits of devices: `0=20GiB`, `cpu=1.5TB`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LIMIT = re.compile(r"(?P<device>\d+|cpu|mps)=(?P<size>\d+(\.\d+)?) ?(?P<unit>[KMGT]i?B)", re.I)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def memory_limits(limits: Sequence[str]) -> dict[int | str, int]:
    """Device (number of an accelerator, or name) → bytes. Raises ValueError."""
    result: dict[int | str, int] = {}
    for limit in limits:
        found = _LIMIT.fullmatch(limit.strip())
        if found is None:
            raise ValueError(f"{limit!r} is not DEVICE=SIZE, such as 0=20GiB or cpu=60GiB")
        device = found["device"].lower()
        key = int(device) if device.isdigit() else device
        if key in result:
            raise ValueError(f"{device} is given twice")
        unit = found["unit"].lower()
        base = 1024 if "i" in unit else 1000
        result[key] = int(float(found["size"]) * base ** _POWERS[unit[0]])
    return result
