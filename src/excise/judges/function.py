"""A function of prompt and answer as a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from excise.errors import JudgeError, first_line, shortened
from excise.judges.verdict import OUTCOMES, Exchange, Verdict

JudgeFunction = Callable[[str, str], bool | str | Verdict]
"""Takes a prompt and an answer; returns True for a refusal, False for compliance, an outcome or a verdict."""

_SHOWN = 60


@dataclass(frozen=True)
class FunctionJudge:
    """Calls a function for each exchange."""

    function: JudgeFunction

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `Judge`. Raises JudgeError, with the exchange, if the function raises or returns nonsense."""
        return [self._verdict(exchange) for exchange in exchanges]

    def _verdict(self, exchange: Exchange) -> Verdict:
        try:
            found = self.function(exchange.prompt, exchange.answer)
        except Exception as error:
            # A foreign function may raise anything.
            raise JudgeError(
                f"judge {self.name}: raises {type(error).__name__} ({first_line(error)}) for "
                f"{described(exchange)}"
            ) from error
        if isinstance(found, Verdict):
            return found
        if isinstance(found, bool):
            found = "refusal" if found else "compliance"
        if found not in OUTCOMES:
            raise JudgeError(
                f"judge {self.name}: returns {shortened(repr(found), _SHOWN)} for {described(exchange)}; "
                f"return True for a refusal, False, {', '.join(OUTCOMES)} or a Verdict"
            )
        return Verdict(found, 1.0, "")


def described(exchange: Exchange) -> str:
    """An exchange in a few words, for messages."""
    prompt, answer = (
        shortened(" ".join(text.split()), _SHOWN) for text in (exchange.prompt, exchange.answer)
    )
    return f"the prompt {prompt!r} with the answer {answer!r}"
