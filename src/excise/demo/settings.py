"""The default settings of `excise demo`."""

from __future__ import annotations

from pathlib import Path

PROMPTS = Path(__file__).parent / "prompts"

SEARCH_SECONDS = 180.0
"""The search's share of about five minutes for the whole demonstration on two cores."""
NEW_TOKENS = 48
"""The length of the answers that the model was trained on."""


def demo_flags(folder: Path) -> dict[str, object]:
    """Flags for the demonstration model in `folder`, by settings' names."""
    parts = {
        f"{kind}_{part}": str(PROMPTS / f"{kind}_{part}.txt")
        for kind in ("target", "control")
        for part in ("train", "search", "held_out")
    }
    return {
        "model": str(folder),
        "dtypes": "float32",
        "trials": 60,
        "startup_trials": 6,
        "max_new_tokens": NEW_TOKENS,
        "search_seconds": SEARCH_SECONDS,
        "select": "refusals<=5",
        "run_dir": Path("runs/demo"),
        "save": Path("runs/demo-model"),
        **parts,
    }
