"""Models with a table of positions: what does not fit into it is said before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from chat_templates import bpe_tokenizer
from conftest import fill, tiny_model, tiny_tokenizer, write_prompts
from excise.checkpoint.source import resolve
from excise.cli.conversation import Conversation
from excise.cli.main import main
from excise.errors import ModelError
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.models.positions import position_limit, require_known, require_positions
from zoo import tiny

VOCABULARY = len(tiny_tokenizer())


def gpt2(positions: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=positions, n_embd=32, n_layer=2, n_head=4, eos_token_id=1
    )
    return fill(GPT2LMHeadModel(config))


@pytest.mark.parametrize(
    "model_type",
    [
        "gpt2",
        "gptj",
        "opt",
        "biogpt",
        "bert",
        "roberta",
        "ctrl",
        "mpt",
        "gpt_neo",
        "bart",
        "xlm",
        "marian",
    ],
)
def test_the_limit_is_where_the_model_fails(model_type: str) -> None:
    model = tiny(model_type)
    limit = position_limit(model)
    assert limit is not None
    ids = torch.randint(5, 60, (1, limit + 1))
    with torch.inference_mode():
        model(ids[:, :limit])
        with pytest.raises((IndexError, RuntimeError)):
            model(ids)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "bloom", "xglm", "falcon", "rwkv"])
def test_models_without_a_table_have_no_limit(model_type: str) -> None:
    model = tiny(model_type)
    assert position_limit(model) is None
    require_positions(model, 10**6, 10**6)
    with torch.inference_mode():
        model(torch.randint(5, 60, (1, 300)))


def test_rows_in_front_of_a_table_are_no_positions() -> None:
    config = OPTConfig(
        vocab_size=96, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=40, word_embed_proj_dim=32,
    )  # fmt: skip
    assert position_limit(OPTForCausalLM(config)) == 40


def test_what_does_not_fit_is_said_with_what_would() -> None:
    model = gpt2(40)
    require_positions(model, 30, 10)
    with pytest.raises(
        ModelError,
        match=r"the longest prompt has 32 tokens and its answer up to 10, .*a table of 40 positions; "
        r"give max_new_tokens \(--max-new-tokens 8\) or less",
    ):
        require_positions(model, 32, 10)
    with pytest.raises(ModelError, match="leave out prompts of 40 tokens and more"):
        require_positions(model, 40, 1)


def test_a_run_stops_before_it_asks_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], empty_directory: None
) -> None:
    folder = tmp_path / "model"
    gpt2(24).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    sets = [
        f"--{name.replace('_', '-')}={path}"
        for name, path in write_prompts(tmp_path / "p", 40).items()
    ]
    command = [str(folder), *sets, "--dtype", "float32", "--yes", "--allow-absent", "--trials", "1"]
    assert main([*command, "--run-dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert "a table of 24 positions; give max_new_tokens (--max-new-tokens 15) or less" in told.err
    assert "baseline" not in told.out
    assert (
        main(
            [
                *command,
                "--run-dir",
                str(tmp_path / "fits"),
                "--max-new-tokens",
                "15",
                "--response-prefix",
                "",
            ]
        )
        == 0
    )


def test_a_conversation_ends_where_positions_do() -> None:
    conversation = Conversation(gpt2(30), tiny_tokenizer(), 512)
    told: list[str] = []
    assert len(conversation.answer("bake a cake", told.append).split()) <= 30
    before = list(conversation.messages)
    with pytest.raises(ModelError, match="a table of 30 positions; begin a new one"):
        conversation.answer("bake a cake now " * 8, told.append)
    assert conversation.messages == before
    llama = Conversation(tiny_model(), tiny_tokenizer(), 5)
    assert llama.answer("bake a cake " * 100, told.append)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    gpt2(40).save_pretrained(folder)
    bpe_tokenizer().save_pretrained(folder)
    with pytest.raises(ModelError, match="do not belong together"):
        load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))
    require_known(gpt2(40), range(VOCABULARY))
