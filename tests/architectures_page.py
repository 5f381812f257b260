"""docs/architectures.md, made from the sweep's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import transformers

from sweep import CANNOT_BUILD, COVERED, NOT_COVERED, NOTED, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "architectures.md"

_INTRODUCTION = """\
# Architectures

Every type that transformers {version} lists as a causal language model, checked on a tiny random model of it
by `make sweep`, which wrote this page. *Covered* means, for every layer: with strength 1 on all writers and
a random direction, what the layer adds to the residual stream has no component along the direction left
(coverage at least 0.999); without any one of the writers it has; strength 0 is the original model bit for
bit; the virtual edit, the saved model and the adapter give the same logits; excise's own decoding gives the
tokens of `generate`; and the saved model loads in plain transformers.

{counts}

What writes is named as inside a layer, with the number of matrices where it is more than one; *→ norm* says
that a norm stands behind it, whose gain the direction takes into account. A type that is missing here is
not in this version of transformers.

| type | | coverage | what writes | notes |
|---|---|---|---|---|
"""


def page(rows: Sequence[Row]) -> str:
    """The whole page."""
    counts = Counter(row.verdict for row in rows)
    built = len(rows) - counts[CANNOT_BUILD]
    covered = counts[COVERED] + counts[NOTED]
    text = (
        f"{len(rows)} types: {built} can be built small, and {covered} of these ({covered / built:.1%}) are "
        f"covered, {counts[NOTED]} of them with a note; {counts[NOT_COVERED]} are not; "
        f"{counts[CANNOT_BUILD]} could not be built."
    )
    head = _INTRODUCTION.format(version=transformers.__version__, counts=text)
    return head + "".join(map(line, sorted(rows, key=lambda row: row.model_type)))


def line(row: Row) -> str:
    """One type."""
    # Digits of what is not covered would differ from one processor to the next.
    coverage = f"{row.coverage:.3f}" if row.verdict in (COVERED, NOTED) else ""
    notes = "; ".join(row.notes).replace("|", "\\|").replace("\n", " ")
    return f"| {row.model_type} | {row.verdict} | {coverage} | {row.writers} | {notes} |\n"
