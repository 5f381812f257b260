"""`excise inspect`: what writes to a model's residual stream, and how much of it is covered."""

from __future__ import annotations

from rich.text import Text

from excise.anatomy.writers import Anatomy, examine
from excise.checkpoint.source import resolve, resolve_configuration
from excise.cli.render import Renderer
from excise.cli.screen import make_console, write_json
from excise.cli.tables import anatomy_table
from excise.config import Settings
from excise.experiment.coverage import Coverage
from excise.models.meta_model import meta_model

_UNMEASURED = (
    "From the configuration alone: names and shapes. Coverage is measured on the weights; give a model "
    "with weights, without --config-only."
)


def inspect(settings: Settings) -> int:
    """Show a model's layers, matrices and coverage; one that is not covered is shown all the same."""
    # With --json, standard output belongs to the one object.
    with Renderer(make_console(to_errors=settings.json_lines)) as screen:
        coverage: Coverage | None = None
        folder = resolve_configuration(
            settings.model,
            settings.revision,
            settings.config_only,
            code=settings.trust_remote_code,
        )
        if folder is None:
            # Only here: it brings in all that a run needs, which takes seconds.
            from excise.app.model import open_model

            source = resolve(settings.model, settings.revision, code=settings.trust_remote_code)
            loaded, anatomy, coverage, _ = open_model(settings, source, screen)
            dtype: str | None = loaded.dtype
        else:
            model = meta_model(settings.model, folder, trust_remote_code=settings.trust_remote_code)
            anatomy, dtype = examine(model, settings.writers), None
        if settings.json_lines:
            write_json(_as_json(settings.model, dtype, anatomy, coverage), indent=1)
            return 0
        screen.show(anatomy_table(anatomy, coverage))
        if coverage is None:
            screen.show(Text(_UNMEASURED))
            return 0
        for layer, modules in coverage.suspects:
            screen.show(Text(f"layer {layer} is not covered; what else writes: {modules}", "red"))
    return 0


def _as_json(
    model: str, dtype: str | None, anatomy: Anatomy, coverage: Coverage | None
) -> dict[str, object]:
    suspects = dict(coverage.suspects) if coverage else {}
    return {
        "model": model,
        "dtype": dtype,
        "dimension": anatomy.dimension,
        "matrices": anatomy.matrices(),
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
                    for writer in anatomy.writers
                    if writer.layer == index
                ],
            }
            for index, name in enumerate(anatomy.layers)
        ],
    }
