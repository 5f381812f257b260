"""A run in hand: search on, choose a trial, save it. The dialogue and the unattended run both use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from excise.app.model import save_options
from excise.app.run import Run
from excise.cli.interrupt import StopOnInterrupt
from excise.cli.screen import Screen
from excise.cli.tables import front_table
from excise.report.card import figures_of
from excise.saving.adapter import save_model_adapter
from excise.saving.export import save_model
from excise.saving.options import DescribedEdit
from excise.saving.reproduction import reproduction_of
from excise.store.outcome import Outcome

Ask = Callable[[str], str]
"""Puts a question to the user and returns the line that was typed. Raises EOFError at its end."""


def answer_to(ask: Ask, question: str) -> str:
    """The line that was typed, without spaces around it; empty, the default, if the input has ended."""
    try:
        return ask(question).strip()
    except EOFError:
        return ""


@dataclass(frozen=True)
class Session:
    """A run and the screen that shows it.

    As a context it lets go of the run directory at its end; it can be read from all the same.
    """

    run: Run
    screen: Screen

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run.directory.close()

    def search(self, trials: int | None = None) -> bool:
        """Go on until the study holds `trials` (by default the settings'), or Ctrl+C is pressed.

        Returns False if it was Ctrl+C. Raises KeyboardInterrupt with a message if it is pressed twice.
        """
        try:
            with StopOnInterrupt(self.screen.announce_stop) as interrupt:
                self.run.search(trials, interrupt.requested)
                return not interrupt.requested()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "interrupted; every finished trial is kept; go on with the same command and "
                f"--run-dir {self.run.directory.path}"
            ) from None

    def show_front(self) -> None:
        """Show the best trade-offs as a table."""
        parameters = {trial.number: trial.parameters for trial in self.run.study.trials()}
        prompts = len(self.run.experiment.search_part.target)
        self.screen.show(front_table(self.run.front(), parameters, prompts))

    def _described(self, outcome: Outcome) -> DescribedEdit:
        run = self.run
        figures = figures_of(outcome, run.experiment.coverage.per_layer)
        record = reproduction_of(
            run.directory,
            run.loaded.source,
            outcome.trial,
            figures,
            hardware=not run.settings.no_hardware,
        )
        return DescribedEdit(run.edit(outcome.trial), figures, record)

    def save(self, outcome: Outcome, destination: Path) -> None:
        """Write the edited model to a new folder. Raises SaveError."""
        options, loaded = save_options(self.run.settings), self.run.loaded
        save_model(loaded, self._described(outcome), destination, options, self.screen)

    def save_adapter(self, outcome: Outcome, destination: Path) -> None:
        """Write the edit as an adapter to a new folder. Raises SaveError."""
        options, loaded = save_options(self.run.settings), self.run.loaded
        save_model_adapter(loaded, self._described(outcome), destination, options, self.screen)
