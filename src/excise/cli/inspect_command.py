"""`excise inspect`: shows which modules write to a model's residual stream, and their coverage."""

from __future__ import annotations

from rich.text import Text

import excise
from excise.app.model import load_options
from excise.cli.render import screen_beside_result
from excise.cli.screen import write_json
from excise.cli.tables import anatomy_table
from excise.config import Settings

_UNMEASURED = (
    "Names and shapes come from the configuration. Coverage is measured on the weights; for it, give a model "
    "with weights and leave out --config-only."
)


def inspect(settings: Settings) -> int:
    """Show a model's layers, matrices and coverage. Returns the exit status, 0 also without full coverage."""
    with screen_beside_result(settings) as screen:
        found = excise.inspect(
            settings.model,
            load_options(settings),
            revision=settings.revision,
            writers=settings.writers,
            weights=not settings.config_only,
            emit=screen,
        )
        if settings.json_lines:
            write_json(_as_json(found), indent=1)
            return 0
        coverage = found.coverage
        screen.show(anatomy_table(found.anatomy, coverage))
        if coverage is None:
            screen.show(Text(_UNMEASURED))
            return 0
        for layer, modules in coverage.suspects:
            screen.show(
                Text(f"layer {layer} is not covered; other modules that write: {modules}", "red")
            )
    return 0


def _as_json(found: excise.Inspection) -> dict[str, object]:
    coverage = found.coverage
    suspects = dict(coverage.suspects) if coverage else {}
    return {
        "model": found.model,
        "dtype": found.dtype,
        "dimension": found.dimension,
        "matrices": found.matrices,
        "covered": coverage.complete if coverage else None,
        "layers": [
            {
                "index": index,
                "name": name,
                "coverage": coverage.per_layer[index] if coverage else None,
                "suspects": suspects.get(index),
                "writers": [
                    {
                        "name": writer.name,
                        "component": writer.component,
                        "shape": writer.shape,
                        "matrices": writer.matrices,
                        "post_norm": writer.post_norm,
                    }
                    for writer in found.writers_of(index)
                ],
            }
            for index, name in enumerate(found.layers)
        ],
    }
