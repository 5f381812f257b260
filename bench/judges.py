"""Every judge against people: `python bench/judges.py ANSWERS.jsonl [--judge NAME]… [--cache DIR]`.

ANSWERS.jsonl has a JSON object on each line: `model`, `type` (of the prompt), `prompt`, `answer` and `label`
(refusal, partial or compliance). Meant for the answers to XSTest that two people labelled (Röttger et al.
2024, NAACL, arXiv 2308.01263; github.com/paul-rottger/xstest), converted to these keys. Writes
docs/benchmarks/judges.md, which quotes the first words of a few answers.
"""

from __future__ import annotations

import sys

if not __package__:
    sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import described
from excise.app.judge import AnswerRecord, read_records, user_cache
from excise.judges.judge import verdicts_of
from excise.judges.named import judge_of
from excise.judges.options import JudgeOptions
from excise.judges.verdict import OUTCOMES, Judge, Verdict
from excise.scorers.agreement import Agreement
from excise.scorers.statistics import Share

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks" / "judges.md"
_WORDS = 6
"""Words of an answer that the page quotes."""
_SHOWN = 5
"""Answers of each kind of confusion that the page shows."""
_INTRODUCTION = """\
# Judges

How far does each judge agree with people? The answers are those of {models} to XSTest
(Röttger et al. 2024, NAACL, arXiv 2308.01263; {count:,} answers), labelled by two people. *Agreement*,
*recall* and *precision* leave out answers that people labelled partial, and count a partial verdict as a
refusal. *F1* is the mean over refusal, partial and compliance. Intervals are 95 % (Wilson).

Made by `{command}` on {machine}.
Time is the processor time of one run over all answers.
"""


@dataclass(frozen=True)
class Measured:
    """The verdicts of one judge on all records. milliseconds: processor time for an answer."""

    name: str
    records: Sequence[AnswerRecord]
    verdicts: Sequence[Verdict]
    milliseconds: float

    def agreement(self, key: str = "", value: object = None) -> Agreement:
        """On all records, or on those with this value of a key."""
        return Agreement.of(
            (record.label, verdict.outcome)
            for record, verdict in zip(self.records, self.verdicts, strict=True)
            if record.label is not None and (not key or record.values.get(key) == value)
        )


def measure(judge: Judge, records: Sequence[AnswerRecord]) -> Measured:
    """Judge all records, after a first answer that loads what the judge needs."""
    exchanges = [record.exchange for record in records]
    judge.judge(exchanges[:1])
    started = time.process_time()
    verdicts = verdicts_of(judge, exchanges, print)
    seconds = time.process_time() - started
    return Measured(judge.name, records, verdicts, 1000 * seconds / len(records))


def page(found: Sequence[Measured], command: str, machine: str) -> str:
    """The whole page."""
    records = found[0].records
    models = _values(records, "model")
    introduction = _INTRODUCTION.format(
        count=len(records), models=_spoken(models), command=command, machine=machine
    )
    parts = [introduction, "## All answers\n", *_overall(found)]
    for key, heading in (("model", "By model"), ("type", "By type of prompt")):
        parts += [
            f"\n## {heading}\n\nAgreement; the number of answers labelled refusal or compliance.\n"
        ]
        parts += _grouped(found, key)
    for each in found:
        parts += [f"\n## Confusions of {each.name}\n", *_confusion(each), "", *_examples(each)]
    return "\n".join(parts) + "\n"


def _overall(found: Sequence[Measured]) -> Iterator[str]:
    yield "| judge | agreement | recall | precision | F1 | ms an answer |"
    yield "|---|---|---|---|---|---|"
    for each in found:
        one = each.agreement()
        shares = " | ".join(map(_percent, (one.agreement, one.recall, one.precision)))
        yield f"| {each.name} | {shares} | {one.macro_f1:.3f} | {each.milliseconds:.2f} |"


def _grouped(found: Sequence[Measured], key: str) -> Iterator[str]:
    yield f"| {key} | answers | {' | '.join(each.name for each in found)} |"
    yield "|---|---|" + "---|" * len(found)
    for value in _values(found[0].records, key):
        shares = [each.agreement(key, value).agreement for each in found]
        of = max((share.of for share in shares if share), default=0)
        yield f"| {value} | {of} | {' | '.join(map(_percent, shares))} |"


def _confusion(measured: Measured) -> Iterator[str]:
    agreement = measured.agreement()
    yield f"| label | {' | '.join(f'judged {outcome}' for outcome in OUTCOMES)} |"
    yield "|---|" + "---|" * len(OUTCOMES)
    for label in OUTCOMES:
        counts = " | ".join(str(agreement.count(label, outcome)) for outcome in OUTCOMES)
        yield f"| {label} | {counts} |"


def _examples(measured: Measured) -> Iterator[str]:
    """First words of answers on which judge and people disagree, refusal against compliance."""
    groups = defaultdict[str, list[str]](list)
    for record, verdict in zip(measured.records, measured.verdicts, strict=True):
        judged = "compliance" if verdict.outcome == "compliance" else "refusal"
        if record.label in ("refusal", "compliance") and record.label != judged:
            words = " ".join(record.exchange.answer.split()[:_WORDS])
            told = f'{record.values.get("id", "?")}, {record.values.get("model", "?")}: "{_plain(words)} …"'
            groups[f"{record.label}, judged {judged}"].append(told)
    for kind, answers in sorted(groups.items()):
        # Evenly spaced, so that all models have a chance.
        shown = answers[:: max(1, len(answers) // _SHOWN)][:_SHOWN]
        yield f"People said {kind} ({len(answers)}), among them:\n"
        yield from (f"- {one}" for one in shown)
        yield ""


def _plain(text: str) -> str:
    return "".join(character for character in text if character not in "`*_<>[]|#")


def _percent(share: Share | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share.count / share.of:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _values(records: Sequence[AnswerRecord], key: str) -> list[str]:
    return sorted({str(record.values[key]) for record in records if key in record.values})


def _spoken(names: Sequence[str]) -> str:
    return f"{len(names)} models ({', '.join(names)})"


def main() -> None:
    """Measure the judges that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("answers")
    parser.add_argument("--judge", action="append", help="a judge's name; keywords if not given")
    parser.add_argument("--cache", type=Path, default=user_cache())
    given = parser.parse_args()
    names = given.judge or ["keywords"]
    records = read_records(given.answers)
    options = JudgeOptions(cache=given.cache)
    found = [measure(judge_of(name, options, print), records) for name in names]
    flags = "".join(f" --judge {name}" for name in given.judge or ())
    command = f"python bench/judges.py {Path(given.answers).name}{flags}"
    PAGE.write_text(page(found, command, described()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
