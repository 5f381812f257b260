"""How prompts are put is on record: template arguments, response prefix, what scores did not follow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli_helpers import rewrite
from conftest import TEMPLATE
from excise.app.model import load_model
from excise.cli.conversation import Conversation
from excise.cli.main import main
from excise.cli.stored import open_run_named
from excise.config import Inputs
from excise.events import ignore
from excise.models.chat import Chat
from excise.reproduce.record import read_reproduction
from excise.store.directory import RunDirectory

pytest_plugins = ["cli_support"]
pytestmark = pytest.mark.usefixtures("elsewhere")

THINKS = TEMPLATE.replace(
    "<|assistant|> ",
    "<|assistant|> {% if thinking | default(true) %}<think> {% else %}</think> {% endif %}{{ mood }}",
)
"""Thinks unless told not to, and then a closing mark stands alone: no text that is added does the same."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, small: list[str], model_folder: Path) -> Path:
    """Folder of such a model, a run on it and what was saved. Tests must not change it."""
    folder = tmp_path_factory.mktemp("asked")
    model = Path(shutil.copytree(model_folder, folder / "thinker"))
    (model / "chat_template.jinja").write_text(THINKS, encoding="utf-8")
    path = model / "generation_config.json"
    asked = json.loads(path.read_text(encoding="utf-8")) | {"repetition_penalty": 1.3}
    path.write_text(json.dumps(asked), encoding="utf-8")
    assert main(command(folder, small)) == 0
    return folder


def command(folder: Path, small: list[str]) -> list[str]:
    arguments = ["--template-arguments", "mood=now ", "--yes", "--run-dir", str(folder / "run")]
    return [str(folder / "thinker"), *small[1:], *arguments, "--save", str(folder / "model")]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


ARGUMENTS = {"mood": "now", "thinking": False}


def test_given_and_found_arguments_are_on_record(saved: Path) -> None:
    assert read(saved / "run" / "run.json")["settings"]["template_arguments"] == {"mood": "now"}
    circumstances = read(saved / "run" / "result.json")["circumstances"]
    assert circumstances["template_arguments"] == ARGUMENTS
    assert circumstances["generation_config"] == {"repetition_penalty": "1.3"}
    record = read_reproduction(saved / "model")
    assert record.settings.template_arguments == {"mood": "now"}
    assert record.circumstances.template_arguments == ARGUMENTS
    assert record.trial.facts["asked_with"]["template_arguments"] == ARGUMENTS


def test_the_card_says_how_it_was_asked(saved: Path) -> None:
    card = (saved / "model" / "README.md").read_text(encoding="utf-8")
    assert 'with `mood="now", thinking=false`' in card
    assert "asks for `repetition_penalty 1.3`: `generate` and servers follow it" in card


def test_an_edit_that_is_shown_says_how_it_was_asked(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(saved / "run")]) == 0
    assert 'mood="now", thinking=false' in capsys.readouterr().out


def test_a_run_that_goes_on_asks_as_it_did(
    saved: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    shutil.rmtree(folder / "model")
    record: dict[str, Any] = RunDirectory(folder / "run").record()
    record["circumstances"]["response_prefix"] = "yes"
    rewrite(folder / "run" / "result.json", record)
    arguments = [str(saved / "thinker"), *command(folder, small)[1:]]
    assert main([*arguments, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = [event for event in told if event["event"] == "ResponsePrefixFound"]
    assert found == {
        "event": "ResponsePrefixFound",
        "text": "yes",
        "template_arguments": {"thinking": False},
    }
    assert read(folder / "run" / "result.json")["circumstances"]["response_prefix"] == "yes"


def test_a_model_made_again_is_asked_alike(saved: Path, tmp_path: Path) -> None:
    assert main(["reproduce", str(saved / "model"), str(tmp_path / "again")]) == 0
    again = read_reproduction(tmp_path / "again")
    assert again.tensors == read_reproduction(saved / "model").tensors
    assert again.circumstances.template_arguments == ARGUMENTS


def test_chat_uses_the_arguments_that_were_given(saved: Path) -> None:
    run = open_run_named(str(saved / "run"), Inputs())
    loaded = load_model(run.settings, run.source(ignore), ignore)
    conversation = Conversation.of(run.settings, loaded)
    assert conversation.answer("bake", lambda text: None) is not None
    text = Chat(conversation.tokenizer, "", conversation.call).conversation(conversation.messages)
    # As it is served: thinking is switched off only where answers are scored.
    assert text.endswith("<|assistant|> <think> now")
