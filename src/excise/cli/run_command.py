"""`excise MODEL`: prepare, search, choose and save, with a dialogue if a person can answer."""

from __future__ import annotations

from dataclasses import dataclass

from excise.app.events import SeedsCompared
from excise.app.run import Run, prepare
from excise.app.seeds import further_seeds
from excise.app.spread import Searched, results_of, spreads
from excise.cli.ask import Ask, answer_to
from excise.cli.dialogue import Dialogue
from excise.cli.printable import ask_person
from excise.cli.render import make_screen
from excise.cli.resume import where_to_run
from excise.cli.screen import Screen
from excise.cli.search import search, show_front
from excise.cli.streams import is_attended
from excise.cli.tables import spread_table
from excise.config import Settings
from excise.errors import SettingsError
from excise.events import Note
from excise.search.front import Point
from excise.search.select import check_selection, select
from excise.store.outcome import Outcome
from excise.system.files import require_free

DEFAULT_SELECTION = "knee"


@dataclass(frozen=True)
class Finished:
    """A finished run without a dialogue. run: it is closed, but can still be read."""

    run: Run
    outcome: Outcome


def run(settings: Settings) -> int:
    """`excise MODEL`. Returns the exit status."""
    attended = is_attended() and not (settings.yes or settings.json_lines)
    with make_screen(settings) as screen:
        if attended:
            run_attended(settings, screen, ask_person)
        else:
            run_unattended(settings, screen)
    return 0


def run_attended(settings: Settings, screen: Screen, ask: Ask) -> None:
    """Search, then hold the dialogue, which begins with what the settings choose and save."""
    check_early(settings)
    placed = where_to_run(settings, screen, ask)
    if placed is not None:
        with start(placed, screen, ask) as run:
            if search(run, screen) and settings.seeds > 1:
                point = chosen(run, settings.select, DEFAULT_SELECTION)
                show_seeds(run, screen, run.choose(point))
            Dialogue(run, screen, ask).hold()


def run_unattended(settings: Settings, screen: Screen, *, otherwise: str | None = None) -> Finished:
    """Search, choose and save without a question.

    otherwise: the selection if no trial fits the settings' selection; None makes that an error.
    """
    check_early(settings)
    placed = where_to_run(settings, screen, None)
    assert placed is not None  # Only an answer can quit.
    with start(placed, screen) as run:
        completed = search(run, screen)
        show_front(run, screen)
        outcome = run.choose(chosen(run, settings.select, otherwise))
        if settings.save is not None:
            run.save(outcome, settings.save)
        if settings.adapter is not None:
            run.save_adapter(outcome, settings.adapter)
        # Searches with further seeds come last: the results are saved even if these searches fail.
        if completed:
            show_seeds(run, screen, outcome)
        if settings.save is None and settings.adapter is None:
            path = run.directory.path
            screen(Note(f"nothing was saved; to write the model: excise export {path} --save DIR"))
        return Finished(run, outcome)


def chosen(run: Run, selection: str | None, otherwise: str | None) -> Point:
    """The trial of the front that `selection` (by default the knee) names.

    otherwise: the selection if no trial fits; None makes that a SettingsError.
    """
    try:
        return select(run.front(), selection or DEFAULT_SELECTION)
    except SettingsError as error:
        if otherwise is None or not run.front():
            raise
        run.experiment.emit(Note(f"{error}; taking the {otherwise}"))
        return select(run.front(), otherwise)


def show_seeds(run: Run, screen: Screen, outcome: Outcome) -> None:
    """Repeat the search with the settings' further seeds, if any, and show the spread."""
    if run.settings.seeds == 1:
        return
    searched = [Searched(run.settings.seed, outcome, run.front())]
    for other in further_seeds(run):
        screen(Note(f"the same search with seed {other.settings.seed}"))
        if not search(other, screen):
            screen(Note("stopped; the same command continues with this seed"))
            return
        point = chosen(other, run.settings.select, DEFAULT_SELECTION)
        searched.append(Searched(other.settings.seed, other.choose(point), other.front()))
    prompts = len(run.experiment.search_part.target)
    results = results_of(searched, prompts)
    found = spreads(results)
    screen(SeedsCompared(tuple(results), found))
    screen.show(spread_table(results, found))


def check_early(settings: Settings) -> None:
    """Raise ExciseError before the search for a selection or a destination that would fail after it."""
    if settings.select is not None:
        check_selection(settings.select, None)
    for destination in (settings.save, settings.adapter):
        if destination is not None:
            require_free(destination)


def start(settings: Settings, screen: Screen, ask: Ask | None = None) -> Run:
    """Prepare the run, up to the search. ask: None without a person to answer."""

    def go_on(reason: str) -> bool:
        if ask is None:
            return False
        screen(Note(reason))
        return answer_to(ask, "Search all the same? [y]es / [n]o [n]: ").lower() in ("y", "yes")

    return prepare(settings, screen, go_on)
