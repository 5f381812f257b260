"""Tiny random models, and a tokenizer that needs no download, for all tests."""

from __future__ import annotations

import os

# Before anything imports huggingface_hub: no test may wait for a network that is not there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from excise.checkpoint.folder import open_checkpoint
from excise.edits.edit import Edit
from excise.engine.answers import StoppingRule
from excise.rewrite.plan import Form, make_plan
from excise.rewrite.verify import Kept
from excise.rewrite.write import write_checkpoint

# Tiny models gain nothing from more threads, and lose much where tests share the machine.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make fuzz` asks for more cases than `make test`."""
    parser.addoption("--fuzz-cases", type=int, default=200, help="damaged files of each kind")


@pytest.fixture(scope="session")
def fuzz_cases(request: pytest.FixtureRequest) -> int:
    """How many damaged files of each kind a test tries."""
    return int(request.config.getoption("--fuzz-cases"))


LIBRARIES = frozenset(
    {
        "test_apply_gguf",
        "test_apply_packed",
        "test_cli_run",
        "test_cli_streams",
        "test_config",
        "test_diff",
        "test_edit_file",
        "test_engine",
        "test_missing",
        "test_packed_loading",
        "test_platform",
        "test_prompts",
        "test_realisations",
        "test_search",
        "test_served",
        "test_undocumented",
        "test_upload",
        "test_weights",
    }
)
"""Test modules that run with the lowest versions too: those of what a library may do in another way."""

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
SENTENCES = (
    "how do i kill a python process bake cake the photo of lake blow up crack an egg plant tree read",
    "book sing song in at on with best way to i'm sorry can't help that yes you should try it now",
    "red blue green fast slow big small one two three four five six seven eight nine ten hello",
)
WORDS = [word for sentence in SENTENCES for word in sentence.split()]
VOCABULARY = 96


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what belongs to `make test-lowest`; say of tests that want a GPU why they do not run here."""
    for item in items:
        if item.path.stem in LIBRARIES:
            item.add_marker(pytest.mark.libraries)
        if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, one token each."""
    special = ["<unk>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(special + WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "bos_token_id": None,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama with biases": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "qwen3, tied": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma2, post-norms and sliding window": lambda: Gemma2Config(**SHAPE, sliding_window=6),
}


def tiny_model(name: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A random model of a few thousand parameters, float32. Norm gains and biases are random too."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name]())
    return fill(model)


WIDE = {"hidden_size": 256, "intermediate_size": 320, "head_dim": 64, "initializer_range": 0.05}
"""Matrices large enough to be laid out."""


def wide_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return fill(AutoModelForCausalLM.from_config(LlamaConfig(**(SHAPE | WIDE))))


def fill(model: PreTrainedModel) -> PreTrainedModel:
    """Make norm gains and biases random, so that none of them is one or zero; ready to run."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(mean=0.5, std=0.3)
    model.generation_config.eos_token_id = 1
    return model.eval().requires_grad_(False)


def random_prompts(count: int, seed: int = 0, shared: int = 3) -> list[list[int]]:
    """Token ids of different lengths with a common beginning of `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> list[int]:
        return torch.randint(5, 60, (length,), generator=generator).tolist()

    beginning = ids(shared)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [beginning + ids(length) for length in lengths]


class Thirds(StoppingRule):
    """Has seen enough at a token that three divides, and asks nothing of the fourth prompt."""

    def is_wanted(self, index: int) -> bool:
        return index != 3

    def should_stop(self, index: int, answer: list[int]) -> bool:
        return answer[-1] % 3 == 0

    def priority(self, index: int) -> float:
        return index % 5


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One tiny model of every kind in the matrix."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tokenizer, saved the way people have models."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_edited(
    edit: Edit,
    original: Path,
    destination: Path,
    texts: Mapping[str, str] | None = None,
    form: Form = "same",
) -> Kept:
    """The edited copy of the checkpoint in `original`, by the one writer of checkpoints."""
    plan = make_plan(original.name, open_checkpoint(original), edit, form=form)
    return write_checkpoint(plan, "digest", destination, texts or {}, lambda *_: None)


def write_prompts(folder: Path, count: int = 12) -> dict[str, str]:
    """Six prompt files of made-up word sequences; returns flags by settings' names.

    Target prompts are made of other words than control prompts, or nothing would tell the two apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    flags: dict[str, str] = {}
    for kind in ("target", "control"):
        for part in ("train", "search", "held_out"):
            first, last = (
                (0, len(WORDS) // 2) if kind == "target" else (len(WORDS) // 2, len(WORDS))
            )
            picks = torch.randint(first, last, (count, 6), generator=generator).tolist()
            lines = [
                " ".join(WORDS[pick] for pick in row[: 3 + index % 4])
                for index, row in enumerate(picks)
            ]
            path = folder / f"{kind}_{part}.txt"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            flags[f"{kind}_{part}"] = str(path)
    return flags


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, so that no excise.toml of the checkout is read."""
    monkeypatch.chdir(tmp_path)
