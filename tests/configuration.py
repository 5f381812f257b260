"""Settings gathered the way the command line does it."""

from __future__ import annotations

from pathlib import Path

from excise.config import Settings, gather


def gathered(
    given: dict[str, object] | None = None,
    environment: dict[str, str] | None = None,
    toml: str | None = None,
) -> Settings:
    """From flags, environment and an excise.toml in the working directory; the model is "m"."""
    if toml is not None:
        Path("excise.toml").write_text(toml, encoding="utf-8")
    return gather({"model": "m"} | (given or {}), environment or {}, None)
