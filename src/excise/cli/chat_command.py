"""`excise chat`: chat with a model, or with a run's model under one of its edits."""

from __future__ import annotations

from excise.app.model import load_model, source_of
from excise.checkpoint.source import ModelSource
from excise.cli.ask import Ask
from excise.cli.conversation import Conversation, converse
from excise.cli.printable import ask_person
from excise.cli.render import Renderer
from excise.cli.screen import make_console
from excise.cli.stored import open_run_named, split_trial
from excise.config import Inputs, Settings
from excise.edits.edit import Edit
from excise.engine.generation import settings_not_followed, settings_text
from excise.errors import SettingsError
from excise.events import Emit, Note

_MODEL = "model"


def chat(word: str, inputs: Inputs, ask: Ask = ask_person, generation: str = "greedy") -> int:
    """Chat with the run, trial or model that `word` names. Returns the exit status.

    generation: "greedy", or "model" to follow the model's own generation configuration.
    """
    with Renderer(make_console()) as screen:
        settings, source, edit, description = _named_model(word, inputs, screen)
        with settings.naming_places():
            loaded = load_model(settings, source, screen)
        asked = settings_not_followed(loaded.model.generation_config)
        if asked and generation != _MODEL:
            screen(
                Note(
                    f"the model's generation configuration asks for {settings_text(asked)}; answers here are "
                    f"greedy; --generation-config {_MODEL} follows the configuration"
                )
            )
        screen(Note(description))
    converse(Conversation.of(settings, loaded, own_generation=generation == _MODEL), edit, ask)
    return 0


def _named_model(
    word: str, inputs: Inputs, emit: Emit
) -> tuple[Settings, ModelSource, Edit | None, str]:
    if (split_trial(word)[0] / "run.json").is_file():
        run = open_run_named(word, inputs)
        number = run.choice()
        edit = run.directory.edit(number)
        return run.settings, run.source(emit), edit, f"with the edit of trial {number} of {word}"
    if "select" in inputs.flags:
        raise SettingsError(f"--select: goes with a run, but {word} is a model")
    settings = inputs.with_flags(model=word).settings()
    return settings, source_of(settings), None, "without an edit"
