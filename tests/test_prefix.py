"""What all answers begin with, and chains of thought that are closed or switched off before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from chat_templates import FAMILIES, HYBRID, OPENS, PLAIN, bpe_tokenizer
from excise.experiment.response_prefix import with_common_beginning
from excise.judges.markers import FORMER_MARKERS
from excise.models.chat import Chat
from excise.models.template import TemplateCall
from excise.prompts.sets import Prompt

PROMPTS = [Prompt(text) for text in ("Tell me how to bake a cake.", "What is the best way?")]


def found(
    chat: Chat,
    says: Callable[[str], Sequence[str]],
    markers: Sequence[str] = FORMER_MARKERS,
    asked: list[str] | None = None,
) -> Chat:
    """What is found for a model that says what `says` gives for the end of its prompts, one text a prompt."""

    def ask(chat: Chat) -> list[list[int]]:
        prompts = [chat.text(prompt) for prompt in PROMPTS]
        if asked is not None:
            asked.append(prompts[0])
        return chat.tokens(says(prompts[0]))

    return with_common_beginning(chat, PROMPTS, ask, markers)


@pytest.mark.parametrize(
    ("answers", "prefix"),
    [
        (["Sure, here you a cake", "Sure, here the door"], "Sure, here"),
        (["Yes", "No"], ""),
        (["Surely", "Sure"], ""),
        # Answers that are all the same leave nothing to judge once they are skipped.
        (["Well I can.", "Well I can."], ""),
        # "I" may be the beginning of a marker: skipping it would hide the marker.
        (["Well, I won't do it", "Well, I will do it"], "Well,"),
        (["I'm sorry, but I can't", "I'm sorry, but first"], ""),
        # A prefix ends behind special tokens as it does behind words.
        (["<|end|><|start|>Sure", "<|end|><|start|>First"], "<|end|><|start|>"),
        (["First:\n\nopen", "First:\n\ntake"], "First:\n\n"),
    ],
)
def test_common_beginning(answers: list[str], prefix: str) -> None:
    chat = found(
        Chat(bpe_tokenizer()),
        lambda prompt: answers if prompt.endswith("assistant\n") else ["a", "b"],
    )
    assert chat.response_prefix == prefix


def test_prefix_and_prompt_are_the_tokens_that_the_model_said() -> None:
    plain = Chat(bpe_tokenizer())
    answers = ["Sure, here you a cake", "Sure, here you the door"]
    chat = found(
        plain, lambda prompt: answers if prompt.endswith("assistant\n") else [" a", " the"]
    )
    assert chat.response_prefix == "Sure, here you"
    said = plain.tokens(["Sure, here you"])[0]
    assert chat.encode(PROMPTS) == [[*tokens, *said] for tokens in plain.encode(PROMPTS)]


@pytest.mark.parametrize(
    ("markers", "prefix"),
    [
        # A habit in place of a refusal, and a refusal in another language.
        (("great question",), ""),
        (("question! take",), "Great"),
        (("tut mir leid",), "Great question!"),
    ],
)
def test_the_markers_in_force_decide(markers: tuple[str, ...], prefix: str) -> None:
    answers = ["Great question! You could", "Great question! Take"]
    chat = found(
        Chat(bpe_tokenizer()),
        lambda prompt: answers if prompt.endswith("assistant\n") else [" You", " Take"],
        markers,
    )
    assert chat.response_prefix == prefix


def test_a_refusal_in_another_language_is_not_put_into_the_models_mouth() -> None:
    answers = ["Es tut mir leid, aber das", "Es tut mir leid, aber nein"]
    for markers, prefix in ((("tut mir leid",), "Es"), (("es tut mir leid",), "")):
        chat = found(
            Chat(bpe_tokenizer()),
            lambda prompt: answers if prompt.endswith("assistant\n") else [" tut mir", " tut dir"],
            markers,
        )
        assert chat.response_prefix == prefix


def test_wide_letters_are_words_by_themselves() -> None:
    answers = ["很抱歉", "很高兴"]
    says = lambda prompt: answers if prompt.endswith("assistant\n") else ["a", "b"]  # noqa: E731
    assert found(Chat(bpe_tokenizer()), says, ("不",)).response_prefix == "很"
    assert found(Chat(bpe_tokenizer()), says, ("很抱歉",)).response_prefix == ""


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_thinking_is_switched_off_as_the_family_does_it(name: str) -> None:
    family = FAMILIES[name]

    def says(prompt: str) -> list[str]:
        if prompt.endswith(family.prompt) and ("off" in prompt or name != "nemotron"):
            return ["Take the door", "First open"]
        return [f"{family.answer}, the user", f"{family.answer} first"]

    chat = found(Chat(bpe_tokenizer(family.template)), says)
    assert chat.text(PROMPTS[0]).endswith(family.prompt)
    assert dict(chat.call.arguments) == family.arguments
    assert not chat.thought_open


def test_what_answers_begin_with_behind_a_closed_thought_is_skipped_too() -> None:
    def says(prompt: str) -> list[str]:
        if prompt.endswith("</think>\n\n"):
            return ["Sure, here you a cake", "Sure, here you the door"]
        if prompt.endswith("Sure, here you"):
            return [" a cake", " the door"]
        return ["<think>\nOkay, the user", "<think>\nOkay, first"]

    for template in (HYBRID, PLAIN):
        asked: list[str] = []
        chat = found(Chat(bpe_tokenizer(template)), says, asked=asked)
        assert chat.response_prefix == "<think>\n\n</think>\n\nSure, here you"
        assert [text.rpartition("assistant\n")[2] for text in asked] == [
            "",
            "<think>\n\n</think>\n\n",
            "<think>\n\n</think>\n\nSure, here you",
        ]


def test_an_empty_thought_that_the_model_opens_and_closes_is_a_common_beginning() -> None:
    empty = "<|channel>thought\n<channel|>"

    def says(prompt: str) -> list[str]:
        start = "" if prompt.endswith(empty) else empty
        return [f"{start}I'm sorry, but I can't", f"{start}You could take"]

    chat = found(Chat(bpe_tokenizer(FAMILIES["gemma4"].template)), says)
    assert chat.response_prefix == empty


def test_a_model_that_thinks_only_now_and_then_is_left_alone() -> None:
    chat = found(Chat(bpe_tokenizer()), lambda prompt: ["<think>\nOkay", "Take the door"])
    assert chat.response_prefix == ""


def test_a_model_that_opens_a_thought_again_is_not_followed_for_ever() -> None:
    asked: list[str] = []
    chat = found(
        Chat(bpe_tokenizer(OPENS)),
        lambda prompt: ["<think>\nOkay, a", "<think>\nOkay, b"],
        asked=asked,
    )
    assert chat.response_prefix == "\n</think>\n\n"
    assert len(asked) == 1


def test_a_model_that_goes_round_in_circles_ends() -> None:
    chat = found(Chat(bpe_tokenizer()), lambda prompt: ["Sure, here a", "Sure, here b"])
    assert 1 < chat.response_prefix.count("Sure, here") < 20


def test_thinking_that_was_asked_for_stays() -> None:
    call = TemplateCall(arguments={"enable_thinking": True})
    answers = ["<think>\nOkay, a", "<think>\nWell, b"]
    chat = found(Chat(bpe_tokenizer(HYBRID), call=call), lambda prompt: answers)
    assert chat.response_prefix == ""
    assert dict(chat.call.arguments) == {"enable_thinking": True}


def test_an_argument_that_was_given_is_not_tried() -> None:
    call = TemplateCall(arguments={"enable_thinking": False})
    chat = found(Chat(bpe_tokenizer(HYBRID), call=call), lambda prompt: ["Take", "First"])
    assert chat.response_prefix == ""
    assert chat.text(PROMPTS[0]).endswith("<think>\n\n</think>\n\n")
