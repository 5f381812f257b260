"""`excise upload`: uploads a saved model or adapter, or the edit of a run, to the hub."""

from __future__ import annotations

import getpass
from pathlib import Path

from excise.cli.ask import Ask, answer_to
from excise.cli.export_command import write
from excise.cli.printable import ask_person
from excise.cli.render import make_screen
from excise.cli.screen import Screen
from excise.cli.stored import StoredRun, open_named
from excise.cli.streams import is_attended
from excise.config import Inputs, flag_name
from excise.errors import HubError, SaveError, SettingsError
from excise.events import Note
from excise.hub.folder import open_upload
from excise.hub.upload import upload as send
from excise.reproduce.record import NAME, read_reproduction
from excise.system.paths import expanded


def upload(
    word: str,
    inputs: Inputs,
    *,
    to: str,
    form: str | None,
    public: bool,
    force: bool,
    ask: Ask = ask_person,
    ask_secretly: Ask = getpass.getpass,
) -> int:
    """Upload the run or folder `word` to the repository `to`. Returns the exit status."""
    run = open_named(word, inputs)
    of_both = ("yes", "json_lines", "no_hardware")
    of_runs = [flag_name(field) for field in inputs.flags if field not in of_both]
    of_runs += ["--as"] if form is not None else []
    if run is None and of_runs:
        raise SettingsError(
            f"{of_runs[0]}: goes with a run, but {word} is a saved model or adapter"
        )
    settings = run.settings if run else inputs.with_flags(model=word).settings()
    attended = is_attended() and not (settings.yes or settings.json_lines)
    token = _token(ask_secretly if attended else None)

    def replace(reason: str) -> bool:
        if force or not attended:
            return force
        answer = answer_to(ask, f"{reason}. Replace them? [y]es / [n]o [n]: ")
        return answer.lower() in ("y", "yes")

    with make_screen(settings) as screen:
        folder = expanded(word) if run is None else _written(run, form or "model", screen)
        what = open_upload(folder, hardware=not settings.no_hardware)
        if what.record is None:
            screen(Note(f"{folder} has no {NAME}: excise reproduce will not be able to rebuild it"))
        try:
            send(what, to, token, screen, public=public, replace=replace)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; nothing is visible at {to} yet; the same command resumes the upload"
            ) from None
    return 0


def _token(ask_secretly: Ask | None) -> str:
    """The token that huggingface_hub finds, or that the user types; it is not stored.

    The token is not a flag, because all users of a machine can see command lines.
    Raises SettingsError without a token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import OIDCError

    from excise.hub_access.failures import without_secrets

    try:
        token = get_token()
    except OIDCError as error:
        reason = without_secrets(str(error))
        raise HubError(f"HF_OIDC_RESOURCE gives no token: {reason}") from None
    if not token and ask_secretly is not None:
        question = "Token of the hub, with write permission (it is not stored): "
        token = answer_to(ask_secretly, question)
    if not token:
        raise SettingsError(
            "upload: no token; set HF_TOKEN in the environment, or log in with: hf auth login"
        )
    return token


def _written(run: StoredRun, form: str, screen: Screen) -> Path:
    """A folder with the run's edit: saved in the run directory earlier, or written beside it now.

    The new folder stays, so that a failed upload resumes with the same files. It is not in the run
    directory, in which a search may be running.
    """
    number = run.choice()
    run_folder = run.directory.folder
    folder = run_folder / f"{form}-{number}"
    if not folder.exists():
        folder = run_folder.with_name(f"{run_folder.name}-{form}-{number}")
    if not folder.exists():
        write(run, number, screen, **{"save" if form == "model" else "adapter": folder})
        return folder
    record = read_reproduction(folder) if (folder / NAME).is_file() else None
    wanted = form, number, run.directory.identity().model_digest
    if record is None or (record.made, record.trial.number, record.model.digest) != wanted:
        raise SaveError(
            f"{folder}: is not the {form} of trial {number}; move it, or upload it by its name"
        )
    screen(Note(f"using the {form} of trial {number} in {folder}"))
    return folder
