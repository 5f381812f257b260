"""Counting the passes that drafts would take."""

from __future__ import annotations

from bench.drafts import passes


def test_passes_are_those_of_greedy_verification() -> None:
    answer = [5, 6, 7, 8, 9, 10]
    # No draft: a pass for each token behind the first.
    assert passes(answer, [], 4) == 5
    # The whole answer again: the pass says one token more than it was given.
    assert passes(answer, [answer], 4) == 1
    assert passes(answer, [answer], 2) == 2
    # It differs at the third token: two are right, the pass says the third, and nobody goes on from there.
    assert passes(answer, [[5, 6, 1, 8, 9, 10]], 4) == 1 + 3
    # The latest that begins alike counts.
    assert passes(answer, [[5, 6, 1], answer], 4) == 2
    assert passes([5], [answer], 4) == 0
