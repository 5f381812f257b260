"""`excise reproduce`: a saved model made again, and compared with what was saved."""

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
"""Exit status by what came of it. 2 is a mistake, as everywhere."""
_SHOWN = 10


def reproduce(
    file: str,
    destination: str,
    inputs: Inputs,
    *,
    original: str | None,
    repeat_search: bool,
) -> int:
    """Make what `file` records again in the folder `destination`. Returns the exit status."""
    recorded = read_reproduction(expanded(file))
    folder = expanded(destination)
    require_free(folder)
    if original is not None:
        inputs = inputs.with_flags(model=original)
    settings = settings_of(recorded, inputs)
    as_json = settings.json_lines
    with screen_beside_result(settings) as screen:
        rebuilt = rebuild(
            recorded,
            folder,
            settings,
            screen,
            repeat_search=repeat_search,
        )
        found = compare_records(recorded, rebuilt)
        if as_json:
            changed = changes_of_circumstances(recorded, rebuilt)
            write_json({"result": found.sameness, **asdict(found), "circumstances": changed})
        else:
            screen.show(Text("\n".join(lines(recorded, rebuilt, found))))
    return STATUS[found.sameness]


def lines(recorded: Reproduction, rebuilt: Reproduction, found: RecordComparison) -> list[str]:
    """What to say of a comparison."""
    if found.sameness == "same":
        return [f"Same: all {plural(found.tensors, 'tensor')} bit-identical."]
    unequal = found.tensors - found.same
    said = [f"{found.same} of {plural(found.tensors, 'tensor')} bit-identical, {unequal} not."]
    changed = changes_of_circumstances(recorded, rebuilt)
    where = f"; then and now: {'; '.join(changed)}" if changed else ""
    if found.sameness == "within rounding":
        worst = max(found.differences, key=lambda one: one.share or 0.0)
        return [
            *said,
            f"Within rounding: the edit differs by at most {_share(worst)}{where}.",
        ]
    unexplained = [one for one in found.differences if not one.explained]
    shown = [f"  {_named(one)}: {_share(one)}" for one in unexplained[:_SHOWN]]
    if len(unexplained) > _SHOWN:
        shown.append(f"  and {len(unexplained) - _SHOWN} more")
    return [
        *said,
        f"Different, by more than is allowed for rounding{where}:",
        *shown,
        *_caution(recorded),
    ]


def _caution(recorded: Reproduction) -> list[str]:
    """What a difference does not prove where the model ran in few bits; measured by bench/rounding.py."""
    dtype = recorded.circumstances.dtype
    if dtype == "float32":
        return []
    return [
        f"The model ran in {dtype}, and in {dtype} another machine alone may do that; what was found in "
        "float32 (--dtype float32) can be told from another edit."
    ]


def changes_of_circumstances(recorded: Reproduction, rebuilt: Reproduction) -> list[str]:
    """What differs of versions and hardware, then and now."""
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
