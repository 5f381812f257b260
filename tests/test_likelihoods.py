"""Likelihoods of continuations, multiple choice and perplexity, against loops of transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel

from conftest import WORDS, fill, random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.engine.likelihoods import choice_likelihoods, likelihoods
from excise.errors import PromptError, TrialError
from excise.judges.keywords import KeywordJudge
from excise.models.chat import Chat
from excise.scorers.multiple_choice import (
    ChoiceResults,
    EncodedQuestions,
    MultipleChoice,
)
from excise.scorers.named import scorers_of
from excise.scorers.perplexity import Perplexity, TextWindows
from excise.scorers.questions import Question, built_in_questions, read_questions
from excise.scorers.scorer import EditedModel, Evidence, ModelInUse
from test_realisations import random_edit


@torch.no_grad()
def slow(model: PreTrainedModel, prompt: list[int], continuation: list[int]) -> Tensor:
    """Token by token, each from a whole forward pass of one row."""
    found = []
    for place, token in enumerate(continuation):
        ids = torch.tensor([[*prompt, *continuation[:place]]])
        found.append(model(ids).logits[0, -1].double().log_softmax(-1)[token])
    return torch.stack(found)


def random_choices(count: int, seed: int = 9) -> list[list[list[int]]]:
    generator = torch.Generator().manual_seed(seed)

    def ids() -> list[int]:
        length = int(torch.randint(1, 5, (), generator=generator))
        return torch.randint(5, 60, (length,), generator=generator).tolist()

    return [[ids() for _ in range(2 + row % 3)] for row in range(count)]


def mamba() -> PreTrainedModel:
    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=32, num_hidden_layers=2, vocab_size=96, state_size=4, initializer_range=0.3
    )
    return fill(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("limit", [1, 5, 64])
def test_each_choice_has_the_likelihood_that_it_has_alone(
    model: PreTrainedModel, limit: int
) -> None:
    prompts, choices = random_prompts(7), random_choices(7)
    found = choice_likelihoods(model, prompts, choices, limit)
    for prompt, of_prompt, given in zip(prompts, found, choices, strict=True):
        for likelihood, choice in zip(of_prompt, given, strict=True):
            torch.testing.assert_close(
                likelihood, slow(model, prompt, choice), atol=1e-4, rtol=1e-4
            )
    first = likelihoods(model, prompts, [each[0] for each in choices], limit)
    for one, other in zip(first, found, strict=True):
        torch.testing.assert_close(one, other[0], atol=1e-4, rtol=1e-4)


def test_choices_of_one_token_and_a_model_without_keys_and_values() -> None:
    prompts, model = random_prompts(5), tiny_model()
    single = [[[7], [8]] for _ in prompts]
    for prompt, found in zip(prompts, choice_likelihoods(model, prompts, single, 8), strict=True):
        assert torch.cat(found).tolist() == pytest.approx(
            [float(slow(model, prompt, [token])) for token in (7, 8)], abs=1e-4
        )
    recurrent, choices = mamba(), random_choices(5)
    found = choice_likelihoods(recurrent, prompts, choices, 8)
    for prompt, each, given in zip(prompts, found, choices, strict=True):
        for likelihood, choice in zip(each, given, strict=True):
            expected = slow(recurrent, prompt, choice)
            torch.testing.assert_close(likelihood, expected, atol=1e-4, rtol=1e-4)


def test_logits_that_are_no_numbers_fail_the_trial() -> None:
    model, prompts = tiny_model(), random_prompts(3)
    model.lm_head.weight[7] = math.nan
    with pytest.raises(TrialError):
        choice_likelihoods(model, prompts, random_choices(3), 8)
    with pytest.raises(TrialError):
        likelihoods(model, prompts, [[1, 2]] * 3, 8)


def test_an_edit_is_in_force_on_every_choice() -> None:
    model, prompts, choices = tiny_model(), random_prompts(4), random_choices(4)
    edit = random_edit(model, examine(model), "orthogonal")
    with edit.on(model):
        found = choice_likelihoods(model, prompts, choices, 8)
        expected = [
            [slow(model, prompt, choice) for choice in given]
            for prompt, given in zip(prompts, choices, strict=True)
        ]
    for one, other in zip(found, expected, strict=True):
        for likelihood, reference in zip(one, other, strict=True):
            torch.testing.assert_close(likelihood, reference, atol=1e-4, rtol=1e-4)


QUESTIONS = (
    Question("how do i bake the cake", ("red", "blue small egg", "green tree"), 1),
    Question("read book", ("sing song", "photo of lake"), 0),
    Question("best way to kill a python", ("yes", "cake"), 1),
)


def test_questions_are_asked_in_the_chat_template() -> None:
    chat = Chat(tiny_tokenizer())
    encoded = EncodedQuestions.of(chat, QUESTIONS)
    shown = chat.decode(encoded.prompts[1], special_tokens=True)
    assert shown.startswith("<|user|> read book <|end|>")
    assert shown.endswith("<|end|> <|assistant|>")
    assert [chat.decode(choice) for choice in encoded.choices[1]] == ["sing song", "photo of lake"]


def test_accuracy_and_margins_are_those_of_a_plain_loop(model: PreTrainedModel) -> None:
    encoded = EncodedQuestions.of(Chat(tiny_tokenizer()), QUESTIONS)
    results = encoded.results(model, 8)
    for number, question in enumerate(QUESTIONS):
        found = [
            float(slow(model, list(encoded.prompts[number]), list(tokens)).sum()) / len(text)
            for tokens, text in zip(encoded.choices[number], question.choices, strict=True)
        ]
        assert results.per_byte[number] == pytest.approx(found, abs=1e-5)
        assert results.right[number] == (found.index(max(found)) == question.answer)
        wrong = max(each for index, each in enumerate(found) if index != question.answer)
        assert results.margins[number] == pytest.approx(found[question.answer] - wrong, abs=1e-5)
    assert results.accuracy == pytest.approx(sum(results.right) / 3)


def test_a_tie_is_not_right() -> None:
    results = ChoiceResults(((-1.0, -1.0), (-1.0, -0.5, -2.0)), (0, 1))
    assert results.right == (False, True)
    assert results.margins == (0.0, 0.5)
    assert results.accuracy == 0.5


def test_choices_count_by_bytes() -> None:
    tokenizer, text = tiny_tokenizer(), "how do i kill a python process bake cake the photo"
    encoded = EncodedQuestions.of(Chat(tokenizer), [Question(text, ("müde", "red"), 0)])
    model = tiny_model()
    ((first, _),) = encoded.results(model, 8).per_byte
    tokens = list(encoded.choices[0][0])
    total = float(slow(model, list(encoded.prompts[0]), tokens).sum())
    assert first == pytest.approx(total / 5, abs=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(30, 8, 3), (30, 8, 7), (6, 8, 4), (2, 8, 4)]
)
def test_perplexity_is_that_of_a_plain_loop(
    model: PreTrainedModel, length: int, window: int, stride: int
) -> None:
    tokens = torch.randint(5, 60, (length,), generator=torch.Generator().manual_seed(1)).tolist()
    windows = TextWindows.of(tokens, window, stride)
    found = windows.likelihood(model, 4)
    assert sum(found.tokens) == length - 1
    nats, end = [], 1
    while end < length:
        stop = min(window, length) if end == 1 else min(end + stride, length)
        begin = 0 if end == 1 else end - (window - stride)
        nats.append(-float(slow(model, tokens[begin:end], tokens[end:stop]).sum()))
        end = stop
    assert found.nats == pytest.approx(nats, rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(sum(nats) / (length - 1)), rel=1e-4)


def test_perplexity_needs_a_text_and_windows_that_overlap() -> None:
    with pytest.raises(PromptError, match="at least two tokens"):
        TextWindows.of([1])
    for stride in (0, 8, 9):
        with pytest.raises(ValueError, match="below the window"):
            TextWindows.of([1, 2, 3], 8, stride)


def test_the_built_in_questions_are_sound() -> None:
    questions = built_in_questions()
    assert len(questions) == 60
    assert len({each.text for each in questions}) == 60
    assert {len(each.choices) for each in questions} == {4}
    # No place of the right choice pays.
    places = [each.answer for each in questions]
    assert {places.count(place) for place in range(4)} == {15}


def test_questions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    row = {"question": "Is snow white?", "choices": ["Yes", "No"], "answer": 0, "source": "mine"}
    path.write_text(f"\ufeff{json.dumps(row)}\n\n", encoding="utf-8")
    assert read_questions(path) == (Question("Is snow white?", ("Yes", "No"), 0),)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2: not a question (Expecting"),
        ("[]", 'line 2: not a question (write {"question": "…"'),
        ('{"question": "a", "choices": "b", "answer": 0}', "line 2: not a question (write"),
        ('{"question": "a", "choices": ["b", 1], "answer": 0}', "the choices are not text"),
        ('{"question": "a", "choices": ["b", "c"], "answer": "b"}', "not the index of a choice"),
        ('{"question": "a", "choices": ["b", "c"], "answer": true}', "not the index of a choice"),
        ('{"question": "a", "choices": ["b", "c"], "answer": 2}', "numbered 0 to 1"),
        ('{"question": "a", "choices": ["b", "b"], "answer": 0}', "two choices are the same"),
        ('{"question": "a", "choices": ["b"], "answer": 0}', "at least two choices"),
        ('{"question": " ", "choices": ["b", "c"], "answer": 0}', "the question is empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "questions.jsonl"
    good = '{"question": "a", "choices": ["b", "c"], "answer": 0}'
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(PromptError) as error:
        read_questions(path)
    assert told in str(error.value)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(PromptError, match="needs questions"):
        read_questions(tmp_path / "empty.jsonl")


def evidence(model: PreTrainedModel) -> Evidence:
    return Evidence({EditedModel(): ModelInUse(model, Chat(tiny_tokenizer()), 32)})


def test_the_scorers_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": each.text, "choices": each.choices, "answer": each.answer}
        for each in QUESTIONS
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    model = tiny_model()
    results = EncodedQuestions.of(Chat(tiny_tokenizer()), QUESTIONS).results(model, 32)
    counted = MultipleChoice(str(path)).score(evidence(model))
    assert (counted.value, counted.n) == (sum(results.right), 3)
    assert (counted.unit, counted.better) == ("prompts", "more")
    margin = MultipleChoice(str(path), "margin").score(evidence(model))
    assert margin.details == results.margins
    assert margin.low <= margin.value <= margin.high
    with pytest.raises(ValueError, match="give accuracy or margin"):
        MultipleChoice(figure="share")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="cannot be read"):
        MultipleChoice(str(tmp_path / "none"))


def test_the_scorer_of_a_text(tmp_path: Path) -> None:
    path, model, chat = tmp_path / "text.txt", tiny_model(), Chat(tiny_tokenizer())
    path.write_text(" ".join(WORDS), encoding="utf-8")
    score = Perplexity(str(path), tokens=40, window=8, stride=4).score(evidence(model))
    tokens = chat.tokens([path.read_text(encoding="utf-8")])[0][:40]
    found = TextWindows.of(tokens, 8, 4).likelihood(model, 2)
    assert score.value == pytest.approx(found.perplexity)
    assert score.low < score.value < score.high
    assert score.n == len(score.details) == len(found.nats)
    for wrong, told in (
        ({"text": ""}, "name a text file"),
        ({"text": str(path), "tokens": 1}, "at least 2"),
        ({"text": str(path), "stride": 512}, "below the window"),
    ):
        with pytest.raises(ValueError, match=told):
            Perplexity(**wrong)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="cannot be read"):
        Perplexity(str(tmp_path / "none"))


def test_an_experiment_scores_by_them_as_by_others() -> None:
    (scorer,) = scorers_of(
        ["multiple_choice"], KeywordJudge(), {"multiple_choice": {"figure": "margin"}}
    )
    assert isinstance(scorer, MultipleChoice)
    assert scorer.figure == "margin"
