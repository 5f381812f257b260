"""Writers: the modules that add to the residual stream, found by declared names (`excise.anatomy.roles`).

Only names and shapes are used, so the model may be on the meta device.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.anatomy import roles
from excise.anatomy.layers import decoder_layers, residual_width
from excise.anatomy.roles import Block, Role
from excise.errors import ModelError


@dataclass(frozen=True)
class WriterTensor:
    """One parameter of a writer.

    name: inside the model. shape: of the whole parameter. axis: the axis over the residual stream. bias: True
    for a vector (of each expert), False for a matrix.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    bias: bool


@dataclass(frozen=True)
class Writer:
    """One module that adds to the residual stream.

    name: of the module whose output is edited, inside the model. layer: index of its decoder layer. shape:
    (d, k) of its weight or each expert's weight. matrices: their number. post_norms: names of the norms that
    its output passes before the residual addition. tensors: its parameters; empty if their form is unknown.
    """

    name: str
    component: str
    layer: int
    shape: tuple[int, int]
    matrices: int
    post_norms: tuple[str, ...]
    tensors: tuple[WriterTensor, ...]

    @property
    def post_norm(self) -> str | None:
        """The names of the post-norms as one text, None without post-norms."""
        return " + ".join(self.post_norms) or None


@dataclass(frozen=True)
class Anatomy:
    """A model's decoder layers and their writers, in order.

    layers: module names of the decoder layers. dimension: d, the width of the residual stream.
    """

    layers: tuple[str, ...]
    writers: tuple[Writer, ...]
    dimension: int

    @property
    def names(self) -> tuple[str, ...]:
        """Module names of the writers."""
        return tuple(writer.name for writer in self.writers)

    def matrices(self) -> dict[str, int]:
        """Number of matrices of each component that has matrices."""
        counts: Counter[str] = Counter()
        for writer in self.writers:
            counts[writer.component] += writer.matrices
        return dict(counts)


def examine(model: PreTrainedModel, declared: Sequence[str] = ()) -> Anatomy:
    """Find the decoder layers and writers of `model`.

    declared: writers that the user declares, "PATTERN=COMPONENT". PATTERN is a module name relative to the
    decoder layer, with * for any text; the COMPONENT "none" excludes a module. Raises ModelError without
    decoder layers or writers, and for a declaration that fits no module.
    """
    own = [_declared_role(text) for text in declared]
    width = residual_width(model)
    model_type = model.config.get_text_config(decoder=True).model_type
    names = decoder_layers(model, lambda layer: bool(_find(layer, model_type, width, own)))
    writers: list[Writer] = []
    seen: set[int] = set()
    there, writing = set[str](), set[str]()
    for index, layer_name in enumerate(names):
        layer = model.get_submodule(layer_name)
        there.update(name for name, _ in layer.named_modules())
        for found in _find(layer, model_type, width, own):
            writing.add(found.module)
            module = layer.get_submodule(found.module)
            # A module that several layers share is one writer, so that it is edited once.
            if id(module) not in seen:
                seen.add(id(module))
                writers.append(_writer(layer, layer_name, index, found, width))
    for text, role in zip(declared, own, strict=True):
        if not any(map(role.pattern.fullmatch, there if role.component == "none" else writing)):
            raise ModelError(
                f"{text}: no decoder layer has a linear layer or experts of that name with an output of the "
                f"residual stream's width, {width}",
                setting="writers",
                value=",".join(declared),
            )
    if not writers:
        raise ModelError(
            f"{model_type}: found no module that writes to the residual stream; declare one with writers "
            "(--writers PATTERN=COMPONENT), such as mixer.out=attn.o_proj"
        )
    return Anatomy(layers=names, writers=tuple(writers), dimension=width)


def _declared_role(text: str) -> Role:
    pattern, _, component = text.partition("=")
    if not pattern or component not in (*roles.COMPONENTS, "none"):
        raise ModelError(
            f"write PATTERN=COMPONENT, with COMPONENT one of {', '.join(roles.COMPONENTS)} or none",
            setting="writers",
            value=text,
        )
    return Role(re.compile(re.escape(pattern).replace(r"\*", ".*")), component)


def _find(layer: nn.Module, model_type: str, width: int, own: Sequence[Role]) -> list[Block]:
    """The writers of one layer, in the order of its modules."""
    modules = {name for name, _ in layer.named_modules()}
    held = {name for name, _ in layer.named_parameters()}
    declared = [block for block in roles.BLOCKS.get(model_type, ()) if block.module in modules]
    found = [
        replace(block, biases=tuple(name for name in block.biases if name in held))
        for block in declared
    ]
    if model_type in roles.BLOCKS and not own:
        return found
    taken = [block.module for block in declared]
    for name, module in layer.named_modules():
        if any(name == one or name.startswith(f"{one}.") for one in taken):
            continue
        component = _component(name, own)
        if component is None:
            continue
        parameters = {key: value.shape for key, value in module.named_parameters(recurse=False)}
        weights = tuple(key for key in roles.EXPERT_WEIGHTS if key in parameters)
        if weights and len(parameters[weights[0]]) == 3:
            # Some experts have another width, and a later projection writes.
            if width not in parameters[weights[0]][1:]:
                continue
            biases = tuple(key for key in roles.EXPERT_BIASES if key in parameters)
            found.append(Block(name, component, _under(name, weights), _under(name, biases)))
            taken.append(name)
        elif (rows := _rows(module)) is not None and rows == width:
            biases = ("bias",) if "bias" in parameters else ()
            found.append(Block(name, component, (f"{name}.weight",), _under(name, biases)))
        elif _is_packed_experts(name, parameters):
            found.append(Block(name, component, ()))
            taken.append(name)
    return _merge_experts(found)


def _component(name: str, own: Sequence[Role]) -> str | None:
    for role in own:
        if role.pattern.fullmatch(name):
            return None if role.component == "none" else role.component
    return roles.component_of(name)


def _under(module: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for name in names)


def _rows(module: nn.Module) -> int | None:
    """Output width of a linear layer (subclasses hold quantised weights), None for other modules."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, Conv1D):
        return int(module.nf)
    return None


def _is_packed_experts(name: str, parameters: Mapping[str, torch.Size]) -> bool:
    """True for quantised fused experts, with parameters such as `down_proj_blocks`."""
    return name.endswith("experts") and any(key.startswith("down_proj") for key in parameters)


def _merge_experts(found: Sequence[Block]) -> list[Block]:
    """Merge the separate modules of experts and shared experts into one writer, their parent module.

    Each expert sees some of the tokens; the parent module sees all tokens in order.
    """
    expert = re.compile(r"(?P<block>.+)\.experts\.\d+\..+")
    blocks = {match["block"] for one in found if (match := expert.fullmatch(one.module))}
    result = [one for one in found if not any(one.module.startswith(f"{b}.") for b in blocks)]
    for block in sorted(blocks):
        parts = [one for one in found if one.module.startswith(f"{block}.")]
        weights = tuple(name for part in parts for name in part.weights)
        biases = tuple(name for part in parts for name in part.biases)
        result.append(Block(block, roles.MLP, weights, biases))
    return result


def _writer(layer: nn.Module, prefix: str, index: int, found: Block, width: int) -> Writer:
    modules = {name for name, _ in layer.named_modules()}
    norms = roles.post_norms(found.module, modules)
    tensors = tuple(_tensors(layer, found, width))
    matrices = [tensor for tensor in tensors if not tensor.bias]
    # The last two axes of a matrix are d and k, in one order or the other.
    inner = sum(matrices[0].shape[-2:]) - width if matrices else 0
    return Writer(
        name=f"{prefix}.{found.module}",
        component=found.component,
        layer=index,
        shape=(width, inner),
        matrices=sum(prod(one.shape[:-2]) for one in matrices),
        post_norms=tuple(f"{prefix}.{norm}" for norm in norms if norm in modules),
        tensors=tuple(replace(one, name=f"{prefix}.{one.name}") for one in tensors),
    )


def _tensors(layer: nn.Module, found: Block, width: int) -> Iterator[WriterTensor]:
    """A writer's parameters, named relative to the layer."""
    for name in found.weights:
        module = layer.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear):
            # Not the parameter's shape, which is packed for quantised weights.
            yield WriterTensor(name, (module.out_features, module.in_features), 0, False)
            continue
        shape = tuple(layer.get_parameter(name).shape)
        yield WriterTensor(name, shape, _axis(module, shape, width), False)
    for name in found.biases:
        shape = tuple(layer.get_parameter(name).shape)
        yield WriterTensor(name, shape, len(shape) - 1, True)


def _axis(module: nn.Module, shape: tuple[int, ...], width: int) -> int:
    """The axis of a matrix over the residual stream: one of the last two."""
    rows, columns = len(shape) - 2, len(shape) - 1
    if shape[rows] == shape[columns]:
        # A square matrix: Conv1D, gpt-oss and Llama 4 store it transposed, and the module says so.
        transposed = isinstance(module, Conv1D) or getattr(module, "is_transposed", False)
        return columns if transposed else rows
    return rows if shape[rows] == width else columns
