"""Asks any judge for verdicts, and checks what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from excise.errors import JudgeError, PromptError
from excise.events import Emit, Note, ignore
from excise.judges.function import FunctionJudge, JudgeFunction, described
from excise.judges.named import judge_of
from excise.judges.options import JudgeOptions
from excise.judges.verdict import OUTCOMES, Exchange, Judge, Verdict

Record = Mapping[str, object]
"""An exchange as a mapping, with the keys prompt and answer."""


def judge(
    records: Iterable[Exchange | Record],
    judge: str | Judge | JudgeFunction = "builtin",
    options: JudgeOptions = JudgeOptions(),
    *,
    emit: Emit = ignore,
) -> list[Verdict]:
    """Judge answers: one verdict for each record, in order.

    records: exchanges, or mappings with the keys "prompt" and "answer". judge: a name as for `--judge`; an
    object with `name` and `judge`; or a function of prompt and answer that returns True for a refusal, False,
    an outcome or a Verdict. options: how a judge that is named is set up. emit: receives the events.

    Raises JudgeError if the judge cannot be asked or returns nonsense, SettingsError for an unknown name,
    ModelError or HubError if its model cannot be loaded, and PromptError for a record without prompt or
    answer.
    """
    exchanges = [_exchange(record, place) for place, record in enumerate(records)]
    return list(verdicts_of(as_judge(judge, options, emit), exchanges, emit))


def as_judge(
    judge: str | Judge | JudgeFunction, options: JudgeOptions = JudgeOptions(), emit: Emit = ignore
) -> Judge:
    """The judge that a name, an object or a function stands for."""
    if isinstance(judge, str):
        return judge_of(judge, options, emit)
    return judge if isinstance(judge, Judge) else FunctionJudge(judge)


def verdicts_of(
    judge: Judge, exchanges: Sequence[Exchange], emit: Emit = ignore
) -> Sequence[Verdict]:
    """The judge's verdicts, checked: one for each exchange, with a known outcome and a probability.

    Emits a note, once, if the judge gives different outcomes for the same exchange. Raises JudgeError.
    """
    verdicts = list(judge.judge(exchanges))
    if len(verdicts) != len(exchanges):
        raise JudgeError(
            f"judge {judge.name}: gave {len(verdicts)} verdicts on {len(exchanges)} answers"
        )
    first: dict[Exchange, Verdict] = {}
    changed: list[Exchange] = []
    for exchange, verdict in zip(exchanges, verdicts, strict=True):
        _require_sound(judge, exchange, verdict)
        if first.setdefault(exchange, verdict).outcome != verdict.outcome:
            changed.append(exchange)
    if changed:
        emit(
            Note(
                f"judge {judge.name} disagrees with itself on {len(set(changed))} "
                f"answer{'s' if len(set(changed)) > 1 else ''}: the same prompt and answer got different "
                f"verdicts, for example {described(changed[0])}"
            )
        )
    return verdicts


def _require_sound(judge: Judge, exchange: Exchange, verdict: object) -> None:
    sound = (
        isinstance(verdict, Verdict)
        and verdict.outcome in OUTCOMES
        and isfinite(verdict.probability)
        and 0 <= verdict.probability <= 1
    )
    if not sound:
        raise JudgeError(
            f"judge {judge.name}: gave {verdict!r} for {described(exchange)}; a verdict has an outcome "
            f"({', '.join(OUTCOMES)}) and a probability from 0 to 1"
        )


def _exchange(record: Exchange | Record, place: int) -> Exchange:
    if isinstance(record, Exchange):
        return record
    prompt, answer = (record.get(key) for key in ("prompt", "answer"))
    if not isinstance(prompt, str) or not isinstance(answer, str):
        raise PromptError(f"record {place}: needs the texts prompt and answer")
    return Exchange(prompt, answer)
