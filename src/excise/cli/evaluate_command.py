"""`excise evaluate`: two models compared, on the prompts that a run would use."""

from __future__ import annotations

from dataclasses import asdict

from excise.app.evaluate import evaluate as compare
from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.tables import evaluation_table
from excise.config import Settings


def evaluate(settings: Settings, against: str) -> int:
    """Compare `settings.model` with `against`; with --json as one object. Returns the exit status."""
    # With --json, standard output belongs to the one object.
    with Renderer(make_console(to_errors=settings.json_lines)) as screen:
        evaluation = compare(settings, against, screen)
        if settings.json_lines:
            write_json(asdict(evaluation))
        else:
            screen.show(evaluation_table(evaluation))
    return 0
