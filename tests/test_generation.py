"""Generation configurations: what scores do not follow is said, and chat answers whatever they ask for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from chat_templates import bpe_tokenizer
from cli_helpers import Script
from conftest import SHAPE, fill, tiny_model, tiny_tokenizer, write_prompts
from excise.app.model import experiment_of, load_model
from excise.checkpoint.source import resolve
from excise.cli.chat_command import chat
from excise.cli.conversation import Conversation
from excise.cli.main import main
from excise.config import Inputs, gather
from excise.config.prompt_sources import prompt_sources
from excise.engine.decode import greedy
from excise.engine.generation import settings_not_followed, settings_text
from excise.errors import ModelError
from excise.events import Event, Note
from excise.models.chat import Chat
from excise.prompts.read import load_parts

SILENT: list[Mapping[str, Any]] = [
    {},
    {"repetition_penalty": 1.0, "num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0},
    {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"suppress_tokens": [], "bad_words_ids": None},
    {"eos_token_id": [1, 2], "max_new_tokens": 9, "cache_implementation": "static"},
]
ASKING: list[Mapping[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"suppress_tokens": [7, 8]},
    {"begin_suppress_tokens": [7]},
    {"min_new_tokens": 5},
    {"min_length": 12},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[7]]},
    {"forced_eos_token_id": 7},
    {"forced_bos_token_id": 7},
    {"sequence_bias": [[[7], -9.0]]},
    {"num_beams": 4},
    {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
    {"stop_strings": ["zzz"]},
    {"guidance_scale": 1.5},
    {"exponential_decay_length_penalty": [3, 1.5]},
]


@pytest.mark.parametrize("asked", SILENT)
def test_what_changes_no_greedy_answer_is_not_progress(asked: Mapping[str, Any]) -> None:
    assert settings_not_followed(GenerationConfig(**asked)) == {}
    assert settings_not_followed(None) == {}


@pytest.mark.parametrize("asked", ASKING)
def test_what_changes_greedy_answers_is_progress(asked: Mapping[str, Any]) -> None:
    found = settings_not_followed(GenerationConfig(**asked))
    assert set(found) == set(asked) - {"length_penalty", "early_stopping"}
    assert all(name in settings_text(found) for name in found)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("asked", [*SILENT, *ASKING, {"num_return_sequences": 2, "num_beams": 2}])
def test_chat_says_the_most_probable_tokens(asked: Mapping[str, Any]) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    chat = Chat(tokenizer)
    tokens = chat.tokens([chat.conversation([{"role": "user", "content": "bake a cake"}])])
    expected = greedy(model, tokens, max_new_tokens=6, slots=1)[0]
    model.generation_config = GenerationConfig(**{"eos_token_id": 1} | dict(asked))
    model.generation_config.eos_token_id = 1
    own = model.generation_config
    written: list[str] = []
    answer = Conversation(model, tokenizer, 6).answer("bake a cake", written.append)
    assert answer.split() == chat.decode(expected).split()
    assert "".join(written) == answer
    assert model.generation_config is own


@pytest.mark.parametrize(
    "asked",
    [
        *SILENT[:-1],
        *ASKING,
        {"num_return_sequences": 2, "num_beams": 2},
        {"do_sample": True, "num_beams": 2},
    ],
)
def test_chat_follows_the_models_own_configuration_if_asked_to(asked: Mapping[str, Any]) -> None:
    # transformers knows stop strings of tokenizers of bytes only.
    tokenizer = bpe_tokenizer()
    torch.manual_seed(0)
    model = fill(LlamaForCausalLM(LlamaConfig(**(SHAPE | {"vocab_size": len(tokenizer)}))))
    model.generation_config = GenerationConfig(
        **{"eos_token_id": 1, "pad_token_id": 1} | dict(asked)
    )
    conversation = Conversation(model, tokenizer, 6, own_generation=True)
    chat = Chat(tokenizer)
    (tokens,) = chat.tokens([chat.conversation([{"role": "user", "content": "bake a cake"}])])
    torch.manual_seed(0)
    written: list[str] = []
    answer = conversation.answer("bake a cake", written.append)
    torch.manual_seed(0)
    more = {"tokenizer": tokenizer} if "stop_strings" in asked else {}
    expected = model.generate(torch.tensor([tokens]), max_new_tokens=6, **more)[0, len(tokens) :]
    assert answer.split() == chat.decode(expected.tolist()).split()
    assert "".join(written) == answer


def test_a_configuration_that_cannot_be_followed_is_told_in_one_line() -> None:
    model = tiny_model()
    model.generation_config = GenerationConfig(eos_token_id=1, penalty_alpha=0.6, top_k=4)
    conversation = Conversation(model, tiny_tokenizer(), 6, own_generation=True)
    with pytest.raises(ModelError, match="generation configuration cannot be followed"):
        conversation.answer("bake a cake", lambda text: None)
    assert conversation.messages == []


def test_thoughts_are_shown_and_not_kept() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    conversation = Conversation(model, tokenizer, 6)
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        "<|assistant|> ", "<|assistant|> <think>"
    )
    assert conversation.answer("bake a cake", lambda text: None).strip()
    assert conversation.messages[-1] == {"role": "assistant", "content": ""}


@pytest.fixture
def asking(tmp_path: Path, model_folder: Path) -> Path:
    """A model whose configuration asks for a penalty and forbids tokens."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    path = folder / "generation_config.json"
    asked = {"repetition_penalty": 1.3, "suppress_tokens": [7, 8, 9]}
    path.write_text(json.dumps(json.loads(path.read_text()) | asked), encoding="utf-8")
    return folder


def test_a_run_tells_what_its_scores_do_not_follow(
    asking: Path, tmp_path: Path, empty_directory: None
) -> None:
    settings = gather(
        {
            "model": str(asking),
            "dtype": "float32",
            "max_new_tokens": 4,
            **write_prompts(tmp_path / "p"),
        },
        {},
        None,
    )
    told: list[Event] = []
    loaded = load_model(settings, resolve(str(asking)), told.append)
    prompts = load_parts(prompt_sources(settings))
    experiment = experiment_of(settings, loaded, prompts, told.append)
    part = experiment.search_part
    (note,) = [each.text for each in told if isinstance(each, Note) and "servers" in each.text]
    assert "repetition_penalty 1.3, suppress_tokens [7, 8, 9]" in note or (
        "suppress_tokens [7, 8, 9]" in note and "repetition_penalty 1.3" in note
    )
    # Forbidden tokens have finite logits all the same: scores are numbers.
    assert torch.isfinite(part.original).all()
    assert part.divergences(experiment.runner) == [0.0] * len(part.control)


def test_the_command_says_which_configuration_it_follows(
    asking: Path, capsys: pytest.CaptureFixture[str], empty_directory: None
) -> None:
    flags = {"dtype": "float32", "max_new_tokens": 4}
    assert chat(str(asking), Inputs(flags), Script("bake")) == 0
    assert "repetition_penalty 1.3" in capsys.readouterr().out
    assert chat(str(asking), Inputs(flags), Script("bake"), "model") == 0
    assert "repetition_penalty" not in capsys.readouterr().out
    assert main(["chat", str(asking), "--generation-config", "beam"]) == 2
    assert "must be one of greedy, model" in capsys.readouterr().err
