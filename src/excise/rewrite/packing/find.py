"""Finds the quantised format of a tensor from the configuration and the stored names."""

from __future__ import annotations

from excise.anatomy.tensors import StoredTensor
from excise.checkpoint.folder import Checkpoint
from excise.checkpoint.tensors import possible_names
from excise.errors import SaveError
from excise.models.quantization import quantization_in
from excise.rewrite.packing.find_grouped import (
    CODES,
    OTHERS,
    find_grouped,
    require_known_variant,
    unwritable,
)
from excise.rewrite.packing.formats import BitsAndBytes4, Float8, Int8Rows, Mxfp4, Packed

SKIPPED_BY = {
    "bitsandbytes": "llm_int8_skip_modules",
    "fp8": "modules_to_not_convert",
    "fbgemm_fp8": "modules_to_not_convert",
    "compressed-tensors": "ignore",
    "awq": "modules_to_not_convert",
}
"""The configuration key with which each method lists unquantised modules."""
_METHODS = (*SKIPPED_BY, "mxfp4", "gptq")
_CODES = tuple(f".{one}" for one in dict.fromkeys(CODES.values()))
_BESIDE = ("_scales", "_scale_inv", ".SCB", *(f".{one}" for one in OTHERS))


def method_of(checkpoint: Checkpoint) -> str | None:
    """transformers' name of the quantisation in config.json, None without quantisation."""
    found = quantization_in(checkpoint.config)
    return None if found is None else str(found.get("quant_method", "bitsandbytes"))


def logical_name(codes: str) -> str:
    """The name that the tensor would have in an unquantised checkpoint."""
    for ending in _CODES:
        if codes.endswith(ending):
            return f"{codes.removesuffix(ending)}.weight"
    return codes.removesuffix("_blocks")


def logical_names(checkpoint: Checkpoint) -> list[str]:
    """The names of the tensors in an unquantised checkpoint."""
    return [logical_name(name) for name in checkpoint.tensors if not name.endswith(_BESIDE)]


def find(checkpoint: Checkpoint, tensor: StoredTensor) -> Packed:
    """How a tensor is packed.

    Raises SaveError for a missing tensor, and for a format that excise cannot write.
    """
    method, tensors = method_of(checkpoint), checkpoint.tensors
    if method is not None and method not in _METHODS:
        raise unwritable(method)
    stored = checkpoint.named(tensor.name)
    if stored is None:
        found = _under_another_name(checkpoint, method, tensor)
        if found is None:
            raise SaveError(
                f"the checkpoint has no tensor {tensor.name}; save an adapter instead: to_peft (--adapter "
                "DIR)"
            )
        return found
    entry = tensors[stored][1]
    if entry.is_ordinary:
        return Packed(None, stored)
    if method == "bitsandbytes" and entry.dtype == "U8":
        prefix = f"{stored}."
        scales = {
            "state" if "quant_state" in key else key.removeprefix(prefix): key
            for key in tensors
            if key.startswith(prefix)
        }
        if "state" in scales:
            return Packed(BitsAndBytes4(), stored, scales)
    base = stored.removesuffix(".weight")
    if method == "bitsandbytes" and entry.dtype == "I8" and f"{base}.SCB" in tensors:
        # A further byte states the memory layout.
        parts = {"scale": f"{base}.SCB", "format": f"{base}.weight_format"}
        scales = {key: one for key, one in parts.items() if one in tensors}
        return Packed(Int8Rows(127.0, "bitsandbytes 8-bit"), stored, scales)
    if entry.dtype in ("F8_E4M3", "F8_E5M2"):
        for scale_name in (f"{stored}_scale_inv", f"{stored}_scale", f"{base}.scale"):
            if scale_name in tensors:
                block = (quantization_in(checkpoint.config) or {}).get("weight_block_size")
                sizes = tuple(block) if isinstance(block, list) else None
                return Packed(Float8(sizes), stored, {"scale": scale_name})
    if method == "compressed-tensors" and entry.dtype == "I8" and f"{stored}_scale" in tensors:
        return Packed(Int8Rows(1.0, "int8"), stored, {"scale": f"{stored}_scale"})
    raise unwritable(method or entry.dtype)


def _under_another_name(
    checkpoint: Checkpoint, method: str | None, tensor: StoredTensor
) -> Packed | None:
    tensors = checkpoint.tensors
    config = quantization_in(checkpoint.config) or {}
    require_known_variant(method or "", config)
    for name in possible_names(tensor.name):
        blocks, exponents = f"{name}_blocks", f"{name}_scales"
        if blocks in tensors and exponents in tensors:
            return Packed(Mxfp4(), blocks, {"scale": exponents})
        module = name.removesuffix(".weight")
        if method in CODES and f"{module}.{CODES[method]}" in tensors:
            return find_grouped(method, config, tensors, module, tensor)
    return None
