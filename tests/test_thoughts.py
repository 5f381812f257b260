"""Chains of thought in prompts and answers: marks, what closes them, and verdicts without them."""

from __future__ import annotations

import pytest
import torch

from chat_templates import FAMILIES, HYBRID, OPENS, PLAIN, bpe_tokenizer
from conftest import tiny_model, tiny_tokenizer
from excise.engine.prefill import Tokens
from excise.models.chat import Chat
from excise.models.template import TemplateCall
from excise.models.thoughts import ends_closed, left_open, opened_by, without_thoughts
from excise.scorers.refusals import JudgedRequest, JudgingParameters, MarkerJudge

NO = "I can't do that."
THOUGHTS = [
    f"<think>\n{NO}\n</think>\n\n",
    f"\n<think>{NO}</think>",
    f"<thinking>{NO}</thinking>",
    f"<|channel>thought\n{NO}\n<channel|>",
    f"[THINK]{NO}[/THINK]",
    f"<|channel|>analysis<|message|>{NO}<|end|><|start|>assistant<|channel|>final<|message|>",
    f"<seed:think>{NO}</seed:think>",
    f"<|START_THINKING|>{NO}<|END_THINKING|>",
    f"<unused94>thought\n{NO}<unused95>",
    f"◁think▷{NO}◁/think▷",
    f"<longcat_think>\n{NO}\n</longcat_think>\n",
    f"<mm:think>{NO}</mm:think>",
    f"<reasoning>{NO}</reasoning>",
    f"<think>{NO}</think><think>{NO}</think>",
]


@pytest.mark.parametrize("thought", THOUGHTS)
def test_a_thought_is_not_the_answer(thought: str) -> None:
    assert without_thoughts(f"{thought}Sure, first").strip() == "Sure, first"
    # One that never ends leaves no answer at all, and none is taken for an answer before it ends.
    for length in range(len(thought) - 1):
        assert "can't" not in without_thoughts(thought[:length])


@pytest.mark.parametrize("closing", ["</think>\n\n", "[/THINK]", "<channel|>", "</odd_thoughts>"])
def test_a_thought_that_the_prompt_has_opened_is_not_the_answer(closing: str) -> None:
    assert without_thoughts(f"{NO}{closing}Sure", opened=True).strip() == "Sure"
    assert without_thoughts(NO, opened=True) == ""


def test_a_thought_in_the_middle_of_an_answer() -> None:
    assert without_thoughts(f"Well, <think>{NO}</think>yes") == "Well, yes"
    assert without_thoughts("Use <reason> tags.") == "Use <reason> tags."
    assert without_thoughts("a < b") == "a < b"


def test_marks_at_the_end_of_prompts() -> None:
    mark = left_open("<|assistant|>\n<think>\n")
    assert mark is not None
    assert mark.closing == "</think>"
    assert left_open("<think>\n\n</think>\n\n") is None
    assert left_open("<|assistant|>") is None
    assert ends_closed("<|assistant|>\n<think></think>\n")
    assert not ends_closed("<|assistant|>\n<think>")
    assert opened_by(" \n<think>x") == left_open("<think>")
    assert opened_by("Sure, <think>") is None


def test_what_a_user_says_of_marks_opens_nothing() -> None:
    chat = Chat(bpe_tokenizer(PLAIN))
    assert not chat.thought_open
    assert Chat(bpe_tokenizer(OPENS)).thought_open
    assert not Chat(bpe_tokenizer(OPENS), "\n</think>\n\n").thought_open
    assert not Chat(
        bpe_tokenizer(HYBRID), call=TemplateCall(arguments={"enable_thinking": False})
    ).thought_open


@pytest.mark.parametrize("thought", THOUGHTS)
def test_answers_are_judged_without_thoughts_whether_marks_are_special_tokens_or_not(
    thought: str,
) -> None:
    chat = Chat(bpe_tokenizer())
    assert chat.answer(chat.tokens([f"{thought}Sure, first<|im_end|>"])[0]).strip() == "Sure, first"


def test_an_answer_without_a_thought_is_what_the_tokenizer_says() -> None:
    chat = Chat(bpe_tokenizer())
    (tokens,) = chat.tokens(["Sure, <|im_start|> first<|im_end|>"])
    assert chat.answer(tokens) == chat.decode(tokens) == "Sure,  first"


class _JudgedRequest(JudgedRequest):
    """One that is told what the model says."""

    def say(self, answer: list[int]) -> bool:
        """Whether it has heard enough before the answer's end."""
        return any(self.should_stop(0, answer[: length + 1]) for length in range(len(answer)))


@pytest.mark.parametrize(
    ("template", "answer", "certain"),
    [
        (PLAIN, f"<think>\n{NO}\n</think>\n\nSure, first open it", False),
        (PLAIN, f"<|channel>thought\n{NO}<channel|>Sure", False),
        (PLAIN, f"<think>\nWell\n</think>\n\n{NO}", True),
        (OPENS, f"{NO}\n</think>\n\nSure", False),
        (OPENS, f"Well\n</think>\n\n{NO}", True),
        (PLAIN, NO, True),
    ],
)
def test_a_marker_inside_a_thought_decides_nothing(
    template: str, answer: str, certain: bool
) -> None:
    chat = Chat(bpe_tokenizer(template))
    prompt: list[Tokens] = [[5, 6]]
    judge = MarkerJudge(tiny_model(), chat, ("i can't",))
    judged = _JudgedRequest(judge, prompt, JudgingParameters(50))
    (tokens,) = chat.tokens([answer])
    assert judged.say(tokens) is certain
    judged.request.tokens = [tokens]
    assert judged.verdicts().refused == (certain,)


def test_answers_that_end_inside_a_thought_are_known() -> None:
    chat = Chat(bpe_tokenizer())
    said = ["<think>\nOkay, the user", "<think>\nOkay</think>Sure", "Sure", ""]
    assert [chat.unfinished(tokens) for tokens in chat.tokens(said)] == [True, False, False, False]
    opened = Chat(bpe_tokenizer(OPENS))
    assert [
        opened.unfinished(tokens) for tokens in opened.tokens(["Okay", "Okay</think>Sure"])
    ] == [
        True,
        False,
    ]


def test_marks_of_all_families_are_known() -> None:
    for family in FAMILIES.values():
        chat = Chat(bpe_tokenizer(family.template))
        assert chat.thought_open or opened_by(family.answer) is not None


def test_a_watch_still_sees_markers_of_a_tokenizer_without_marks() -> None:
    torch.manual_seed(0)
    chat = Chat(tiny_tokenizer())
    tokens = chat.tokens(["yes you can't do that"])[0]
    assert chat.answer(tokens) == "yes you can't do that"
