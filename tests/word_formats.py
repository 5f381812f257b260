"""GPTQ, AWQ and compressed-tensors checkpoints of tiny models, packed and unpacked one integer at a time.

No number here comes from `excise`: it is what the tests hold its packing against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import packed_models as packed
from excise.anatomy.writers import examine
from excise.edits.edit import Edit
from sweep import random_edit

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
WORD = 32


def to_words(integers: Sequence[int], bits: int) -> list[int]:
    """One long number, the first integer in its lowest bits, cut into words; the last one is filled up."""
    number = 0
    for place, integer in enumerate(integers):
        assert 0 <= integer < 1 << bits
        number |= integer << (place * bits)
    count = -(-len(integers) * bits // WORD)
    words = [(number >> (WORD * index)) & 0xFFFFFFFF for index in range(count)]
    return [word - (1 << WORD) if word >> 31 else word for word in words]


def from_words(words: Sequence[int], bits: int, count: int) -> list[int]:
    """The way back."""
    number = sum((word & 0xFFFFFFFF) << (WORD * index) for index, word in enumerate(words))
    return [(number >> (place * bits)) & ((1 << bits) - 1) for place in range(count)]


def shuffled(integers: Sequence[int]) -> list[int]:
    """AWQ: of eight integers, which stands in each place."""
    return [integers[start + one] for start in range(0, len(integers), 8) for one in AWQ_ORDER]


def unshuffled(integers: Sequence[int]) -> list[int]:
    """The way back."""
    found = [0] * len(integers)
    for start in range(0, len(integers), 8):
        for place, one in enumerate(AWQ_ORDER):
            found[start + one] = integers[start + place]
    return found


@dataclass(frozen=True)
class Form:
    """One way to store a matrix. zero: what is taken from zero points when they are stored."""

    method: str
    bits: int = 4
    symmetric: bool = True
    reordered: bool = False
    zero: int = 0
    group: int = 32
    kind: str = "llama"
    scale_dtype: torch.dtype = torch.float16

    @property
    def config(self) -> dict[str, object]:
        """What config.json says of it."""
        if self.method == "gptq":
            return {
                "quant_method": "gptq",
                "bits": self.bits,
                "group_size": self.group,
                "sym": self.symmetric,
                "desc_act": self.reordered,
                "checkpoint_format": "gptq" if self.zero else "gptq_v2",
            }
        if self.method == "awq":
            return {
                "quant_method": "awq",
                "bits": self.bits,
                "group_size": self.group,
                "zero_point": not self.symmetric,
                "version": "gemm",
                "modules_to_not_convert": None,
            }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "ignore": ["lm_head"],
        }

    @property
    def names(self) -> Mapping[str, str]:
        """What it calls its parts."""
        if self.method in ("gptq", "awq"):
            return {"codes": "qweight", "scale": "scales", "zero": "qzeros", "group": "g_idx"}
        parts = ("packed", "scale", "zero_point", "g_idx")
        return dict(
            zip(("codes", "scale", "zero", "group"), map("weight_{}".format, parts), strict=True)
        )


FORMS = {
    "gptq": Form("gptq", zero=1),
    "gptq desc_act": Form("gptq", symmetric=False, reordered=True, zero=1),
    "gptq_v2": Form("gptq", symmetric=False, scale_dtype=torch.bfloat16),
    "gptq 2 bits": Form("gptq", bits=2, symmetric=False, group=16),
    "gptq 3 bits": Form("gptq", bits=3, zero=1),
    "gptq 8 bits": Form("gptq", bits=8, group=64, zero=1),
    "gptq experts": Form("gptq", zero=1, kind="qwen3_moe"),
    "awq": Form("awq", symmetric=False),
    "awq, zero points stay": Form("awq"),
    "int4": Form("compressed-tensors", scale_dtype=torch.bfloat16),
    "int4 zero points, reordered": Form("compressed-tensors", symmetric=False, reordered=True),
    "int8": Form("compressed-tensors", bits=8, group=64),
}


def pack(form: Form, weight: Tensor, seed: int) -> dict[str, Tensor]:
    """The parts that a matrix [output, input] is stored as, by the form's names for them."""
    outputs, inputs = weight.shape
    largest, middle = (1 << form.bits) - 1, 1 << (form.bits - 1)
    group_of = torch.arange(inputs) // form.group
    if form.reordered:
        group_of = group_of[torch.randperm(inputs, generator=torch.Generator().manual_seed(seed))]
    count = inputs // form.group
    scale = torch.empty(count, outputs, dtype=form.scale_dtype)
    zero = torch.empty(count, outputs, dtype=torch.int64)
    integers = torch.empty(inputs, outputs, dtype=torch.int64)
    for group in range(count):
        some = weight[:, group_of == group]
        low, high = some.amin(1).clamp_max(0), some.amax(1).clamp_min(0)
        if form.symmetric:
            scale[group] = torch.maximum(high, -low) / (middle - 1)
            zero[group] = middle
        else:
            scale[group] = (high - low) / largest
            zero[group] = (-low / scale[group].float()).round().clamp(form.zero, largest)
        own = (some / scale[group].float()[:, None]).round().long() + zero[group][:, None]
        integers[group_of == group] = own.clamp(0, largest).T
    parts: dict[str, Tensor] = {"scale": scale}
    stored_zeros = (zero - form.zero).tolist()
    if form.method == "awq":
        rows = [to_words(shuffled(row), 4) for row in integers.tolist()]
        parts["codes"] = torch.tensor(rows, dtype=torch.int32)
        zeros = [to_words(shuffled(row), 4) for row in stored_zeros]
        parts["zero"] = torch.tensor(zeros, dtype=torch.int32)
    else:
        columns = [to_words(column, form.bits) for column in integers.T.tolist()]
        parts["codes"] = torch.tensor(columns, dtype=torch.int32).T
        zeros = [to_words(row, form.bits) for row in stored_zeros]
        parts["zero"] = torch.tensor(zeros, dtype=torch.int32)
        if form.method == "gptq" or form.reordered:
            parts["group"] = group_of.to(torch.int32)
    if form.method == "compressed-tensors":
        if form.symmetric:
            del parts["zero"]
        parts = {name: part if name == "group" else part.T for name, part in parts.items()}
    named = {form.names[name]: part.contiguous() for name, part in parts.items()}
    if form.method == "compressed-tensors":
        named["weight_shape"] = torch.tensor(weight.shape)
    return named


@dataclass(frozen=True)
class Matrix:
    """integers, step, zero: of each number, [output, input]. scale: [group, output]."""

    integers: Tensor
    step: Tensor
    zero: Tensor
    scale: Tensor
    group_of: Tensor

    @property
    def weight(self) -> Tensor:
        """[output, input]."""
        return (self.integers - self.zero) * self.step


def unpack(form: Form, tensors: Mapping[str, Tensor], module: str) -> Matrix:
    """What the stored parts of a module mean."""
    parts = {
        name: tensors[f"{module}.{own}"]
        for name, own in form.names.items()
        if f"{module}.{own}" in tensors
    }
    if form.method == "compressed-tensors":
        parts = {name: part if name == "group" else part.T for name, part in parts.items()}
    scale = parts["scale"].float()
    count, outputs = scale.shape
    inputs = count * form.group
    if form.method == "awq":
        rows = [unshuffled(from_words(row, 4, outputs)) for row in parts["codes"].tolist()]
        integers = torch.tensor(rows).T
    else:
        columns = parts["codes"].T.tolist()
        integers = torch.tensor([from_words(column, form.bits, inputs) for column in columns])
    if "zero" in parts:
        zeros = [from_words(row, form.bits, outputs) for row in parts["zero"].tolist()]
        if form.method == "awq":
            zeros = [unshuffled(row) for row in zeros]
        zero = torch.tensor(zeros) + form.zero
    else:
        zero = torch.full((count, outputs), 1 << (form.bits - 1))
    group_of = parts.get("group", torch.arange(inputs) // form.group).long()
    return Matrix(integers, scale[group_of].T, zero[group_of].T, scale, group_of)


def write(form: Form, folder: Path) -> Path:
    """A tiny model with all its projections in this form."""
    packed.save(form.kind, folder)
    tensors = load_file(folder / "model.safetensors")
    for seed, name in enumerate([one for one in tensors if one.endswith("_proj.weight")]):
        module = name.removesuffix(".weight")
        parts = pack(form, tensors.pop(name), seed)
        tensors |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    packed.mark(folder, form.config)
    return folder


def kept_in(root: Path) -> Callable[[str], Path]:
    """Gives a checkpoint of each form, made once, in `root`. Tests must not change them."""

    def of(name: str) -> Path:
        folder = root / name
        return folder if folder.exists() else write(FORMS[name], folder)

    return of


def edit_of(form: Form, seed: int = 0) -> Edit:
    return random_edit(examine(packed.plain_model(form.kind)), seed)


def edited_modules(edit: Edit, tensors: dict[str, Tensor], form: Form) -> dict[str, int]:
    """Stored module → its writer's index in the edit."""
    return {
        name.removesuffix(f".{form.names['codes']}"): index
        for index, writer in enumerate(edit.writers)
        if edit.strengths[index]
        for name in tensors
        if name.startswith(f"{writer}.")
        and name.endswith(f".{form.names['codes']}")
        # Of experts, their gates are no writers.
        and "gate_proj" not in name
        and "up_proj" not in name
    }
