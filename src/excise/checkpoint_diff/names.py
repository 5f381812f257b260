"""Pairs the tensors of two checkpoints: by name, by the end of the name, or by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.checkpoint.index import Index
from excise.checkpoint.reader import Reader


@dataclass(frozen=True)
class Names:
    """pairs: name in the second checkpoint → name in the first, for tensors of equal shape.

    only_first, only_second: unpaired tensors. reshaped: name → both shapes, where they differ. retyped: name
    in the second → both data types, where they differ.
    """

    pairs: Mapping[str, str]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    retyped: Mapping[str, tuple[str, str]]

    @property
    def renamed(self) -> dict[str, str]:
        """Name in the first → name in the second, where they differ."""
        return {former: name for name, former in self.pairs.items() if former != name}

    @property
    def differ(self) -> bool:
        """True if names, shapes or types of the checkpoints differ."""
        return any((self.only_first, self.only_second, self.reshaped, self.renamed, self.retyped))


def pair_names(first: Index, second: Index, before: Reader, after: Reader) -> Names:
    """Pair the tensors of two checkpoints.

    Tensors without a partner of the same name are paired if they have the same shape and one name ends in the
    other (an added or removed prefix), or else if they have the same shape, type and numbers.
    """
    common = first.keys() & second.keys()
    reshaped = {
        name: (first[name].shape, second[name].shape)
        for name in sorted(common)
        if first[name].shape != second[name].shape
    }
    pairs = {name: name for name in second if name in common and name not in reshaped}
    lost = {name for name in first if name not in common}
    new = {name for name in second if name not in common}
    for name in sorted(new):
        ends = [
            former
            for former in lost
            if first[former].shape == second[name].shape
            and (former.endswith(f".{name}") or name.endswith(f".{former}"))
        ]
        if len(ends) == 1:
            pairs[name] = ends[0]
            lost.remove(ends[0])
    new -= pairs.keys()
    # Numbers are read only if a partner is possible.
    forms = {(first[name].shape, first[name].dtype) for name in lost}
    wanted = {name for name in new if (second[name].shape, second[name].dtype) in forms}
    held: dict[bytes, list[str]] = {}
    for former in sorted(lost) if wanted else ():
        held.setdefault(before.digest(former), []).append(former)
    for name in sorted(wanted):
        same = [
            former
            for former in held.get(after.digest(name), [])
            if former in lost and first[former].shape == second[name].shape
        ]
        if len(same) == 1:
            pairs[name] = same[0]
            lost.remove(same[0])
    new -= pairs.keys()
    retyped = {
        name: (first[former].dtype, second[name].dtype)
        for name, former in pairs.items()
        if first[former].dtype != second[name].dtype
    }
    return Names(pairs, tuple(sorted(lost)), tuple(sorted(new)), reshaped, retyped)
