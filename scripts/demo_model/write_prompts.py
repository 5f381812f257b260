"""Write the demonstration's prompt sets: `python scripts/demo_model/write_prompts.py`.

Target prompts are harmless but sound alarming; control prompts are ordinary. The draw is seeded, so
a rerun writes the same files.
"""

from __future__ import annotations

from pathlib import Path

from grammar import generate, key, read_families

HERE = Path(__file__).resolve().parent
PROMPTS = HERE.parents[1] / "src" / "excise" / "demo" / "prompts"
PARTS = {"train": 400, "search": 100, "held_out": 100}
SEEDS = {"target": 1, "control": 2}
MOST_PER_FAMILY = 11
SHORTEST, LONGEST = 3, 18
"""Words in a prompt; a phrase outside these bounds is a slip in the family files."""


def main() -> None:
    """Generate both sets, check them, and write one file a part."""
    sets = {
        name: generate(
            read_families(HERE / f"{name}_families.txt"), sum(PARTS.values()), MOST_PER_FAMILY, seed
        )
        for name, seed in SEEDS.items()
    }
    everything = [prompt for prompts in sets.values() for prompt in prompts]
    if len({key(prompt) for prompt in everything}) != len(everything):
        raise ValueError("a prompt appears twice")
    for prompt in everything:
        if not SHORTEST <= len(prompt.split()) <= LONGEST:
            raise ValueError(f"too short or too long: {prompt}")
    PROMPTS.mkdir(parents=True, exist_ok=True)
    for name, prompts in sets.items():
        rest = iter(prompts)
        for part, size in PARTS.items():
            lines = [next(rest) for _ in range(size)]
            path = PROMPTS / f"{name}_{part}.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(f"{path}: {len(lines)} prompts")


if __name__ == "__main__":
    main()
