"""Coverage: measures that the known writers are all modules that write to the residual stream.

With strength 1 on all writers and a random direction r, the additions of a layer to the residual stream have
no component along r, unless an unknown module writes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.anatomy.writers import Anatomy
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError
from excise.models.residual_stream import StreamProbe, norms_on_the_stream
from excise.models.weights import post_norm_gains
from excise.operators.operator import orthogonal, through_post_norm, unit

THRESHOLD = 0.999
"""Coverage of a layer below which it counts as uncovered."""
_NAMED = 4
"""Number of uncovered layers whose modules are searched and shown."""
_MATTERS = 0.01
"""A module is named if its edit raises the coverage of its layer by more than this."""


@dataclass(frozen=True)
class Coverage:
    """The share of each layer's additions along a random direction that the known writers write.

    per_layer: in [0, 1]; 1 for a layer that writes nothing. suspects: for each layer below the
    threshold, the modules that still write.
    """

    per_layer: tuple[float, ...]
    suspects: tuple[tuple[int, str], ...]

    @property
    def complete(self) -> bool:
        """True if all layers are covered."""
        return min(self.per_layer) >= THRESHOLD

    @property
    def uncovered(self) -> tuple[int, ...]:
        """Layers below the threshold."""
        return tuple(index for index, share in enumerate(self.per_layer) if share < THRESHOLD)

    def lacking(self) -> str:
        """The first uncovered layers and their unknown modules, in one line."""
        named = "; ".join(
            f"layer {layer} ({self.per_layer[layer]:.3f}): {modules}"
            for layer, modules in self.suspects[:_NAMED]
        )
        more = len(self.suspects) - _NAMED
        return f"not every writer is covered: {named}" + (f" and {more} more layers" * (more > 0))

    def require_complete(self) -> None:
        """Raise ModelError, naming the layers and modules, unless coverage is complete."""
        if not self.complete:
            raise ModelError(
                f"{self.lacking()}; declare the missing writers with writers (--writers PATTERN=COMPONENT), "
                "or continue without them with allow_partial (--allow-partial)"
            )


def random_edit(anatomy: Anatomy, gains: Tensor, r: Tensor) -> Edit:
    """An orthogonal edit of strength 1 on all writers along one unit direction r [d]."""
    operator = orthogonal(through_post_norm(r.expand(len(anatomy.writers), -1), gains))
    strengths = torch.ones(len(anatomy.writers))
    return Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths)


def measure(model: PreTrainedModel, anatomy: Anatomy, tokens: Sequence[int]) -> Coverage:
    """Coverage of every layer, from forward passes over `tokens` with and without the edit.

    The uncovered share of a layer is the component of its additions along r with the edit, beyond the
    rounding of the residual stream, relative to the component without the edit.
    """
    r = unit(torch.randn(anatomy.dimension, generator=torch.Generator().manual_seed(0)))
    edit = random_edit(anatomy, post_norm_gains(model, anatomy.writers, anatomy.dimension), r)
    norms = norms_on_the_stream(model, anatomy, tokens)
    before = StreamProbe(model, anatomy, norms, r).run(tokens)

    def with_edit(edit: Edit) -> list[float]:
        with VirtualEdits(model, edit.writers) as edits:
            edits.use(edit)
            after = StreamProbe(model, anatomy, norms, r).run(tokens)
        return [
            1 - min(1.0, max(0.0, now.along - now.rounding) / max(had.along, now.rounding, 1e-30))
            for had, now in zip(before, after, strict=True)
        ]

    per_layer = with_edit(edit)
    uncovered = [layer for layer, covered in enumerate(per_layer) if covered < THRESHOLD]
    suspects = []
    for layer in uncovered:
        # Each module costs a pass, so only layers that are shown are searched.
        named = anatomy.layers[layer]
        if layer in uncovered[:_NAMED]:
            writes = [
                name
                for name in _candidates(model, anatomy, layer, tokens)
                if with_edit(_joined(edit, name, r))[layer] > per_layer[layer] + _MATTERS
            ]
            named = ", ".join(writes) or named
        suspects.append((layer, named))
    return Coverage(per_layer=tuple(per_layer), suspects=tuple(suspects))


def _joined(edit: Edit, name: str, r: Tensor) -> Edit:
    """The edit with a further module."""
    u = torch.cat([edit.u, r.unsqueeze(0)])
    return Edit(edit.kind, (*edit.writers, name), u, u, torch.ones(len(u)))


def _candidates(
    model: PreTrainedModel, anatomy: Anatomy, layer: int, tokens: Sequence[int]
) -> list[str]:
    """Innermost modules with weights that are not known writers and return a tensor as wide as the stream."""
    root = anatomy.layers[layer]
    names = [
        f"{root}.{name}"
        for name, module in model.get_submodule(root).named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    found: list[str] = []

    def listen(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.shape[-1] == anatomy.dimension:
                found.append(name)

        return hook

    with ExitStack() as stack:
        for name in names:
            if name not in anatomy.names:
                handle = model.get_submodule(name).register_forward_hook(listen(name))
                stack.callback(handle.remove)
        StreamProbe(model, anatomy, frozenset(), torch.zeros(anatomy.dimension)).run(tokens)
    return list(dict.fromkeys(found))
