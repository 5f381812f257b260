"""A run in hand: search on, choose a trial, save it. The dialogue and the unattended run both use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from excise.app.model import save_options
from excise.app.outcome import ask_held_out, confirm
from excise.app.prepare import Prepared
from excise.cli.interrupt import StopOnInterrupt
from excise.cli.screen import Screen
from excise.cli.tables import front_table
from excise.edits.edit import Edit
from excise.experiment.figures import HeldOut
from excise.report.card import figures_of
from excise.saving.export import save_model, save_model_adapter
from excise.saving.options import DescribedEdit
from excise.saving.reproduction import reproduction_of
from excise.search.front import Point, pareto_front
from excise.search.loop import search
from excise.search.study import Study
from excise.store.record import Outcome

Ask = Callable[[str], str]
"""Puts a question to the user and returns the line that was typed. Raises EOFError at its end."""


def answer_to(ask: Ask, question: str) -> str:
    """The line that was typed, without spaces around it; empty, the default, if the input has ended."""
    try:
        return ask(question).strip()
    except EOFError:
        return ""


class Session:
    """A prepared run and its study, with what was measured so far.

    As a context it lets go of the run directory at its end; it can be read from all the same.
    """

    def __init__(self, prepared: Prepared, study: Study, screen: Screen) -> None:
        self.prepared, self.study, self.screen = prepared, study, screen
        self._held_out: HeldOut | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.prepared.directory.close()

    def with_(self, prepared: Prepared, study: Study) -> Session:
        """Another run of the same model and prompts; what the original answered is not asked again."""
        other = Session(prepared, study, self.screen)
        other._held_out = self._held_out
        return other

    def search(self, trials: int | None = None) -> bool:
        """Go on until the study holds `trials` (by default the settings'), or Ctrl+C is pressed.

        Returns False if it was Ctrl+C. Raises KeyboardInterrupt with a message if it is pressed twice.
        """
        try:
            with StopOnInterrupt(self.screen.announce_stop) as interrupt:
                search(
                    self.prepared,
                    self.study,
                    self.screen,
                    trials=trials,
                    stop=interrupt.requested,
                )
                return not interrupt.requested()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "interrupted; every finished trial is kept; go on with the same command and "
                f"--run-dir {self.prepared.directory.path}"
            ) from None

    def front(self) -> list[Point]:
        """The best trade-offs, fewest refusals first."""
        return pareto_front(self.study.points())

    def show_front(self) -> None:
        """Show them as a table."""
        parameters = {record.number: record.parameters for record in self.study.records()}
        prompts = len(self.prepared.search_part.target)
        self.screen.show(front_table(self.front(), parameters, prompts))

    def held_out(self) -> HeldOut:
        """The original model on held-out prompts, asked once."""
        if self._held_out is None:
            self._held_out = ask_held_out(self.prepared, self.screen)
        return self._held_out

    def choose(self, point: Point) -> Outcome:
        """Measure a trial of the front on held-out prompts and record it as the chosen one."""
        held_out = self.held_out()
        return confirm(self.prepared, self.study, point, held_out, self.screen)

    def edit(self, outcome: Outcome) -> Edit:
        """The edit of a chosen trial."""
        return self.prepared.directory.edit(outcome.trial)

    def _described(self, outcome: Outcome) -> DescribedEdit:
        prepared = self.prepared
        figures = figures_of(outcome, prepared.coverage.per_layer)
        record = reproduction_of(
            prepared.directory,
            prepared.loaded.source,
            outcome.trial,
            figures,
            hardware=not prepared.settings.no_hardware,
        )
        return DescribedEdit(self.edit(outcome), figures, record)

    def save(self, outcome: Outcome, destination: Path) -> None:
        """Write the edited model to a new folder. Raises SaveError."""
        options, loaded = save_options(self.prepared.settings), self.prepared.loaded
        save_model(loaded, self._described(outcome), destination, options, self.screen)

    def save_adapter(self, outcome: Outcome, destination: Path) -> None:
        """Write the edit as an adapter to a new folder. Raises SaveError."""
        options, loaded = save_options(self.prepared.settings), self.prepared.loaded
        save_model_adapter(loaded, self._described(outcome), destination, options, self.screen)
