"""How weights are packed: what a checkpoint says of itself, and what to ask transformers for."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

from excise.checkpoint.given import read_object
from excise.checkpoint.source import ModelSource
from excise.data_types import Quantization
from excise.errors import ModelError
from excise.undocumented import fetched

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
"""Settings' names, and transformers' names of methods, in words. Methods not listed stand for themselves."""

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
"""The package that each of them needs, as it is imported."""

_IN_THE_EXTRA = ("bitsandbytes", "torchao")
_INT4_GROUP = 64


def packed_as(source: ModelSource) -> str | None:
    """The name of the quantisation that the checkpoint is stored in; None if its numbers are ordinary.

    A name of `Quantization` where there is one, else transformers' name of the method. A GGUF file counts
    as ordinary, because it is unpacked while loading.
    """
    found = _quantization_config(_config(source))
    if found is None:
        return None
    method = str(found.get("quant_method", ""))
    if found.get("load_in_4bit"):
        return "bnb_4bit"
    if found.get("load_in_8bit") or method == "bitsandbytes":
        return "bnb_8bit"
    return method or "an unknown quantisation"


def stored_dtype(source: ModelSource) -> str | None:
    """The data type that the checkpoint's configuration names; None if it names none, and of a GGUF file."""
    return named_dtype(_config(source))


def named_dtype(config: object) -> str | None:
    """The data type that a config.json names, for itself or for the text model in it."""
    if not isinstance(config, Mapping):
        return None
    named = config.get("dtype") or config.get("torch_dtype")
    return named if isinstance(named, str) else named_dtype(config.get("text_config"))


def describe(name: str) -> str:
    """A quantisation in words: "bitsandbytes 4-bit" for `bnb_4bit`."""
    return _DESCRIPTIONS.get(name, name)


def require_package(name: str) -> None:
    """Raise ModelError if the package that the quantisation `name` needs is not installed."""
    package = _PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return
    extra = "'excise[quantized]'" if package in _IN_THE_EXTRA else package.replace("_", "-")
    raise ModelError(
        f"{describe(name)} weights need the package {package}, which is not installed "
        f"(pip install {extra})"
    )


def quantize_arguments(name: Quantization, dtype: str, device: str) -> dict[str, Any]:
    """What `from_pretrained` needs beside the rest to quantise while loading.

    dtype: the data type that will be tried, or "auto". device: where the weights go.
    """
    if name == "none":
        return {}
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "bnb_4bit":
        compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=compute,
            )
        }
    if name == "bnb_8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    return {"quantization_config": TorchAoConfig(_int4(device))}


def unpack_arguments(source: ModelSource) -> dict[str, Any]:
    """What `from_pretrained` needs beside the rest to unpack a GGUF file while loading.

    Some versions keep its blocks where a kernel for them can be had; an edited model could then not be
    written, because there would be no plain tensors to write.
    """
    if source.gguf is None:
        return {}
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}  # Older versions always unpack.
    return {"quantization_config": GgufConfig(dequantize=True)}


def worth_trying(dtypes: tuple[str, ...], name: str | None) -> tuple[str, ...]:
    """The data types of `dtypes` that can make a difference to weights packed as `name`.

    A single one is what the user asked for, and is tried. Of several, float16 goes: packed weights stay
    as they are, and what is left has more range in the others.
    """
    if name is None or len(dtypes) == 1:
        return dtypes
    if name == "int4":
        return ("bfloat16",)  # The kernels for this packing know no other.
    return tuple(dtype for dtype in dtypes if dtype != "float16") or dtypes


def _int4(device: str) -> Any:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        from torchao.quantization import Int4WeightOnlyConfig

        packing = fetched("torchao.quantization.quantize_.workflows", "Int4PackingFormat")
        # The one layout whose kernel comes with PyTorch.
        return Int4WeightOnlyConfig(
            group_size=_INT4_GROUP, int4_packing_format=packing.TILE_PACKED_TO_4D
        )
    try:
        config = fetched("torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig")
    except ImportError as error:
        raise ModelError(
            "this version of torchao has no int4 for the CPU; use bnb_4bit (--quantization)"
        ) from error
    return config(group_size=_INT4_GROUP)


def _config(source: ModelSource) -> object:
    """What config.json holds; None if it cannot be read, and of a GGUF file."""
    if source.gguf is not None:
        return None
    try:
        return read_object(source.folder / "config.json")
    except ModelError:
        return None  # Loading says what is wrong with it.


def _quantization_config(config: object) -> dict[str, Any] | None:
    """The entry of a config.json, or of the text model in it."""
    if not isinstance(config, dict):
        return None
    found = config.get("quantization_config") or config.get("compression_config")
    if isinstance(found, dict):
        return found
    return _quantization_config(config.get("text_config"))
