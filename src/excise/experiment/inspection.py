"""Layers and writers of a model, and their coverage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from excise.anatomy.writers import Anatomy, Writer, examine
from excise.checkpoint.source import resolve_to_inspect
from excise.events import Emit, ignore
from excise.experiment.coverage import Coverage, measure
from excise.experiment.events import Examined
from excise.models.chat import Chat
from excise.models.load import LoadedModel, load
from excise.models.meta_model import meta_model
from excise.models.options import LoadOptions
from excise.validation import checked


@dataclass(frozen=True)
class Inspection:
    """Layers and writers of a model, and their coverage if its weights were loaded.

    model: the name from the caller. dtype: data type of the loaded weights. anatomy: decoder layers and
    writers, in order. coverage: of each layer. dtype and coverage are None without weights.
    """

    model: str
    dtype: str | None
    anatomy: Anatomy
    coverage: Coverage | None

    @property
    def dimension(self) -> int:
        """d, the width of the residual stream."""
        return self.anatomy.dimension

    @property
    def layers(self) -> tuple[str, ...]:
        """Module names of the decoder layers."""
        return self.anatomy.layers

    @property
    def writers(self) -> tuple[Writer, ...]:
        """The modules that write to the residual stream, in the order of the layers."""
        return self.anatomy.writers

    @property
    def matrices(self) -> dict[str, int]:
        """Number of matrices of each component."""
        return self.anatomy.matrices()

    def writers_of(self, layer: int) -> tuple[Writer, ...]:
        """The writers of a decoder layer."""
        return tuple(writer for writer in self.writers if writer.layer == layer)


def inspect(
    model: str | Path,
    options: LoadOptions = LoadOptions(),
    *,
    revision: str | None = None,
    writers: tuple[str, ...] = (),
    weights: bool | None = None,
    emit: Emit = ignore,
) -> Inspection:
    """Find a model's layers and writers, and measure their coverage if its weights are available.

    model: a hub id, a local folder or a GGUF file. writers: declared writers, "PATTERN=COMPONENT".
    weights: None loads local weights but downloads none, so that a model on the hub is inspected from its
    configuration; True downloads weights; False loads no weights.
    Raises ModelError if the model cannot be found, built or loaded, or has no known writer; HubError.
    """
    writers = checked("writers", writers, tuple[str, ...])
    weights = checked("weights", weights, bool | None)
    trusted = options.trust_remote_code
    source, measurable = resolve_to_inspect(str(model), revision, weights=weights, code=trusted)
    if not measurable:
        built = meta_model(source.name, source.folder, trust_remote_code=trusted)
        return Inspection(str(model), None, examine(built, writers), None)
    loaded = load(source, options, emit=emit)
    anatomy, coverage = examine_and_measure(loaded, writers, options.system_prompt, emit)
    return Inspection(str(model), loaded.dtype, anatomy, coverage)


def examine_and_measure(
    loaded: LoadedModel, writers: tuple[str, ...], system_prompt: str | None, emit: Emit
) -> tuple[Anatomy, Coverage]:
    """Layers and writers of a loaded model, and their coverage on a short prompt."""
    anatomy = examine(loaded.model, writers)
    tokens = Chat(loaded.tokenizer, "", loaded.call).test_prompt(system_prompt)
    coverage = measure(loaded.model, anatomy, tokens)
    emit(Examined(len(anatomy.layers), anatomy.matrices(), coverage.per_layer))
    return anatomy, coverage
