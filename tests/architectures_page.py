"""docs/reference/architectures.md, made from the sweep's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import transformers

from sweep import CANNOT_BUILD, COVERED, NOT_COVERED, NOTED, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "architectures.md"

_INTRODUCTION = """\
# Architectures

Every type that transformers {version} lists as a causal, image-text or any-to-any language model.
`make sweep` checked each on a tiny random model of the type and wrote this page.
A type is *covered* if, in every layer,

- coverage is at least 0.999: with strength 1 on all writers and a random direction, the layer adds nothing
  along the direction to the residual stream;
- every writer is needed: without any one of them, coverage is lower;

and if

- strength 0 gives the original model, bit for bit;
- the virtual edit, the saved model and the adapter give the same logits;
- excise's own decoding gives the tokens of `generate`;
- the saved model loads in plain transformers.

Models for images or sound are asked in text alone. Their encoders are loaded, and saved unchanged.

{counts}

The column *what writes* names the writers as inside a layer, with the number of matrices if there are
several. *→ norm* means that a norm follows the writer; the direction takes its gain into account.
A type that is missing here is not in this version of transformers.

| type | | coverage | what writes | notes |
|---|---|---|---|---|
"""


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    return _page({row.model_type: line(row) for row in rows})


def updated(old: str, rows: Sequence[Row], types: Collection[str]) -> str:
    """The page `old` with these rows in place of theirs, and without those of other than `types`."""
    lines = {one.split(" | ")[0][2:]: one for one in old.splitlines(keepends=True)}
    lines |= {row.model_type: line(row) for row in rows}
    return _page({name: one for name, one in lines.items() if name in types})


def _page(lines: Mapping[str, str]) -> str:
    counts = Counter(one.split(" | ")[1] for one in lines.values())
    built = len(lines) - counts[CANNOT_BUILD]
    covered = counts[COVERED] + counts[NOTED]
    text = (
        f"{len(lines)} types: {built} can be built small, and {covered} of these ({covered / built:.1%}) are "
        f"covered, {counts[NOTED]} of them with a note; {counts[NOT_COVERED]} are not; "
        f"{counts[CANNOT_BUILD]} could not be built."
    )
    head = _INTRODUCTION.format(version=transformers.__version__, counts=text)
    return head + "".join(one for _, one in sorted(lines.items()))


def line(row: Row) -> str:
    """One type."""
    # Digits of what is not covered would differ from one processor to the next.
    coverage = f"{row.coverage:.3f}" if row.verdict in (COVERED, NOTED) else ""
    notes = "; ".join(row.notes).replace("|", "\\|").replace("\n", " ")
    return f"| {row.model_type} | {row.verdict} | {coverage} | {row.writers} | {notes} |\n"
