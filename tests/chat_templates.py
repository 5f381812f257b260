"""Chat templates as families of thinking models have them, in our own wording, and a tokenizer for them."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
_ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n"

PLAIN = _TURNS + _ANSWER + "{% endif %}"

WANTS_PARTS = PLAIN.replace(
    "{{ m['content'] }}",
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
)
DROPS_CONTENT = PLAIN.replace("{{ m['content'] }}", "{{ m['text'] }}")
DROPS_SYSTEM = PLAIN.replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)

HYBRID = (
    _TURNS
    + _ANSWER
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""Qwen3: thinks unless told not to; the model opens the thought."""
OPENS = _TURNS + _ANSWER + "<think>\n{% endif %}"
"""QwQ, the distillates of DeepSeek-R1: always thinks; nothing tells how a closed thought is written."""
OPENS_AND_SHOWS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['reasoning_content'] is defined %}"
    "{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}" + _ANSWER + "<think>{% endif %}"
)
"""Its history shows thoughts without line ends."""
OPENS_AND_SWITCHES = (
    _TURNS
    + _ANSWER
    + "{% if enable_thinking | default(true) %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""Qwen3.5 and its like."""
CLOSES_INSTEAD = (
    _TURNS
    + _ANSWER
    + "{% if not thinking | default(true) %}</think>{% else %}<think>{% endif %}{% endif %}"
)
"""DeepSeek-V3.1: without thinking there is a closing mark alone."""
SYSTEM_SWITCH = (
    "{% if thinking is not defined %}{% set thinking = true %}{% endif %}"
    "<|im_start|>system\ndetailed thinking {{ 'on' if thinking else 'off' }}<|im_end|>\n"
    + _TURNS
    + _ANSWER
    + "{% endif %}"
)
"""Granite and Nemotron: a line of the system prompt."""
USER_SWITCH = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['role'] == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n<think></think>' }}{% endif %}"
    "{% endif %}"
)
"""GLM-4.5: the user's turn ends in a command."""
EFFORT = (
    _TURNS
    + _ANSWER
    + "{% if reasoning_effort | default('high') == 'none' %}[THINK][/THINK]{% else %}[THINK]{% endif %}"
    "{% endif %}"
)
"""A reasoning effort that may be none."""
BUDGET = (
    _TURNS
    + _ANSWER
    + "{% if thinking_budget is defined and thinking_budget == 0 %}<seed:think></seed:think>{% endif %}"
    "{% endif %}"
)
"""Seed-OSS: a budget of tokens."""
HARMONY = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>"
    "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""gpt-oss: more or less effort, but never none."""
CHANNEL = (
    "{% if enable_thinking | default(false) %}<|turn>system\n<|think|><turn|>\n{% endif %}"
    "{% for m in messages %}<|turn>{{ m['role'] }}\n{{ m['content'] | trim }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
"""Gemma 4: does not think unless told to, and its large models open and close a thought all the same."""


@dataclass(frozen=True)
class Family:
    """A template that opens a thought, or whose model does.

    answer: how the model begins when it is asked plainly. prompt: how the end of prompts has to read once
    thinking is off. arguments: those of the template that switch it off, where text alone does not.
    """

    template: str
    answer: str
    prompt: str
    arguments: dict[str, object]


_END = "<|im_start|>assistant\n"
FAMILIES: dict[str, Family] = {
    "qwen3": Family(HYBRID, "<think>\nOkay", f"{_END}<think>\n\n</think>\n\n", {}),
    "qwq": Family(OPENS, "Okay", f"{_END}<think>\n\n</think>\n\n", {}),
    "history": Family(OPENS_AND_SHOWS, "Okay", f"{_END}<think></think>", {}),
    "qwen3.5": Family(OPENS_AND_SWITCHES, "Okay", f"{_END}<think>\n\n</think>\n\n", {}),
    "deepseek-v3.1": Family(CLOSES_INSTEAD, "Okay", f"{_END}</think>", {"thinking": False}),
    "nemotron": Family(SYSTEM_SWITCH, "<think>\nOkay", _END, {"thinking": False}),
    "glm": Family(
        USER_SWITCH,
        "\n<think>Okay",
        "/nothink<|im_end|>\n<|im_start|>assistant\n<think></think>",
        {"enable_thinking": False},
    ),
    "magistral": Family(EFFORT, "Okay", f"{_END}[THINK][/THINK]", {}),
    "seed": Family(BUDGET, "<seed:think>Okay", f"{_END}<seed:think></seed:think>", {}),
    "gpt-oss": Family(
        HARMONY,
        "<|channel|>analysis<|message|>Okay",
        "<|start|>assistant<|channel|>analysis<|message|><|end|><|start|>assistant<|channel|>final<|message|>",
        {},
    ),
    "gemma4": Family(
        CHANNEL, "<|channel>thought\nOkay", "<|turn>model\n<|channel>thought\n<channel|>", {}
    ),
    "unknown mark": Family(
        PLAIN,
        "<longcat_think>Okay",
        f"{_END}<longcat_think>\n\n</longcat_think>\n\n",
        {},
    ),
}

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|message|>",
    "<|end|>",
    "<|channel|>",
    "<|channel>",
    "<channel|>",
    "<|turn>",
    "<turn|>",
    "<seed:think>",
    "</seed:think>",
)
"""Special tokens; other marks are ordinary added tokens, or no tokens at all."""
_ADDED = ("<think>", "</think>")
_CORPUS = (
    "Sure, here is how to do it: first open the door and wait. I'm sorry, but I can't help with that.",
    "Okay, the user wants to know. Great question! You could take a cake. Well, I will do it. Surely.",
    "Tell me how to bake a cake. What is the best way to plant a tree? assistant user system thought\n\n",
)


def bpe_tokenizer(template: str | dict[str, str] | None = PLAIN) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as most chat models have it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS * 5, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_tokens(list(_ADDED))
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer
