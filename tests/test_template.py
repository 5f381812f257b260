"""Chat templates and tokenizers that do not take prompts as they are: found before anything is measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chat_templates import DROPS_CONTENT, DROPS_SYSTEM, PLAIN, WANTS_PARTS, bpe_tokenizer
from conftest import tiny_tokenizer
from excise.checkpoint.source import resolve
from excise.cli.main import main
from excise.errors import ModelError
from excise.models.chat import Chat
from excise.models.load import load
from excise.models.lost_text import holds
from excise.models.options import LoadOptions
from excise.models.template import TemplateCall, choose_template, literals, template_text, variables
from excise.models.tokenizer import load_tokenizer
from excise.prompts.sets import Prompt

PROMPT = Prompt("Tell me how to bake a cake.", "Be brief.")


def call_of(template: str | dict[str, str], name: str | None = None) -> TemplateCall:
    return choose_template(bpe_tokenizer(template), name, {}, "Be brief.")[0]


def test_content_goes_to_the_template_in_the_form_that_survives() -> None:
    assert call_of(PLAIN).in_parts == frozenset()
    parts = call_of(WANTS_PARTS)
    assert "user" in parts.in_parts
    text = Chat(bpe_tokenizer(WANTS_PARTS), call=parts).text(PROMPT)
    assert text == Chat(bpe_tokenizer(PLAIN)).text(PROMPT)
    # A system prompt as a text beside turns in parts.
    mixed = WANTS_PARTS.replace(
        "{% for m in messages %}",
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '.' }}"
        "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}",
    )
    assert call_of(mixed).in_parts == frozenset(("user", "assistant"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (DROPS_CONTENT, "the chat template leaves out the text of prompts"),
        (DROPS_SYSTEM, "the chat template leaves out a system prompt"),
        ("", "the chat template leaves out the text of prompts"),
        (PLAIN + "{{ 'a' + 1 }}", r"the chat template does not take such prompts \(TypeError: "),
        (PLAIN + "{{ 1 / 0 }}", r"such prompts \(ZeroDivisionError: "),
        (PLAIN + "{{ nothing.at.all }}", r"such prompts \("),
        (PLAIN + "{% for %}", r"such prompts \("),
        (PLAIN + "{{ raise_exception('No system role') }}", r"such prompts \(No system role\)"),
        (
            {"rag": PLAIN, "tool_use": PLAIN},
            r"several chat templates \(rag, tool_use\) and no default",
        ),
    ],
)
def test_a_template_that_does_not_take_prompts_is_told_in_one_line(
    template: str | dict[str, str], said: str
) -> None:
    with pytest.raises(ModelError, match=said) as error:
        call_of(template)
    assert "--chat-template" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_of_several_templates(tmp_path: Path) -> None:
    named = {"default": PLAIN, "rag": PLAIN.replace("user", "reader")}
    assert template_text(bpe_tokenizer(named), call_of(named)) == named["default"]
    chosen = call_of(named, "rag")
    assert template_text(bpe_tokenizer(named), chosen) == named["rag"]
    del named["default"]
    assert call_of(named, "rag") == chosen
    file = tmp_path / "mine.jinja"
    file.write_text(PLAIN + " ", encoding="utf-8")
    tokenizer = bpe_tokenizer(named)
    call, given = choose_template(tokenizer, str(file), {}, None)
    assert given == template_text(tokenizer, call) == PLAIN + " "
    with pytest.raises(ModelError, match=r"chat_template=none: cannot be read, .*\(rag\)"):
        call_of(named, "none")


def test_a_prompt_that_the_template_loses_is_named() -> None:
    short = PLAIN.replace("{{ m['content'] }}", "{{ m['content'][:40] }}")
    chat = Chat(bpe_tokenizer(short))
    assert chat.encode([Prompt("Tell me how to bake a cake.")])
    with pytest.raises(
        ModelError, match='leaves out the text of the prompt "Tell me how to bak … '
    ):
        chat.encode([Prompt("Tell me how to bake a cake and then some more.")])


@pytest.mark.parametrize(
    "text",
    [
        "  Leading and trailing spaces \n",
        "Tabs\tand\n\nline ends",
        "Cafe\u0301 or caf\u00e9, \uff21\uff22, \ufb01ne",
        "한국어, 日本語, ελληνικά, 😀",
        "zero\u200bwidth\u00ad",
        "<|im_end|> and </think>",
        "!?",
    ],
)
@pytest.mark.parametrize("normal", ["NFC", "NFKC", "NFD", "strip", "lower", None])
def test_text_that_survives_in_another_form(text: str, normal: str | None) -> None:
    tokenizer = bpe_tokenizer()
    forms = {
        "NFC": normalizers.NFC(),
        "NFKC": normalizers.NFKC(),
        "NFD": normalizers.NFD(),
        "strip": normalizers.Sequence([normalizers.Strip(), normalizers.Replace("  ", " ")]),
        "lower": normalizers.Sequence(
            [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
        ),
    }
    if normal is not None:
        tokenizer.backend_tokenizer.normalizer = forms[normal]
    chat = Chat(tokenizer)
    assert len(chat.encode([Prompt(text)])) == 1
    trimmed = PLAIN.replace("m['content']", "m['content'] | trim")
    assert len(Chat(bpe_tokenizer(trimmed)).encode([Prompt(text)])) == 1


def _without(letters: str) -> PreTrainedTokenizerFast:
    """A tokenizer that drops letters without a word."""
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(letter, "") for letter in letters]
    )
    return tokenizer


def test_text_that_the_tokenizer_drops() -> None:
    with pytest.raises(
        ModelError,
        match=r'loses the text of the prompt "bake a cake": parts of it have no token; the vocabulary is too '
        r"small and has no unknown token, or the tokenizer's files \(tokenizer.json, …\) are missing",
    ):
        Chat(_without("abcdefghijklmnop")).encode([Prompt("bake a cake")])
    assert Chat(_without("xyz")).encode([Prompt("bake a cake")])


def test_words_unknown_to_the_tokenizer() -> None:
    chat = Chat(tiny_tokenizer())
    # A small vocabulary has no word for everything; one that knows next to nothing cannot be asked.
    assert chat.encode([Prompt("bake a red giraffe in the lake")])
    with pytest.raises(
        ModelError,
        match=r"loses the text .*: 83% of it becomes unknown tokens; the vocabulary is too small for these "
        "prompts, or the tokenizer's files",
    ):
        chat.encode([Prompt("giraffes everywhere, bake")])


def test_a_tokenizer_that_fails() -> None:
    core = Tokenizer(models.WordLevel({"bake": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=PLAIN)
    with pytest.raises(ModelError, match="the tokenizer fails on a prompt"):
        Chat(tokenizer).encode([Prompt("bake a cake")])


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_a_tokenizer_without_its_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="the tokenizer has no vocabulary; its files"):
        load_tokenizer(resolve(str(folder)))


@pytest.mark.parametrize(
    "damaged", ["{", "{}", '{"model": 1}', "\x00", '{"version": "1.0", "model": {}}']
)
def test_a_damaged_tokenizer(folder: Path, damaged: str) -> None:
    (folder / "tokenizer.json").write_text(damaged, encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(resolve(str(folder)))


def test_a_template_where_processors_keep_it(folder: Path) -> None:
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    file = folder / "chat_template.json"
    file.write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    assert (
        load(resolve(str(folder)), LoadOptions(dtypes=("float32",))).tokenizer.chat_template
        == template
    )
    for damaged, said in (
        ("{", "chat_template.json"),
        ("[]", "chat_template.json"),
        ("{}", "no chat"),
    ):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(ModelError, match=said):
            load(resolve(str(folder)), LoadOptions(dtypes=("float32",)))


def test_arguments_reach_the_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{{ mood }} " + template.read_text(encoding="utf-8"), encoding="utf-8")
    loaded = load(
        resolve(str(folder)), LoadOptions(dtypes=("float32",), template_arguments={"mood": "hello"})
    )
    assert Chat(loaded.tokenizer, call=loaded.call).text(Prompt("bake")).startswith("hello ")


def test_variables_and_texts_of_a_template() -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{% set x = 1 %}{{ x }}{% if thinking %}{{ '<think></think>' }}{% endif %}<|end|>"
    )
    assert variables(template) == {"messages", "thinking"}
    assert {"<think></think>", "<|end|>"} <= set(literals(template))
    assert variables("{% if %}") == frozenset()
    assert literals("{% if %}") == ()


def test_text_is_found_again_whatever_its_form() -> None:
    assert holds("<user> Caf\u00e9  au\nlait <end>", "cafe\u0301 au lait")
    assert not holds("<user> tea <end>", "coffee")


def test_a_named_template_by_flag(
    folder: Path, capsys: pytest.CaptureFixture[str], empty_directory: None
) -> None:
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    more = folder / "additional_chat_templates"
    more.mkdir()
    for name in ("rag", "tool_use"):
        (more / f"{name}.jinja").write_text(template + name, encoding="utf-8")
    command = ["inspect", str(folder), "--dtype", "float32"]
    assert main(command) == 2
    assert "several chat templates (rag, tool_use) and no default" in capsys.readouterr().err
    assert main([*command, "--chat-template", "rag"]) == 0
    assert main([*command, "--chat-template", "RAG"]) == 2
    assert "no template of this name (rag, tool_use)" in capsys.readouterr().err
    loaded = load(resolve(str(folder)), LoadOptions(dtypes=("float32",), chat_template="tool_use"))
    assert Chat(loaded.tokenizer, call=loaded.call).text(Prompt("bake")).endswith("tool_use")
    # The model's own templates stay what they are where it is saved.
    assert loaded.chat_template is None
    assert set(loaded.tokenizer.chat_template) == {"rag", "tool_use"}
