"""The dialogue after the search: choose a trial, save it, chat with it, search on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from excise.app.run import Run
from excise.cli.ask import Ask
from excise.cli.conversation import Conversation, converse
from excise.cli.screen import Screen
from excise.cli.search import search, show_front
from excise.errors import ExciseError
from excise.search.select import rules, select
from excise.store.outcome import Outcome
from excise.system.paths import expanded

_ACTION = (
    "[s]ave the model, save an [a]dapter, [c]hat with it, [m]ore trials, [o]ther trial, [q]uit: "
)
_MORE = 20


class Dialogue:
    """Questions and the actions that their answers start, until the user quits or ends the input.

    An error is shown and the question is asked again, so that no mistake ends a long run.
    """

    def __init__(self, run: Run, screen: Screen, ask: Ask) -> None:
        self._run, self._screen, self._ask = run, screen, ask
        self._outcome: Outcome | None = None
        self._open = True
        self._actions: dict[str, Callable[[Outcome], None]] = {
            "s": self._save,
            "a": self._save_adapter,
            "c": self._chat,
            "m": lambda outcome: self._more(),
            "o": lambda outcome: self._forget_choice(),
            "q": lambda outcome: self._quit(),
        }

    def hold(self) -> None:
        """Choose and save what the settings name, then ask."""
        self._guarded(lambda: show_front(self._run, self._screen))
        self._guarded(self._begin)
        try:
            while self._open:
                self._guarded(self._next)
        except EOFError:
            self._say("")
        path = self._run.directory.path
        self._say(f"The run is kept in {path}; the same command opens it again.")

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except ExciseError as error:
            self._say(str(error), "yellow")

    def _begin(self) -> None:
        settings = self._run.settings
        if settings.select is not None:
            with settings.naming_places():
                self._choose(settings.select)
        if self._outcome is not None and settings.save is not None:
            self._run.save(self._outcome, settings.save)
        if self._outcome is not None and settings.adapter is not None:
            self._run.save_adapter(self._outcome, settings.adapter)

    def _next(self) -> None:
        if self._outcome is None:
            self._ask_for_trial()
            return
        answer = self._ask(_ACTION).strip().lower()
        action = self._actions.get(answer[:1])
        if action is None:
            self._say("type one of s, a, c, m, o, q", "yellow")
        else:
            action(self._outcome)

    def _ask_for_trial(self) -> None:
        bounds = ", ".join(rules(self._run.study.objectives))
        question = f"Trial (its number, knee, fewest, {bounds}), [m]ore trials, [q]uit [knee]: "
        answer = self._ask(question).strip().lower()
        if answer in ("q", "quit"):
            self._quit()
        elif answer in ("m", "more"):
            self._more()
        else:
            self._choose(answer or "knee")

    def _choose(self, selection: str) -> None:
        self._outcome = self._run.choose(select(self._run.front(), selection))

    def _save(self, outcome: Outcome) -> None:
        self._run.save(outcome, self._destination("the model", f"model-{outcome.trial}"))

    def _save_adapter(self, outcome: Outcome) -> None:
        destination = self._destination("the adapter", f"adapter-{outcome.trial}")
        self._run.save_adapter(outcome, destination)

    def _destination(self, what: str, name: str) -> Path:
        proposed = self._run.directory.path / name
        typed = self._ask(f"Folder for {what} [{proposed}]: ").strip()
        return expanded(typed) if typed else proposed

    def _chat(self, outcome: Outcome) -> None:
        conversation = Conversation.of(self._run.settings, self._run.loaded)
        converse(conversation, self._run.edit(outcome.trial), self._ask)

    def _more(self) -> None:
        typed = self._ask(f"How many more trials? [{_MORE}]: ").strip()
        if not (typed or str(_MORE)).isdecimal() or typed == "0":
            self._say(f"{typed}: not a number of trials", "yellow")
            return
        search(self._run, self._screen, self._run.study.done() + int(typed or _MORE))
        # The chosen trial may have left the front.
        self._forget_choice()

    def _forget_choice(self) -> None:
        self._outcome = None
        show_front(self._run, self._screen)

    def _quit(self) -> None:
        self._open = False

    def _say(self, text: str, style: str = "") -> None:
        self._screen.show(Text(text, style))
