"""`excise bench`: a run measured by stage, on the user's own model and machine."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from excise.app.profile import TRIAL_STAGES, Profile, Stage, profile
from excise.cli.demo_command import demo_settings
from excise.cli.human import duration, plural, size, sizes
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.config import Inputs, Settings
from excise.demo.model import cache_folder, materialise
from excise.events import StageStarted

BUILT_IN = "demo"
"""The word that stands for the built-in model and its prompts."""

_TITLES = {"kl": "KL", "edit": "edit made"}


def bench_demo(inputs: Inputs) -> int:
    """`excise bench demo`: the built-in model. Returns the exit status."""
    settings = demo_settings(cache_folder(), inputs)
    return _bench(settings, built_in=True)


def bench(settings: Settings) -> int:
    """`excise bench MODEL`; with --json as one object. Returns the exit status."""
    return _bench(settings, built_in=False)


def _bench(settings: Settings, *, built_in: bool) -> int:
    with screen_beside_result(settings) as screen:
        if built_in:
            materialise(lambda text: screen(StageStarted("load", text)))
        found = profile(settings, screen)
        if settings.json_lines:
            write_json(as_json(found), indent=1)
        else:
            screen.show(profile_table(found, settings.trials))
    return 0


def as_json(found: Profile) -> dict[str, object]:
    """The profile with what follows from it."""
    stages = [
        {**asdict(stage), "tokens_per_second": stage.tokens_per_second} for stage in found.stages
    ]
    return {**asdict(found), "stages": stages, "trial_seconds": found.trial_seconds}


def profile_table(found: Profile, trials: int) -> Table:
    """The stages of a run, and its trial as a whole. trials: what a search would have."""
    table = Table(
        title=f"{found.model} · {found.dtype} · {found.device}",
        title_justify="left",
        caption=_caption(found, trials),
        caption_justify="left",
    )
    table.add_column("stage")
    for heading in ("seconds", "tokens", "tokens/s", "peak memory"):
        table.add_column(heading, justify="right", no_wrap=True)
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
        f"{duration(trials * trial)}. The edit tried: {found.refusals} refused, KL {found.kl:z.4f}. The "
        f"model takes {size(found.loaded_bytes)}; peak memory is the most held until the end of a stage."
    )
