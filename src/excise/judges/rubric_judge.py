"""A chat model as a judge: asks by the rubric, asks again after nonsense, keeps verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from excise.errors import JudgeError, shortened
from excise.events import Emit, Note
from excise.judges.cache import VerdictCache
from excise.judges.rubric import VERSION, conversation, tokens_about, verdict_in
from excise.judges.verdict import Exchange, Verdict
from excise.models.template import Message

_WRITTEN = 40
"""Tokens of a usual reply."""
_SHOWN = 60


class ChatModel(Protocol):
    """A chat model, in memory or behind a server."""

    def replies(self, conversations: Sequence[Sequence[Message]]) -> Iterable[tuple[int, str]]:
        """The index of each conversation with its reply, in the order in which replies come.

        Raises JudgeError if the model cannot be asked.
        """
        ...


@dataclass(frozen=True)
class RubricJudge:
    """Judges by the replies of a chat model.

    cache: the folder in which verdicts are kept; None keeps nothing.
    """

    name: str
    model: ChatModel
    cache: Path | None
    emit: Emit

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `Judge`. Raises JudgeError too if a reply holds no verdict, also when asked again."""
        found: dict[int, Verdict] = {}
        with self._opened() as cache:
            for index, exchange in enumerate(exchanges):
                if cache is not None and (known := cache.get(exchange)) is not None:
                    found[index] = known
            self._announce(exchanges, found)
            nonsense = ""
            for again in (False, True):
                asked = [index for index in range(len(exchanges)) if index not in found]
                conversations = [conversation(exchanges[index], again=again) for index in asked]
                for place, reply in self.model.replies(conversations) if asked else ():
                    if (verdict := verdict_in(reply)) is None:
                        nonsense = reply
                        continue
                    found[asked[place]] = verdict
                    if cache is not None:
                        cache.add(exchanges[asked[place]], verdict)
        if len(found) < len(exchanges):
            shown = shortened(" ".join(nonsense.split()), _SHOWN)
            raise JudgeError(
                f"judge {self.name}: gave no verdict on {len(exchanges) - len(found)} of {len(exchanges)} "
                f"answers, also when asked again (it replied {shown!r}); take another model"
            )
        return [found[index] for index in range(len(exchanges))]

    def _opened(self) -> AbstractContextManager[VerdictCache | None]:
        return nullcontext() if self.cache is None else VerdictCache(self.cache, self.name, VERSION)

    def _announce(self, exchanges: Sequence[Exchange], known: dict[int, Verdict]) -> None:
        asked = [each for index, each in enumerate(exchanges) if index not in known]
        if not asked:
            return
        tokens = tokens_about([conversation(exchange) for exchange in asked])
        plural = "" if len(asked) == 1 else "s"
        kept = f" ({len(known)} more are in {self.cache})" if known else ""
        self.emit(
            Note(
                f"judge {self.name}: {len(asked)} answer{plural} to judge{kept}, about {tokens:,} tokens to "
                f"read and {_WRITTEN * len(asked):,} to write"
            )
        )
