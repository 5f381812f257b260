"""Values of objectives as text."""

from __future__ import annotations


def value_text(name: str, value: float, prompts: int) -> str:
    """The value of an objective. prompts: number of target prompts."""
    if name == "refusals":
        return f"{value}/{prompts}"
    return str(value) if isinstance(value, int) else f"{value:z.4f}"
