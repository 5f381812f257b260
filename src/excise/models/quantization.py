"""Quantisation: what a checkpoint declares, and the arguments for `from_pretrained`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from excise.checkpoint.source import ModelSource
from excise.data_types import Quantization
from excise.errors import ModelError
from excise.system.json_files import read_json_object
from excise.undocumented import import_undocumented

_DESCRIPTIONS: dict[str, str] = {
    "bnb_4bit": "bitsandbytes 4-bit",
    "bnb_8bit": "bitsandbytes 8-bit",
    "int8": "torchao int8",
    "int4": "torchao int4",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "mxfp4": "MXFP4",
    "gptq": "GPTQ",
    "awq": "AWQ",
}
"""Names for people, by our settings' names and transformers' names of methods."""

_PACKAGES: dict[str, str] = {
    "bnb_4bit": "bitsandbytes",
    "bnb_8bit": "bitsandbytes",
    "int8": "torchao",
    "int4": "torchao",
    "torchao": "torchao",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed_tensors",
}
"""The package that each quantisation needs, by its import name."""

Entry = TypeVar("Entry")

_IN_THE_EXTRA = ("bitsandbytes", "torchao")
_INT4_GROUP = 64


def stored_quantization(source: ModelSource) -> str | None:
    """The quantisation that the checkpoint is stored in; None if it is not quantised.

    A name of `Quantization` if one fits, else transformers' name of the method. None for a GGUF file, because
    transformers dequantises it while loading.
    """
    found = quantization_in(_config(source))
    if found is None:
        return None
    method = str(found.get("quant_method", ""))
    if found.get("load_in_4bit"):
        return "bnb_4bit"
    if found.get("load_in_8bit") or method == "bitsandbytes":
        return "bnb_8bit"
    return method or "an unknown quantisation"


def stored_dtype(source: ModelSource) -> str | None:
    """The data type in the checkpoint's configuration; None without that entry, and for a GGUF file."""
    return named_dtype(_config(source))


def named_dtype(config: object) -> str | None:
    """The data type that a config.json names, for the model or its text model."""
    return _declared(config, str, "dtype", "torch_dtype")


def packing_in_words(name: str) -> str:
    """The name for people: "bitsandbytes 4-bit" for `bnb_4bit`."""
    return _DESCRIPTIONS.get(name, name)


def require_package(name: str) -> None:
    """Raise ModelError if the package that the quantisation `name` needs is not installed."""
    package = _PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return
    extra = "'excise[quantized]'" if package in _IN_THE_EXTRA else package.replace("_", "-")
    raise ModelError(
        f"{packing_in_words(name)} weights need the package {package}, which is not installed "
        f"(pip install {extra})"
    )


def quantization_config(
    source: ModelSource, name: Quantization, dtype: str, device: str
) -> Any | None:
    """The configuration with which `from_pretrained` quantises weights, or dequantises a GGUF file.

    Some versions of transformers keep the quantised blocks of a GGUF file if a kernel for them is installed.
    An edited model could then not be saved, because it has no plain tensors.
    """
    if source.gguf is not None:
        try:
            from transformers import GgufConfig
        except ImportError:
            return None  # Older versions always dequantise.
        return GgufConfig(dequantize=True)
    if name == "none":
        return None
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "bnb_4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if dtype == "auto" else getattr(torch, dtype),
        )
    if name == "bnb_8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    return TorchAoConfig(_int4(device))


def dtypes_to_try(dtypes: tuple[str, ...], name: str | None) -> tuple[str, ...]:
    """The `dtypes` worth trying for weights with the quantisation `name`.

    A single data type is the user's choice and is kept. From several, float16 is dropped: quantised weights
    stay as they are, and the other tensors have more range in the other types.
    """
    if name is None or len(dtypes) == 1:
        return dtypes
    if name == "int4":
        return ("bfloat16",)  # The only type that the int4 kernels support.
    return tuple(dtype for dtype in dtypes if dtype != "float16") or dtypes


def _int4(device: str) -> Any:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        from torchao.quantization import Int4WeightOnlyConfig

        packing = import_undocumented(
            "torchao.quantization.quantize_.workflows", "Int4PackingFormat"
        )
        # The only layout whose kernel is part of PyTorch.
        return Int4WeightOnlyConfig(
            group_size=_INT4_GROUP, int4_packing_format=packing.TILE_PACKED_TO_4D
        )
    try:
        config = import_undocumented(
            "torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig"
        )
    except ImportError as error:
        raise ModelError(
            "this version of torchao has no int4 for the CPU; use another quantization (--quantization "
            "bnb_4bit)"
        ) from error
    return config(group_size=_INT4_GROUP)


def _config(source: ModelSource) -> object:
    """The content of config.json; None if it cannot be read, and for a GGUF file."""
    if source.gguf is not None:
        return None
    try:
        return read_json_object(source.folder / "config.json", ModelError)
    except ModelError:
        return None  # Loading the model reports the damage.


def quantization_in(config: object) -> dict[str, Any] | None:
    """The quantisation entry of a config.json, or of its text model; the entry itself, not a copy."""
    return _declared(config, dict, "quantization_config", "compression_config")


def _declared(config: object, kind: type[Entry], *names: str) -> Entry | None:
    """The first entry of these names in a config.json, or else in that of its text model."""
    if not isinstance(config, Mapping):
        return None
    found = next((config[name] for name in names if config.get(name)), None)
    return found if isinstance(found, kind) else _declared(config.get("text_config"), kind, *names)
