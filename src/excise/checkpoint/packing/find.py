"""Which packed format a checkpoint keeps a tensor in, told by its configuration and the stored names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.checkpoint.folder import Checkpoint
from excise.checkpoint.packing.formats import BitsAndBytes4, Float8, Int8Rows, Mxfp4, Packing
from excise.edit.layout import spellings
from excise.errors import SaveError
from excise.model.storage import describe

_METHODS = ("bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4")
SKIPPED_BY = {
    "bitsandbytes": "llm_int8_skip_modules",
    "fp8": "modules_to_not_convert",
    "fbgemm_fp8": "modules_to_not_convert",
    "compressed-tensors": "ignore",
}
"""Where each method's configuration lists modules that are not packed."""


@dataclass(frozen=True)
class Packed:
    """How one tensor is packed. codes, scales: stored names; scales by what the format calls them."""

    packing: Packing
    codes: str
    scales: Mapping[str, str]


def method_of(checkpoint: Checkpoint) -> str | None:
    """transformers' name of the quantisation that config.json states, None if it states none."""
    found = quantization_of(checkpoint.config)
    return None if found is None else str(found.get("quant_method", "bitsandbytes"))


def quantization_of(config: Mapping[str, object]) -> dict[str, object] | None:
    """The entry of a config.json, or of the language model's in it; it can be changed."""
    for key in ("quantization_config", "compression_config"):
        if isinstance(found := config.get(key), dict):
            return found
    inner = config.get("text_config")
    return quantization_of(inner) if isinstance(inner, dict) else None


def logical_names(checkpoint: Checkpoint) -> list[str]:
    """The names that the tensors would have if nothing were packed, as far as writers need them."""
    names: list[str] = []
    for name in checkpoint.tensors:
        if name.endswith("_blocks"):
            names.append(name.removesuffix("_blocks"))
        elif not name.endswith(("_scales", "_scale_inv", ".SCB")):
            names.append(name)
    return names


def find(checkpoint: Checkpoint, name: str) -> Packed | None:
    """How `name` is packed; None if it is stored as ordinary numbers.

    Raises SaveError if it is missing, or packed in a way that excise cannot write.
    """
    method, tensors = method_of(checkpoint), checkpoint.tensors
    if method is not None and method not in _METHODS:
        raise unwritable(method)
    stored = checkpoint.named(name)
    if stored is None:
        for candidate in spellings(name):
            codes, exponents = f"{candidate}_blocks", f"{candidate}_scales"
            if codes in tensors and exponents in tensors:
                return Packed(Mxfp4(), codes, {"scale": exponents})
        raise SaveError(
            f"the checkpoint has no tensor {name}; save an adapter instead (--adapter DIR)"
        )
    entry = tensors[stored][1]
    if entry.is_ordinary:
        return None
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
        # Beside the scales stands a byte that tells their order in memory.
        parts = {"scale": f"{base}.SCB", "format": f"{base}.weight_format"}
        scales = {key: one for key, one in parts.items() if one in tensors}
        return Packed(Int8Rows(127.0, "bitsandbytes 8-bit"), stored, scales)
    if entry.dtype in ("F8_E4M3", "F8_E5M2"):
        for scale_name in (f"{stored}_scale_inv", f"{stored}_scale", f"{base}.scale"):
            if scale_name in tensors:
                return Packed(Float8(_block(checkpoint)), stored, {"scale": scale_name})
    if method == "compressed-tensors" and entry.dtype == "I8" and f"{stored}_scale" in tensors:
        return Packed(Int8Rows(1.0, "int8"), stored, {"scale": f"{stored}_scale"})
    raise unwritable(method or entry.dtype)


def unwritable(method: str) -> SaveError:
    """The refusal of a format that cannot be written here."""
    return SaveError(
        f"its writers are stored as {describe(method)}, which cannot be rewritten; save an adapter instead "
        "(excise export RUN --adapter DIR)"
    )


def _block(checkpoint: Checkpoint) -> tuple[int, int] | None:
    found = (quantization_of(checkpoint.config) or {}).get("weight_block_size")
    return (found[0], found[1]) if isinstance(found, list) else None
