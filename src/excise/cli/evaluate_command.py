"""`excise evaluate`: two models compared, on the prompts that a run would use."""

from __future__ import annotations

from dataclasses import asdict

from excise.app.evaluate import evaluate as compare
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.cli.tables import evaluation_table, group_tables
from excise.config import Settings


def evaluate(settings: Settings, against: str) -> int:
    """Compare `settings.model` with `against`; with --json as one object. Returns the exit status."""
    with screen_beside_result(settings) as screen:
        evaluation = compare(settings, against, screen)
        if settings.json_lines:
            write_json(asdict(evaluation))
        else:
            screen.show(evaluation_table(evaluation))
            for name, figures in evaluation.parts.items():
                for table in group_tables(figures.groups, name):
                    screen.show(table)
    return 0
