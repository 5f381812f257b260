"""The dialogue after the search: choose a trial, save it, chat with it, search on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from excise.cli.conversation import Conversation, converse
from excise.cli.session import Ask, Session
from excise.errors import ExciseError
from excise.search.front import select
from excise.store.outcome import Outcome
from excise.system.paths import expanded

_TRIAL = "Trial (its number, knee, fewest, refusals<=N, kl<=X), [m]ore trials, [q]uit [knee]: "
_ACTION = (
    "[s]ave the model, save an [a]dapter, [c]hat with it, [m]ore trials, [o]ther trial, [q]uit: "
)
_MORE = 20


class Dialogue:
    """Questions and what their answers set off, until the user quits or ends the input.

    A mistake of the user's is shown, and the question put again: hours of search stand behind it.
    """

    def __init__(self, session: Session, ask: Ask) -> None:
        self._session, self._ask = session, ask
        self._outcome: Outcome | None = None
        self._open = True
        self._actions: dict[str, Callable[[Outcome], None]] = {
            "s": self._save,
            "a": self._save_adapter,
            "c": self._chat,
            "m": self._search_on,
            "o": self._let_go,
            "q": self._quit,
        }

    def hold(self) -> None:
        """Begin with what the settings already answer, then ask."""
        self._session.show_front()
        self._guarded(self._begin)
        try:
            while self._open:
                self._guarded(self._next)
        except EOFError:
            self._say("")
        path = self._session.run.directory.path
        self._say(f"The run is kept in {path}; the same command opens it again.")

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except ExciseError as error:
            self._say(str(error), "yellow")

    def _begin(self) -> None:
        settings = self._session.run.settings
        if settings.select is not None:
            self._choose(settings.select)
        if self._outcome is not None and settings.save is not None:
            self._session.save(self._outcome, settings.save)
        if self._outcome is not None and settings.adapter is not None:
            self._session.save_adapter(self._outcome, settings.adapter)

    def _next(self) -> None:
        if self._outcome is None:
            self._ask_for_trial()
            return
        answer = self._ask(_ACTION).strip().lower()
        action = self._actions.get(answer[:1])
        if action is None:
            self._say("one of s, a, c, m, o, q", "yellow")
        else:
            action(self._outcome)

    def _ask_for_trial(self) -> None:
        answer = self._ask(_TRIAL).strip().lower()
        if answer in ("q", "quit"):
            self._open = False
        elif answer in ("m", "more"):
            self._more()
        else:
            self._choose(answer or "knee")

    def _choose(self, selection: str) -> None:
        self._outcome = self._session.run.choose(select(self._session.run.front(), selection))

    def _save(self, outcome: Outcome) -> None:
        self._session.save(outcome, self._destination("the model", f"model-{outcome.trial}"))

    def _save_adapter(self, outcome: Outcome) -> None:
        destination = self._destination("the adapter", f"adapter-{outcome.trial}")
        self._session.save_adapter(outcome, destination)

    def _destination(self, what: str, name: str) -> Path:
        proposed = self._session.run.directory.path / name
        typed = self._ask(f"Folder for {what} [{proposed}]: ").strip()
        return expanded(typed) if typed else proposed

    def _chat(self, outcome: Outcome) -> None:
        run = self._session.run
        conversation = Conversation.of(run.settings, run.loaded)
        converse(conversation, run.edit(outcome.trial), self._ask)

    def _search_on(self, outcome: Outcome) -> None:
        self._more()

    def _more(self) -> None:
        typed = self._ask(f"How many more trials? [{_MORE}]: ").strip()
        if not (typed or str(_MORE)).isdecimal() or typed == "0":
            self._say(f"{typed}: not a number of trials", "yellow")
            return
        self._session.search(self._session.run.study.done() + int(typed or _MORE))
        # A trial that was chosen may have left the front; the choice is made anew.
        self._outcome = None
        self._session.show_front()

    def _let_go(self, outcome: Outcome) -> None:
        self._outcome = None
        self._session.show_front()

    def _quit(self, outcome: Outcome) -> None:
        self._open = False

    def _say(self, text: str, style: str = "") -> None:
        self._session.screen.show(Text(text, style))
