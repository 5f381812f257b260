"""How GPTQ, AWQ and compressed-tensors pack a matrix, from the configuration and the tensors' shapes.

Sources of the formats: AutoGPTQ `qlinear_cuda_old.py` and GPTQModel `utils/model.py` (zero points minus one
in checkpoint_format gptq, as they are in gptq_v2; `dynamic`), AutoAWQ `modules/linear/gemm.py`,
compressed-tensors `pack_quantized.py`, and vLLM's readers of the three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from excise.anatomy.tensors import StoredTensor
from excise.checkpoint.tensors import Entry, WeightsFile
from excise.errors import SaveError
from excise.models.quantization import packing_in_words
from excise.rewrite.packing.formats import Packed
from excise.rewrite.packing.grouped import GroupedIntegers
from excise.rewrite.packing.packed_integers import WORD, PackedIntegers

Tensors = Mapping[str, tuple[WeightsFile, Entry]]
CODES = {"gptq": "qweight", "awq": "qweight", "compressed-tensors": "weight_packed"}
"""The name of a module's codes in each method."""
OTHERS = (
    "qzeros",
    "scales",
    "g_idx",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
)
"""Names of the further tensors of a module."""
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_GPTQ_BITS, _PACKED_BITS = (2, 3, 4, 8), (4, 8)
_VARIANTS: Mapping[str, Mapping[str, int]] = {
    "gptq": {"gptq": 1, "gptq_v2": 0},
    "awq": {"gemm": 0},
}
"""Known variants of a method, with the offset that is added to a stored zero point."""
_PACKED_FORMATS = ("pack-quantized", "mixed-precision")
"""Formats of compressed-tensors; with the second, modules may differ."""


def unwritable(method: str) -> SaveError:
    """The error for a format that excise cannot write."""
    return SaveError(
        f"its writers are stored as {packing_in_words(method)}, which cannot be rewritten; save an adapter "
        "instead: to_peft (excise export RUN --adapter DIR)"
    )


def require_known_variant(method: str, config: Mapping[str, object]) -> None:
    """Raise SaveError for an unknown variant of GPTQ or AWQ."""
    if method in _VARIANTS and (variant := _variant(method, config)) not in _VARIANTS[method]:
        raise unwritable(f"{packing_in_words(method)} in the variant {variant}")


def find_grouped(
    method: str, config: Mapping[str, object], tensors: Tensors, module: str, stored: StoredTensor
) -> Packed:
    """How the codes of `module` are packed. stored: its unquantised matrix.

    Raises SaveError for unsupported bits, and for missing or unfitting tensors.
    """
    if len(stored.shape) != 2:
        raise unwritable(f"{packing_in_words(method)} with all experts in one tensor")
    if method == "compressed-tensors":
        if (form := config.get("format", _PACKED_FORMATS[0])) not in _PACKED_FORMATS:
            raise unwritable(f"{packing_in_words(method)} in the variant {form}")
        return _compressed(tensors, module, stored)
    return _gptq_or_awq(method, config, tensors, module, stored)


def _sides(stored: StoredTensor) -> tuple[int, int]:
    """Inputs and outputs of a matrix."""
    return stored.shape[1 - stored.axis], stored.shape[stored.axis]


def _variant(method: str, config: Mapping[str, object]) -> str:
    if config.get("is_marlin_format"):
        return "marlin"
    # Tools use different keys.
    keys = ("checkpoint_format", "format") if method == "gptq" else ("version", "format")
    default = next(iter(_VARIANTS[method]))
    return next((str(config[key]).lower() for key in keys if config.get(key)), default)


def _gptq_or_awq(
    method: str, config: Mapping[str, object], tensors: Tensors, module: str, stored: StoredTensor
) -> Packed:
    """GPTQ and AWQ, which use the same names of tensors."""
    inputs, outputs = _sides(stored)
    own = {**config, **_overrides(config, module)}
    bits = own.get("bits", own.get("w_bit"))
    if bits not in (_GPTQ_BITS if method == "gptq" else (4,)):
        raise unwritable(f"{packing_in_words(method)} with {bits} bits")
    assert isinstance(bits, int)
    symmetric = bool(own.get("sym", True)) if method == "gptq" else not own.get("zero_point", True)
    interleaved = method == "awq"
    words = PackedIntegers(bits, _AWQ_ORDER if interleaved else None)
    codes = (inputs, outputs * bits // WORD) if interleaved else (inputs * bits // WORD, outputs)
    check = _Parts(tensors, module)
    check.fits("qweight", "I32", codes, whole=(outputs if interleaved else inputs, bits))
    scales = {"scale": check.name("scales")}
    groups = check.groups("scales", axis=0, width=outputs)
    check.fits("qzeros", "I32", (groups, outputs * bits // WORD), whole=(outputs, bits))
    scales["zero"] = check.name("qzeros")
    reordered = method == "gptq" and bool(own.get("desc_act"))
    if method == "gptq" and check.has("g_idx"):
        check.fits("g_idx", "I32", (inputs,))
        scales["group"] = check.name("g_idx")
    elif reordered:
        raise SaveError(
            f"{module}: has no g_idx, which desc_act needs for the group of each input; download the "
            "checkpoint again"
        )
    if not reordered:
        check.even("scales", inputs, groups)
    packing = GroupedIntegers(
        name=f"{packing_in_words(method)} {bits}-bit",
        inputs=inputs,
        outputs=outputs,
        words=words,
        across=interleaved,
        offset=_VARIANTS[method][_variant(method, config)],
        symmetric=symmetric,
        transposed=stored.axis == 0,
        reordered=reordered,
    )
    return Packed(packing, check.name(CODES[method]), scales, check.beside)


def _compressed(tensors: Tensors, module: str, stored: StoredTensor) -> Packed:
    """compressed-tensors' pack-quantized: the shape determines the bits."""
    inputs, outputs = _sides(stored)
    check = _Parts(tensors, module)
    dtype, codes = check.entry("weight_packed")
    bits = next((one for one in _PACKED_BITS if codes == (outputs, -(-inputs * one // WORD))), None)
    if dtype != "I32" or bits is None:
        raise unwritable(f"compressed-tensors with weight_packed {dtype} {list(codes)}")
    groups = check.groups("weight_scale", axis=1, width=outputs)
    scales = {"scale": check.name("weight_scale")}
    if check.has("weight_zero_point"):
        dtype, zeros = check.entry("weight_zero_point")
        if dtype != "I32":
            raise unwritable(f"compressed-tensors with weight_zero_point {dtype} {list(zeros)}")
        check.fits("weight_zero_point", "I32", (-(-outputs * bits // WORD), groups))
        scales["zero"] = check.name("weight_zero_point")
    if check.has("weight_g_idx"):
        check.fits("weight_g_idx", "I32", (inputs,))
        scales["group"] = check.name("weight_g_idx")
    check.even("weight_scale", inputs, groups)
    packing = GroupedIntegers(
        name=f"compressed-tensors int{bits}",
        inputs=inputs,
        outputs=outputs,
        words=PackedIntegers(bits),
        outputs_first=True,
        symmetric="zero" not in scales,
        transposed=stored.axis == 1,
        reordered="group" in scales,
    )
    return Packed(packing, check.name("weight_packed"), scales, check.beside)


def _overrides(config: Mapping[str, object], module: str) -> Mapping[str, object]:
    """The settings of the first pattern of GPTQModel's `dynamic` that matches the module's name."""
    dynamic = config.get("dynamic")
    for pattern, own in dynamic.items() if isinstance(dynamic, dict) else ():
        if re.match(pattern.removeprefix("+:"), module):
            return own if isinstance(own, dict) else {}
    return {}


@dataclass(frozen=True)
class _Parts:
    tensors: Tensors
    module: str

    def name(self, part: str) -> str:
        return f"{self.module}.{part}"

    def has(self, part: str) -> bool:
        return self.name(part) in self.tensors

    @property
    def beside(self) -> tuple[str, ...]:
        return tuple(self.name(part) for part in OTHERS if self.has(part))

    def entry(self, part: str) -> tuple[str, tuple[int, ...]]:
        if not self.has(part):
            raise SaveError(
                f"{self.module}: has no {part} beside its codes; download the checkpoint again"
            )
        entry = self.tensors[self.name(part)][1]
        return entry.dtype, entry.shape

    def fits(
        self, part: str, dtype: str, shape: tuple[int, ...], whole: tuple[int, int] = (WORD, 1)
    ) -> None:
        """Raise SaveError unless a tensor has this type and shape.

        whole: a number of integers and their bits, which must fill whole words.
        """
        count, bits = whole
        if self.entry(part) != (dtype, shape) or count * bits % WORD:
            self._refuse(part, f"{dtype} {list(shape)}")

    def groups(self, part: str, axis: int, width: int) -> int:
        """The number of groups, from the shape of the scales; `width` is their other axis."""
        dtype, shape = self.entry(part)
        if prod(shape) == 1 < width:
            raise unwritable(f"one scale for a whole matrix ({self.name(part)})")
        if (
            len(shape) != 2
            or shape[1 - axis] != width
            or not shape[axis]
            or dtype not in ("F16", "BF16", "F32")
        ):
            self._refuse(part, f"a scale for each group of {width} outputs")
        return shape[axis]

    def even(self, part: str, inputs: int, groups: int) -> None:
        """Raise SaveError unless all groups have the same size."""
        if inputs % groups:
            raise unwritable(
                f"{groups} groups of {inputs} inputs, the last one smaller ({self.name(part)})"
            )

    def _refuse(self, part: str, expected: str) -> None:
        dtype, shape = self.entry(part)
        raise SaveError(
            f"{self.name(part)}: is {dtype} {list(shape)}, but should be {expected} according to "
            "config.json; the checkpoint is damaged or of another model"
        )
