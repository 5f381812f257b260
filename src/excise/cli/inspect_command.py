"""`excise inspect`: what writes to a model's residual stream, and how much of it is covered."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.tables import anatomy_table
from excise.config import Settings
from excise.model.coverage import Coverage
from excise.model.load import LoadedModel
from excise.model.source import resolve
from excise.model.writers import Anatomy
from excise.run.prepare import open_model


def inspect(settings: Settings) -> int:
    """Show a model's layers, matrices and coverage; one that is not covered is shown all the same."""
    # With --json, standard output belongs to the one object.
    with Renderer(make_console(to_errors=settings.json_lines)) as screen:
        source = resolve(settings.model, settings.revision)
        loaded, anatomy, coverage, _ = open_model(settings, source, screen)
        if settings.json_lines:
            write_json(_as_json(loaded, anatomy, coverage), indent=1)
            return 0
        screen.show(anatomy_table(anatomy, coverage))
        for layer, modules in coverage.suspects:
            screen.show(Text(f"layer {layer} is not covered; what else writes: {modules}", "red"))
    return 0


def _as_json(loaded: LoadedModel, anatomy: Anatomy, coverage: Coverage) -> dict[str, object]:
    suspects = dict(coverage.suspects)
    return {
        "model": loaded.source.name,
        "dtype": loaded.dtype,
        "dimension": anatomy.dimension,
        "matrices": anatomy.matrices(),
        "covered": coverage.complete,
        "layers": [
            {
                "layer": layer,
                "coverage": covered,
                "suspects": suspects.get(layer),
                "writers": [
                    asdict(writer) | {"matrices": writer.matrices}
                    for writer in anatomy.writers
                    if writer.layer == layer
                ],
            }
            for layer, covered in enumerate(coverage.per_layer)
        ],
    }
