"""Sizes, durations and counts as text."""

from __future__ import annotations

from collections.abc import Mapping

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """Bytes in the largest unit in which the number is at least 1: `23.5 GiB`."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit < 2 else f"{amount:.1f} {_UNITS[unit]}"


def sizes(places: Mapping[str, int]) -> str:
    """Bytes on several devices: `cuda:0 12.1 GiB, cpu 3.0 GiB`; on one device, only the size."""
    if len(places) == 1:
        return size(*places.values())
    return ", ".join(f"{place} {size(count)}" for place, count in places.items())


def duration(seconds: float) -> str:
    """Seconds in their two largest units: `3 h 05 min`, `12 min 03 s`, `4.2 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 trial`, `3 trials`."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"
