"""One column of a table, checked: the part that all tabular sources share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from excise.errors import PromptError


def check_column(column: str, columns: Iterable[str], where: str) -> None:
    """Raise a `PromptError` that names the columns there are, unless `column` is one of them."""
    there = list(columns)
    if column in there:
        return
    near = difflib.get_close_matches(column, there, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; choose one with --column"
    raise PromptError(
        f"{where}: no column {column}, there is {', '.join(there) or 'no column at all'}{hint}"
    )


def texts_of(rows: Sequence[object], column: str, where: str) -> list[str]:
    """The rows as texts, stripped; those without text are left out.

    Raises:
        PromptError: a row holds something else than text.
    """
    texts: list[str] = []
    for number, row in enumerate(rows, start=1):
        if row is None:
            continue
        if not isinstance(row, str):
            raise PromptError(
                f"{where}: row {number}: column {column} holds {_kind(row)}, not text; "
                "choose another with --column"
            )
        if row.strip():
            texts.append(row.strip())
    return texts


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return f"{value!r}"[:40]
