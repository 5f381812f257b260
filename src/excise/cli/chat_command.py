"""`excise chat`: talk to a model, or to the edit that a run made of its model."""

from __future__ import annotations

from excise.app.model import load_model
from excise.checkpoint.source import ModelSource, resolve
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

_OWN = "model"


def chat(
    word: str,
    inputs: Inputs,
    ask: Ask = ask_person,
    generation: str = "greedy",
) -> int:
    """Chat with what `word` names: a run or one of its trials, or else a model. Returns the exit status.

    generation: "greedy", or "model" to follow the model's own generation configuration.
    """
    with Renderer(make_console()) as screen:
        settings, source, edit, about = _what(word, inputs, screen)
        loaded = load_model(settings, source, screen)
        asked = settings_not_followed(loaded.model.generation_config)
        if asked and generation != _OWN:
            screen(
                Note(
                    f"the model's generation configuration asks for {settings_text(asked)}, which is not "
                    f"followed here; --generation-config {_OWN} follows all of it"
                )
            )
        screen(Note(about))
    converse(Conversation.of(settings, loaded, own=generation == _OWN), edit, ask)
    return 0


def _what(word: str, inputs: Inputs, emit: Emit) -> tuple[Settings, ModelSource, Edit | None, str]:
    if (split_trial(word)[0] / "run.json").is_file():
        run = open_run_named(word, inputs)
        number = run.choice()
        edit = run.directory.edit(number)
        return run.settings, run.source(emit), edit, f"with the edit of trial {number} of {word}"
    if "select" in inputs.flags:
        raise SettingsError(f"--select: {word} is a model, not a run, and has nothing to choose")
    settings = inputs.with_flags(model=word).settings()
    return (
        settings,
        resolve(settings.model, settings.revision, code=settings.trust_remote_code),
        None,
        "as it is, without an edit",
    )
