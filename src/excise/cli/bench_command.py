"""`excise bench`: a run measured by stage, on the user's own model and machine."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from excise.app.profile import TRIAL_STAGES, Profile, Stage, profile
from excise.cli.demo_command import demo_settings
from excise.cli.human import duration, plural, size, sizes
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.cli.tables import make_table
from excise.config import Inputs
from excise.demo.model import cache_folder, materialise
from excise.events import StageStarted

BUILT_IN = "demo"
"""Names the built-in model and its prompts."""

_TITLES = {"kl": "KL", "edit": "edit made"}


def bench(model: str | None, inputs: Inputs) -> int:
    """`excise bench MODEL` or `excise bench demo`. Returns the exit status."""
    if model == BUILT_IN:
        settings = demo_settings(cache_folder(), inputs)
    else:
        settings = inputs.with_flags(model=model).settings()
    with screen_beside_result(settings) as screen:
        if model == BUILT_IN:
            materialise(lambda text: screen(StageStarted("load", text)))
        found = profile(settings, screen)
        if settings.json_lines:
            write_json(as_json(found), indent=1)
        else:
            screen.show(profile_table(found, settings.trials))
    return 0


def as_json(found: Profile) -> dict[str, object]:
    """The profile with tokens a second and the duration of a trial."""
    stages = [
        {**asdict(stage), "tokens_per_second": stage.tokens_per_second} for stage in found.stages
    ]
    return {**asdict(found), "stages": stages, "trial_seconds": found.trial_seconds}


def profile_table(found: Profile, trials: int) -> Table:
    """The stages of a run. trials: the number in a whole search, whose duration the caption estimates."""
    headings = ("seconds", "tokens", "tokens/s", "peak memory")
    title = f"{found.model} · {found.dtype} · {found.device}"
    caption = _caption(found, trials)
    table = make_table("stage", *headings, numbers=headings, title=title, caption=caption)
    for stage in found.stages:
        if stage.name == TRIAL_STAGES[0]:
            table.add_section()
        table.add_row(_TITLES.get(stage.name, stage.name), *_cells(stage))
    return table


def _cells(stage: Stage) -> list[str]:
    seconds = f"{stage.seconds:.3f}" if stage.seconds < 1 else f"{stage.seconds:.1f}"
    ran = (f"{stage.tokens:,}", f"{stage.tokens_per_second:,.0f}") if stage.tokens else ("–", "–")
    return [seconds, *ran, sizes(stage.peak_bytes)]


def _caption(found: Profile, trials: int) -> str:
    trial = found.trial_seconds
    return (
        f"A trial takes {duration(trial)}: {found.control_prompts} control and "
        f"{found.target_prompts} target prompts, answers of up to {found.max_new_tokens} tokens, "
        f"{plural(found.slots, 'prompt')} at a time; {plural(trials, 'trial')} would take about "
        f"{duration(trials * trial)}. This trial: {found.refusals} refused, KL {found.kl:z.4f}. The model "
        f"takes {size(found.loaded_bytes)}. Peak memory is the highest use up to the end of a stage."
    )
