"""A conformance suite for authors of scorers: `check_scorer`, to be called from a test."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from excise.errors import ExciseError
from excise.scorers.asking import fault_of, score_of
from excise.scorers.named import require_scorer
from excise.scorers.scorer import (
    AlongAnswers,
    Answers,
    AnswerSet,
    BoundedScorer,
    EditedModel,
    Evidence,
    FirstToken,
    ModelInUse,
    Need,
    Score,
    Scorer,
)

_PROMPTS = (1, 2, 9)
_ROUNDS = 5
_VOCABULARY = 11
_PIECES = (
    "Sure: ",
    "two eggs",
    "I'm sorry, ",
    "I can't ",
    "\n\n",
    "…",
    "no ",
    "Schritt 1",
    "步骤",
    "a b c ",
)
_LONGEST = 12


def check_scorer(scorer: Scorer, *, model: ModelInUse | None = None) -> None:
    """Check on random evidence that a scorer keeps what `excise.Scorer` and `excise.BoundedScorer` promise.

    It has all parts; its score is a finite number inside its interval, with a detail for each of n or none;
    the same evidence gives the same score and is left as it was; comparisons look at each token alone; a
    bound is never better than the value, and is the value once everything is known.

    model: for scorers that need `excise.EditedModel`. Raises AssertionError with one line that says what is
    wrong.
    """
    try:
        require_scorer(scorer, getattr(scorer, "name", type(scorer).__name__))
    except ExciseError as error:
        raise AssertionError(str(error)) from error
    if EditedModel() in scorer.needs and model is None:
        raise AssertionError(
            f"scorer {scorer.name}: needs the edited model; give check_scorer a model"
        )
    for need in scorer.needs:
        if isinstance(need, FirstToken | AlongAnswers):
            _check_comparison(scorer, need)
    for prompts in _PROMPTS:
        for seed in range(_ROUNDS):
            evidence = _evidence(scorer, prompts, random.Random(f"{prompts} {seed}"), model)
            score = _check_score(scorer, evidence)
            if isinstance(scorer, BoundedScorer):
                _check_bounds(scorer, evidence, score, random.Random(seed))


def _check_score(scorer: Scorer, evidence: Evidence) -> Score:
    before = {need: copy.deepcopy(found) for need, found in evidence.found.items() if _plain(need)}
    try:
        first, second = score_of(scorer, evidence), score_of(scorer, evidence)
    except ExciseError as error:
        raise AssertionError(str(error)) from error
    assert fault_of(first, scorer.better) is None
    assert first == second, f"scorer {scorer.name}: the same evidence gives {first} and {second}"
    for need, found in before.items():
        assert evidence[need] == found, f"scorer {scorer.name}: it changes its evidence of {need!r}"
    assert first.unit == scorer.unit, (
        f"scorer {scorer.name}: its score is in {first.unit!r}, the scorer says {scorer.unit!r}"
    )
    return first


def _check_bounds(
    scorer: BoundedScorer, evidence: Evidence, score: Score, chance: random.Random
) -> None:
    sign = -1.0 if scorer.better == "more" else 1.0
    whole = scorer.lower_bound(evidence)
    assert math.isclose(whole, score.value, rel_tol=1e-6, abs_tol=1e-9), (
        f"scorer {scorer.name}: with all evidence its bound is {whole:g}, and its value {score.value:g}"
    )
    for known in _parts(evidence, chance):
        bound = scorer.lower_bound(known)
        assert isinstance(bound, int | float), f"scorer {scorer.name}: its bound is {bound!r}"
        assert not math.isnan(bound), f"scorer {scorer.name}: its bound is no number"
        assert sign * bound <= sign * score.value + 1e-9 * abs(score.value), (
            f"scorer {scorer.name}: its bound {bound:g} is worse than its value {score.value:g}"
        )


def _parts(evidence: Evidence, chance: random.Random) -> Iterator[Evidence]:
    """Evidence in which needs are missing and answers unfinished."""
    yield replace(evidence, found={})
    for _ in range(_ROUNDS):
        found: dict[Need[Any], Any] = {}
        for need, whole in evidence.found.items():
            if isinstance(whole, AnswerSet):
                found[need] = _unfinished(whole, chance)
            elif chance.random() < 0.5:
                found[need] = whole
        yield replace(evidence, found=found)


def _unfinished(answers: AnswerSet, chance: random.Random) -> AnswerSet:
    finished = tuple(chance.random() < 0.5 for _ in answers.texts)
    texts, tokens = list(answers.texts), list(answers.tokens)
    for index, ended in enumerate(finished):
        if not ended:
            texts[index] = texts[index][: chance.randrange(len(texts[index]) + 1)]
            tokens[index] = tokens[index][: chance.randrange(len(tokens[index]) + 1)]
    return replace(answers, texts=tuple(texts), tokens=tuple(tokens), finished=finished)


def _evidence(
    scorer: Scorer, prompts: int, chance: random.Random, model: ModelInUse | None
) -> Evidence:
    found: dict[Need[Any], Any] = {}
    lengths = [chance.randint(1, _LONGEST) for _ in range(prompts)]
    for need in scorer.needs:
        if isinstance(need, Answers):
            found[need] = _answers(need, prompts, chance)
        elif isinstance(need, FirstToken):
            found[need] = tuple(_compared(need, prompts, chance).tolist())
        elif isinstance(need, AlongAnswers):
            found[need] = tuple(
                tuple(_compared(need, min(length, need.tokens), chance).tolist())
                for length in lengths
            )
        else:
            found[need] = model
    return Evidence(found, seed=0)


def _answers(need: Answers, prompts: int, chance: random.Random) -> AnswerSet:
    texts: list[str] = []
    tokens: list[tuple[int, ...]] = []
    most = _LONGEST if need.tokens is None else min(need.tokens, _LONGEST)
    for _ in range(prompts):
        length = chance.randint(1, max(1, most))
        tokens.append(tuple(chance.choices(range(4), k=length)))
        texts.append("".join(chance.choices(_PIECES, k=chance.randint(0, length))))
    names = tuple(f"prompt {number}" for number in range(prompts))
    return AnswerSet(names, tuple(texts), tuple(tokens))


def _log_probabilities(tokens: int, chance: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    return torch.randn(tokens, _VOCABULARY, generator=generator).log_softmax(-1)


def _compared(need: FirstToken | AlongAnswers, tokens: int, chance: random.Random) -> Tensor:
    pair = (_log_probabilities(tokens, chance) for _ in range(2))
    return need.reduce(*pair).to(torch.float64)


def _check_comparison(scorer: Scorer, need: FirstToken | AlongAnswers) -> None:
    chance = random.Random(0)
    original, edited = (_log_probabilities(5, chance) for _ in range(2))
    found = need.reduce(original, edited)
    shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
    assert shape == [5], f"scorer {scorer.name}: its comparison of 5 tokens returned {shape}"
    alone = torch.cat([need.reduce(original[row, None], edited[row, None]) for row in range(5)])
    assert torch.allclose(found.double(), alone.double(), rtol=1e-4, atol=1e-6), (
        f"scorer {scorer.name}: its comparison of a token depends on the other tokens of the call"
    )


def _plain(need: Need[Any]) -> bool:
    """True if the evidence of a need can be copied and compared."""
    return not isinstance(need, EditedModel)
