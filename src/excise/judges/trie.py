"""Regular expressions that match one of many phrases, quick because phrases share their beginnings."""

from __future__ import annotations

import re
from collections.abc import Iterable

_Node = dict[str, "_Node"]
_END = ""
"""The key of a node at which a phrase ends."""


def one_of(phrases: Iterable[str], *, longest: bool = False) -> str:
    """A pattern of the phrases, tried from the shortest to the longest that match, or the other way round.

    Without phrases it matches nowhere.
    """
    root: _Node = {}
    for phrase in phrases:
        node = root
        for letter in phrase:
            node = node.setdefault(letter, {})
        node[_END] = {}
    return _pattern(root, longest) if root else "(?!)"


def _pattern(node: _Node, longest: bool) -> str:
    branches = [
        re.escape(letter) + _pattern(below, longest) for letter, below in node.items() if letter
    ]
    if _END in node:
        branches.insert(len(branches) if longest else 0, "")
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
