"""`excise demo`: the whole job on the built-in model, with answers before and after."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from excise.app.outcome import Comparison, side_by_side
from excise.cli.render import make_screen
from excise.cli.run_command import DEFAULT_SELECTION, Finished, run_unattended
from excise.cli.screen import Screen, write_json
from excise.cli.tables import comparison_table
from excise.config import Inputs, Settings, gather
from excise.config.flags import field_names
from excise.demo.model import cache_folder, materialise
from excise.demo.settings import demo_flags
from excise.events import StageStarted
from excise.judges.keywords import KeywordJudge
from excise.system.files import next_free

_COMPARED = 12
_SHOWN = 3


def demo(inputs: Inputs) -> int:
    """Run the demonstration. Returns the exit status."""
    # Before the model is built, so that a wrong flag is reported at once.
    settings = demo_settings(cache_folder(), inputs)
    with make_screen(settings) as screen:
        materialise(lambda text: screen(StageStarted("load", text)))
        finished = run_unattended(settings, screen, otherwise=DEFAULT_SELECTION)
        comparisons = _comparisons(finished)
        if settings.json_lines:
            for comparison in comparisons:
                write_json({"event": "Comparison", **asdict(comparison)})
        elif comparisons:
            screen.show(comparison_table(comparisons))
        _say_what_next(finished, settings, screen)
    return 0


def demo_settings(folder: Path, inputs: Inputs) -> Settings:
    """The demonstration's settings, replaced by typed flags. It ignores excise.toml of other projects."""
    defaults = demo_flags(folder)
    typed = {field_names()[name]: value for name, value in inputs.flags.items()}
    for kind in ("target", "control"):
        if any(name == kind or name.startswith(f"{kind}_") for name in typed):
            # A typed prompt set replaces all built-in sets of its kind.
            for name in [name for name in defaults if name.startswith(f"{kind}_")]:
                del defaults[name]
    if "save" not in typed:
        save = Path(str(defaults["save"]))
        # An earlier demonstration may have saved its model in this folder.
        defaults["save"] = next_free(save) if save.exists() else save
    merged = {**defaults, "yes": True, **typed}
    return gather(merged, inputs.environment, Path(os.devnull))


def _comparisons(finished: Finished) -> list[Comparison]:
    """The first held-out prompts that the original refused and the edited model answered."""
    run = finished.run
    experiment = run.experiment
    texts = tuple(prompt.text for prompt in experiment.prompts.target.held_out.prompts[:_COMPARED])
    answers = side_by_side(
        experiment.runner,
        run.edit(finished.outcome.trial),
        texts,
        [list(tokens) for tokens in experiment.held_out.prompts["target"].tokens[:_COMPARED]],
    )
    judge = KeywordJudge(run.settings.markers)
    return [
        answer
        for answer in answers
        if judge.refused(answer.original) and not judge.refused(answer.edited)
    ][:_SHOWN]


def _say_what_next(finished: Finished, settings: Settings, screen: Screen) -> None:
    outcome, path = finished.outcome, finished.run.directory.path
    screen.show(
        Text(
            f"Refused before: {outcome.original.refusals}/{outcome.prompts} held-out prompts. "
            f"After: {outcome.edited.refusals}/{outcome.prompts}, at KL {outcome.kl.mean:z.3f} nats.\n"
            f"The edited model is in {settings.save}, an ordinary transformers folder.\n\n"
            "Next:\n"
            f"  excise chat {path}                        talk to the edited model\n"
            f"  excise export {path} --adapter DIR        write the edit as an adapter\n"
            "  excise runs                                  what is on disk\n"
            "  excise MODEL                                 the same on a model of yours"
        )
    )
