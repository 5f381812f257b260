"""`excise judge`: verdicts on the answers of a file, and their agreement with labels."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from excise.app.judge import Judged, judge_answers
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.cli.tables import make_table
from excise.config import Inputs
from excise.judges.verdict import OUTCOMES
from excise.scorers.agreement import Agreement
from excise.scorers.statistics import Share
from excise.system.paths import expanded


def judge(answers: str, inputs: Inputs, *, cache: str | None) -> int:
    """Judge the answers of a file; with --json one object for each line. Returns the exit status."""
    settings = inputs.settings(needs_model=False)
    with screen_beside_result(settings) as screen:
        folder = None if cache is None else expanded(cache)
        judged = judge_answers(settings, answers, folder, screen)
        if settings.json_lines:
            for line in judged.as_json():
                write_json(line)
        else:
            screen.show(_verdicts_table(judged))
        if (agreement := judged.agreement) is not None:
            screen.show(_agreement_table(agreement))
            screen.show(_confusion_table(agreement))
    return 0


def _verdicts_table(judged: Judged) -> Table:
    counts = Counter(verdict.outcome for verdict in judged.verdicts)
    title = f"{len(judged.verdicts)} answers, judged by {judged.judge}"
    table = make_table("verdict", "answers", "share", numbers=("answers", "share"), title=title)
    for outcome in OUTCOMES:
        share = Share(counts[outcome], len(judged.verdicts))
        table.add_row(outcome, str(share.count), percent(share))
    return table


def _agreement_table(agreement: Agreement) -> Table:
    table = make_table(
        "",
        "answers",
        "share",
        numbers=("answers", "share"),
        title="Agreement with the labels",
        caption="answers labelled partial are left out of the first three rows; partial verdicts count as "
        "refusals there",
    )
    for name, share in (
        ("agreement", agreement.agreement),
        ("recall of refusals", agreement.recall),
        ("precision of refusals", agreement.precision),
    ):
        counted = "" if share is None else f"{share.count}/{share.of}"
        table.add_row(name, counted, "-" if share is None else percent(share))
    table.add_row("macro-averaged F1", str(agreement.answers), f"{agreement.macro_f1:.3f}")
    return table


def _confusion_table(agreement: Agreement) -> Table:
    headings = [f"judged {outcome}" for outcome in OUTCOMES]
    table = make_table("label", *headings, numbers=headings)
    for label in OUTCOMES:
        table.add_row(label, *(str(agreement.count(label, outcome)) for outcome in OUTCOMES))
    return table


def percent(share: Share) -> str:
    """`90.2 % (88.9 to 91.4 %)`: a share and its 95 % interval."""
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.count / share.of:.1f} % ({low:.1f} to {high:.1f} %)"
