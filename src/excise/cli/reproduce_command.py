"""`excise reproduce`: rebuilds a saved model and compares it with its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from rich.text import Text

from excise.app.rebuild import rebuild, settings_of
from excise.cli.human import plural
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.config import Inputs
from excise.reproduce.compare import ChangeDifference, RecordComparison, compare_records
from excise.reproduce.record import Reproduction, read_reproduction
from excise.system.files import require_free
from excise.system.paths import expanded

STATUS: Mapping[str, int] = {"same": 0, "within rounding": 3, "different": 4}
"""Exit status of each result; 2 is an error of the user, as for all commands."""
_SHOWN = 10


def reproduce(
    file: str, destination: str, inputs: Inputs, *, original: str | None, repeat_search: bool
) -> int:
    """Rebuild the model of the record `file` in the folder `destination`. Returns the exit status."""
    recorded = read_reproduction(expanded(file))
    folder = expanded(destination)
    require_free(folder)
    if original is not None:
        inputs = inputs.with_flags(model=original)
    settings = settings_of(recorded, inputs, repeat_search=repeat_search)
    with screen_beside_result(settings) as screen:
        rebuilt = rebuild(recorded, folder, settings, screen, repeat_search=repeat_search)
        found = compare_records(recorded, rebuilt)
        if settings.json_lines:
            changed = changes_of_circumstances(recorded, rebuilt)
            write_json({"result": found.sameness, **asdict(found), "circumstances": changed})
        else:
            screen.show(Text("\n".join(lines(recorded, rebuilt, found))))
    return STATUS[found.sameness]


def lines(recorded: Reproduction, rebuilt: Reproduction, found: RecordComparison) -> list[str]:
    """The result of a comparison as lines of text."""
    if found.sameness == "same":
        return [f"Same: all {plural(found.tensors, 'tensor')} bit-identical."]
    unequal = found.tensors - found.same
    counts = [f"{found.same} of {plural(found.tensors, 'tensor')} bit-identical, {unequal} not."]
    changed = changes_of_circumstances(recorded, rebuilt)
    where = f"; recorded and present: {'; '.join(changed)}" if changed else ""
    if found.sameness == "within rounding":
        worst = max(found.differences, key=lambda each: each.share or 0.0)
        return [*counts, f"Within rounding: the edit differs by at most {_share(worst)}{where}."]
    unexplained = [each for each in found.differences if not each.explained]
    shown = [f"  {_named(each)}: {_share(each)}" for each in unexplained[:_SHOWN]]
    if len(unexplained) > _SHOWN:
        shown.append(f"  and {len(unexplained) - _SHOWN} more")
    return [
        *counts,
        f"Different, by more than rounding explains{where}:",
        *shown,
        *_caution(recorded),
    ]


def _caution(recorded: Reproduction) -> list[str]:
    """A warning that rounding in 16 bits can exceed the tolerance; measured by bench/rounding.py."""
    dtype = recorded.circumstances.dtype
    if dtype == "float32":
        return []
    return [
        f"The model ran in {dtype}, in which another machine alone can cause such a difference; models that "
        "ran in float32 (--dtype float32) can be compared."
    ]


def changes_of_circumstances(recorded: Reproduction, rebuilt: Reproduction) -> list[str]:
    """Differences of versions, hardware and data type between the record and the present."""
    then, now = recorded.circumstances, rebuilt.circumstances
    pairs = [
        *((name, then.versions.get(name), now.versions.get(name)) for name in then.versions),
        *(
            (name, value, (now.hardware or {}).get(name))
            for name, value in (then.hardware or {}).items()
            if now.hardware is not None and name != "memory"
        ),
        ("data type", then.dtype, now.dtype),
    ]
    return [f"{name} {a} and {b or 'none'}" for name, a, b in pairs if a != b]


def _named(difference: ChangeDifference) -> str:
    first, *others = difference.tensors
    return f"{first} and {plural(len(others), 'other')}" if others else first


def _share(difference: ChangeDifference) -> str:
    if difference.share is None or difference.allowed is None:
        return difference.why
    return f"{difference.share:.2%} of its size (rounding: up to {difference.allowed:.2%})"
