"""Coverage: proof by number that the known writers are all that writes to the residual stream.

With strength 1 on all writers and a random direction r, what a layer adds to the residual stream has no
component along r. If it has, something in the layer writes that is not in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.edit.edit import Edit
from excise.edit.operator import orthogonal, through_post_norm, unit
from excise.edit.virtual import VirtualEdits
from excise.errors import ModelError
from excise.model.writers import Anatomy, post_norm_gains

THRESHOLD = 0.999
"""Coverage of a layer below which it counts as uncovered."""
_NAMED = 4
"""Layers whose uncovered modules are looked for; the first few tell what is wrong."""
_MATTERS = 0.01
"""A module is named if editing it too raises its layer's coverage by more than this."""


@dataclass(frozen=True)
class Coverage:
    """Covered share of what each layer writes along a random direction: 1 is all of it.

    per_layer: in [0, 1]. suspects: for each layer below the threshold, the modules that still write.
    """

    per_layer: tuple[float, ...]
    suspects: tuple[tuple[int, str], ...]

    @property
    def complete(self) -> bool:
        """True if no layer is left uncovered."""
        return min(self.per_layer) >= THRESHOLD

    def require_complete(self) -> None:
        """Raise ModelError, naming the layers and modules, unless coverage is complete."""
        if not self.complete:
            named = "; ".join(
                f"layer {layer} ({self.per_layer[layer]:.3f}): {modules}"
                for layer, modules in self.suspects[:_NAMED]
            )
            more = (
                f" and {len(self.suspects) - _NAMED} more layers"
                if len(self.suspects) > _NAMED
                else ""
            )
            raise ModelError(
                f"not every writer is covered: {named}{more}; go on all the same with "
                "--allow-uncovered"
            )


def random_edit(anatomy: Anatomy, gains: Tensor, r: Tensor) -> Edit:
    """An orthogonal edit of strength 1 on all writers along one unit direction r [d]."""
    operator = orthogonal(through_post_norm(r.expand(len(anatomy.writers), -1), gains))
    strengths = torch.ones(len(anatomy.writers))
    return Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths)


def measure(model: PreTrainedModel, anatomy: Anatomy, tokens: Sequence[int]) -> Coverage:
    """Coverage of every layer, from one forward pass over `tokens` with and one without the edit.

    Uncovered is what a layer's addition keeps along r, beyond the rounding of the residual stream in
    the model's data type, as a share of what it had along r before.
    """
    r = unit(torch.randn(anatomy.dimension, generator=torch.Generator().manual_seed(0)))
    edit = random_edit(anatomy, post_norm_gains(model, anatomy.writers, anatomy.dimension), r)
    ids = torch.tensor([list(tokens)], device=model.device)
    before, _ = _along(model, anatomy, ids, r)

    def with_edit(edit: Edit) -> list[float]:
        with VirtualEdits(model, edit.writers) as edits:
            edits.use(edit)
            after, rounding = _along(model, anatomy, ids, r)
        return [
            1 - min(1.0, max(0.0, keeps - noise) / max(had, noise, 1e-30))
            for had, keeps, noise in zip(before, after, rounding, strict=True)
        ]

    per_layer = with_edit(edit)
    uncovered = [layer for layer, covered in enumerate(per_layer) if covered < THRESHOLD]
    suspects = []
    for layer in uncovered:
        # Naming costs a pass a module, so only the layers that will be shown are looked into.
        named = anatomy.layers[layer]
        if layer in uncovered[:_NAMED]:
            writes = [
                name
                for name in _candidates(model, anatomy, layer, ids)
                if with_edit(_joined(edit, name, r))[layer] > per_layer[layer] + _MATTERS
            ]
            named = ", ".join(writes) or named
        suspects.append((layer, named))
    return Coverage(per_layer=tuple(per_layer), suspects=tuple(suspects))


def _joined(edit: Edit, name: str, r: Tensor) -> Edit:
    """The edit with one more module in it."""
    u = torch.cat([edit.u, r.unsqueeze(0)])
    return Edit(edit.kind, (*edit.writers, name), u, u, torch.ones(len(u)))


def _along(
    model: PreTrainedModel, anatomy: Anatomy, ids: Tensor, r: Tensor
) -> tuple[list[float], list[float]]:
    """Root mean square of r·(addition), and of the rounding of r·(residual stream), by layer."""
    streams: dict[int, tuple[Tensor, Tensor]] = {}

    def listen(index: int):  # type: ignore[no-untyped-def]
        def hook(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: object
        ) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output[0] if isinstance(output, tuple) else output
            assert isinstance(leaving, Tensor)
            streams[index] = (entering.to("cpu", torch.float64), leaving.to("cpu", torch.float64))

        return hook

    with ExitStack() as stack:
        for index, name in enumerate(anatomy.layers):
            layer = model.get_submodule(name)
            handle = layer.register_forward_hook(listen(index), with_kwargs=True)
            stack.callback(handle.remove)
        with torch.inference_mode():
            model(ids, use_cache=False)
    direction = r.to(torch.float64)
    additions: list[float] = []
    rounding: list[float] = []
    for index in range(len(anatomy.layers)):
        entering, leaving = streams[index]
        additions.append(((leaving - entering) @ direction).square().mean().sqrt().item())
        # Each component of the stream is rounded by up to ε/2 of itself at every add (two to four a
        # layer); along r these errors add up like independent ones. Four of them is a wide margin.
        noise = (leaving.square() @ direction.square()).mean().sqrt().item()
        rounding.append(4 * torch.finfo(model.dtype).eps * noise)
    return additions, rounding


def _candidates(model: PreTrainedModel, anatomy: Anatomy, layer: int, ids: Tensor) -> list[str]:
    """Modules of a layer that are no known writers and put out one tensor as wide as the stream.

    Only the innermost ones that hold weights: what they are part of writes through them.
    """
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
        with torch.inference_mode():
            model(ids, use_cache=False)
    return found
