"""The main job: prepare, search, choose, save; in a dialogue, or unattended."""

from __future__ import annotations

from dataclasses import dataclass

from excise.app.events import SeedsCompared
from excise.app.run import prepare
from excise.app.seeds import further_seeds
from excise.app.spread import SeedResult, spreads
from excise.cli.dialogue import Dialogue
from excise.cli.printable import ask_person
from excise.cli.render import make_screen
from excise.cli.resume import where_to_run
from excise.cli.screen import Screen
from excise.cli.session import Ask, Session, answer_to
from excise.cli.streams import is_attended
from excise.cli.tables import spread_table
from excise.config import Settings
from excise.errors import SettingsError
from excise.events import Note
from excise.search.front import Point, check_selection, hypervolume, select
from excise.store.outcome import Outcome
from excise.system.files import require_free

DEFAULT_SELECTION = "knee"


@dataclass(frozen=True)
class Finished:
    """An unattended run that came to its end."""

    session: Session
    outcome: Outcome


def run(settings: Settings) -> int:
    """`excise MODEL`. Asks where a person is there to answer; returns the exit status."""
    attended = is_attended() and not (settings.yes or settings.json_lines)
    with make_screen(settings) as screen:
        if attended:
            run_attended(settings, screen, ask_person)
        else:
            run_unattended(settings, screen)
    return 0


def run_attended(settings: Settings, screen: Screen, ask: Ask) -> None:
    """The whole job with a dialogue at its end, which begins with what the flags already say."""
    check_early(settings)
    there = where_to_run(settings, screen, ask)
    if there is not None:
        with start(there, screen, ask) as session:
            if session.search() and settings.seeds > 1:
                point = chosen(session, settings.select, DEFAULT_SELECTION)
                show_seeds(session, session.run.choose(point))
            Dialogue(session, ask).hold()


def run_unattended(settings: Settings, screen: Screen, *, otherwise: str | None = None) -> Finished:
    """The whole job without a question.

    otherwise: the rule to choose by if no trial fits the settings' one; None makes that an error.
    """
    check_early(settings)
    there = where_to_run(settings, screen, None)
    assert there is not None  # Only an answer can say "quit".
    with start(there, screen) as session:
        return _unattended(session, settings, screen, otherwise)


def _unattended(
    session: Session, settings: Settings, screen: Screen, otherwise: str | None
) -> Finished:
    whole = session.search()
    session.show_front()
    outcome = session.run.choose(chosen(session, settings.select, otherwise))
    if settings.save is not None:
        session.save(outcome, settings.save)
    if settings.adapter is not None:
        session.save_adapter(outcome, settings.adapter)
    # Behind what was asked for: that must not be lost to whatever happens in further searches.
    if whole:
        show_seeds(session, outcome)
    if settings.save is None and settings.adapter is None:
        path = session.run.directory.path
        screen(Note(f"nothing was saved; to write the model: excise export {path} --save DIR"))
    return Finished(session, outcome)


def chosen(session: Session, selection: str | None, otherwise: str | None) -> Point:
    """The trial of the front that `selection` (by default the knee) names.

    otherwise: the rule to choose by if no trial fits it; None makes that a SettingsError.
    """
    try:
        return select(session.run.front(), selection or DEFAULT_SELECTION)
    except SettingsError as error:
        if otherwise is None or not session.run.front():
            raise
        session.screen(Note(f"{error}; taking the {otherwise}"))
        return select(session.run.front(), otherwise)


def show_seeds(session: Session, outcome: Outcome) -> None:
    """Repeat the search with the further seeds that were asked for, if any, and show the spread."""
    settings = session.run.settings
    if settings.seeds == 1:
        return
    results = [_result(session, outcome)]
    for run in further_seeds(session.run):
        session.screen(Note(f"the same search with seed {run.settings.seed}"))
        other = Session(run, session.screen)
        if not other.search():
            session.screen(Note("stopped; the same command goes on with this seed"))
            return
        point = chosen(other, settings.select, DEFAULT_SELECTION)
        results.append(_result(other, run.choose(point)))
    found = spreads(results)
    session.screen(SeedsCompared(tuple(results), found))
    session.screen.show(spread_table(results, found))


def _result(session: Session, outcome: Outcome) -> SeedResult:
    run = session.run
    volume = hypervolume(run.front(), len(run.experiment.search_part.target))
    return SeedResult(run.settings.seed, outcome, volume)


def check_early(settings: Settings) -> None:
    """Raise ExciseError for what would fail at the end: said before the work, not after it."""
    if settings.select is not None:
        check_selection(settings.select)
    for destination in (settings.save, settings.adapter):
        if destination is not None:
            require_free(destination)


def start(settings: Settings, screen: Screen, ask: Ask | None = None) -> Session:
    """Everything up to the search. ask: None where nobody is there to answer."""

    def go_on(reason: str) -> bool:
        if ask is None:
            return False
        screen(Note(reason))
        return answer_to(ask, "Search all the same? [y]es / [n]o [n]: ").lower() in ("y", "yes")

    return Session(prepare(settings, screen, go_on), screen)
