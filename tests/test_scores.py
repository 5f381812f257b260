"""Refusal markers, KL divergence and the common beginning of answers, by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.judges.keywords import KeywordJudge
from excise.judges.markers import FORMER_MARKERS
from excise.judges.text import normalise
from excise.models.chat import Chat
from excise.prompts.sets import Prompt
from excise.scorers.degenerate import is_empty, is_loop
from excise.scorers.divergence import kl_divergence
from excise.scorers.refusals import JudgingParameters, MarkerJudge
from excise.scorers.statistics import Estimate, Share, bootstrap, mcnemar, sign_flips, wilson


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but no.",
        "I’m **SORRY**",
        "Unfortunately, I can‘t help with that.",
        "I  am\nunable to do so.",
        "As an *AI* language model, I can’t do that …",
        "I won't.",
        "As an AI, I am unable",
        "",
        "  \n ",
    ],
)
def test_refusals(answer: str) -> None:
    for judge in (KeywordJudge(), KeywordJudge(FORMER_MARKERS)):
        assert judge.refused(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "To kill a process, use kill -9.",
        "Sure! Beat the eggs until stiff.",
        "Harmful bacteria die at 70 °C.",
        "0",
    ],
)
def test_answers(answer: str) -> None:
    for judge in (KeywordJudge(), KeywordJudge(FORMER_MARKERS)):
        assert not judge.refused(answer)


@pytest.mark.parametrize("beginning", ["", " ", "**", "*", "_", "~~", "**Title"])
def test_a_beginning_decides_nothing_until_a_marker_is_there(beginning: str) -> None:
    judge = KeywordJudge(FORMER_MARKERS)
    assert not judge.certain(beginning)
    assert judge.certain(beginning + " I'm sorry")


def test_former_markers_are_in_normalised_form() -> None:
    assert all(marker == normalise(marker) for marker in FORMER_MARKERS)
    assert len(set(FORMER_MARKERS)) == len(FORMER_MARKERS)


def test_own_markers_replace_the_default_ones() -> None:
    judge = KeywordJudge(["gossamer"])
    assert judge.refused("Behold, the gossamer dawn")
    assert not judge.refused("I'm sorry")


def test_kl_by_hand() -> None:
    # KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½ ln 2 + ½ ln (2/3)
    original = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).log()
    edited = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    expected = torch.tensor(
        [0.5 * math.log(2) + 0.5 * math.log(2 / 3), math.log(2)], dtype=torch.float64
    )
    torch.testing.assert_close(kl_divergence(original, edited), expected)


def test_kl_against_pytorch_and_of_a_model_to_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 6, 50, generator=generator).double().log_softmax(-1)
    reference = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(p, q), reference)
    assert kl_divergence(p, p).abs().max() == 0


def test_wilson_interval_by_hand() -> None:
    # For 0 of n the upper end is z²/(n + z²); the interval of a half is symmetric.
    low, high = wilson(0, 100)
    assert low == pytest.approx(0, abs=1e-12)
    assert high == pytest.approx(3.8415 / 103.8415, rel=1e-4)
    low, high = wilson(50, 100)
    assert low + high == pytest.approx(1)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert str(Share(3, 100)) == "3/100 (1 to 8 %)"
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


def test_stopping_at_a_marker_changes_no_verdict() -> None:
    model, chat = tiny_model(), Chat(tiny_tokenizer())
    prompts = random_prompts(30)
    judge = MarkerJudge(model, chat, ("red", "seven", "egg photo"))
    (early,) = judge.answer([prompts], JudgingParameters(15), 7)
    (whole,) = judge.answer([prompts], JudgingParameters(15, min_new_tokens=15), 7)
    assert early.refused == whole.refused
    assert not early.unknown
    assert 0 < early.count < len(prompts)
    assert sum(map(len, early.answers)) < sum(map(len, whole.answers))


def test_chat_renders_system_prompt_and_response_prefix() -> None:
    chat = Chat(tiny_tokenizer(), "yes ")
    text = chat.text(Prompt("kill a process", "hello"))
    assert text == "<|system|> hello <|end|> <|user|> kill a process <|end|> <|assistant|> yes "
    assert chat.decode(chat.encode([Prompt("bake a cake")])[0]) == "bake a cake yes"


def test_bootstrap_intervals_hold_the_mean_and_narrow_with_the_sample() -> None:
    values = [0.1 * number for number in range(20)]
    wide, narrow = bootstrap(values), bootstrap(values * 25)
    assert wide.mean == narrow.mean == pytest.approx(0.95)
    assert wide.low < narrow.low < 0.95 < narrow.high < wide.high
    # The normal approximation: 1.96 standard errors of 500 values.
    half = 1.96 * statistics.pstdev(values * 25) / math.sqrt(500)
    assert narrow.high - narrow.low == pytest.approx(2 * half, rel=0.1)
    assert bootstrap(values) == wide
    assert bootstrap([0.5]) == Estimate(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_mcnemar_counts_only_where_the_two_differ() -> None:
    both, neither = [(True, True)] * 40, [(False, False)] * 50
    first, second = zip(*(both + neither + [(True, False)] * 8 + [(False, True)] * 2), strict=True)
    # Ten coins, two or fewer on one side, or the other: 2 · (1 + 10 + 45) / 1024.
    assert mcnemar(first, second) == pytest.approx(112 / 1024)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar([True], [True]) == 1.0
    assert mcnemar([True] * 5, [False] * 5) == pytest.approx(2 / 32)
    with pytest.raises(ValueError, match="zip"):
        mcnemar([True], [])


def test_sign_flips_tell_a_shift_from_noise() -> None:
    generator = random.Random(0)
    noise = [generator.gauss(0, 1) for _ in range(100)]
    other = [generator.gauss(0, 1) for _ in range(100)]
    assert sign_flips(noise, other) > 0.05
    assert sign_flips(noise, [value + 1 for value in noise]) < 0.001
    # All 2⁴ sign patterns of equal differences: two of them are as far out.
    assert sign_flips([1.0] * 4, [0.0] * 4) == pytest.approx(2 / 16, abs=0.01)
    assert sign_flips(noise, noise) == 1.0
    with pytest.raises(ValueError, match="beside"):
        sign_flips([1.0], [])


@pytest.mark.parametrize(
    ("answer", "loops"),
    [
        ([5] * 12, True),
        ([1, 2, 3] + [7, 8] * 6, True),
        ([1, 2, 3] + [7, 8] * 5, False),
        (list(range(16)) * 3, True),
        (list(range(17)) * 3, False),
        ([7, 8] * 6 + [9], False),
        (list(range(40)), False),
        ([], False),
    ],
)
def test_an_answer_that_goes_round_in_circles(answer: list[int], loops: bool) -> None:
    assert is_loop(answer) is loops


def test_an_empty_answer() -> None:
    assert is_empty(" \n**")
    assert not is_empty("no")
