"""Quantising a model while it is loaded, with bitsandbytes or torchao, through transformers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from excise.errors import ModelError

if TYPE_CHECKING:
    import torch

Quantisation = Literal["none", "bnb_4bit", "bnb_8bit", "int8", "int4"]


def quantisation_arguments(name: Quantisation, dtype: torch.dtype | str) -> dict[str, Any]:
    """What `from_pretrained` needs beside the folder. dtype: that of everything that stays dense.

    bnb_4bit (NF4), bnb_8bit (LLM.int8): bitsandbytes. int8, int4: torchao, weights only.
    Raises ModelError if the package is not installed.
    """
    if name == "none":
        return {}
    package = "bitsandbytes" if name.startswith("bnb") else "torchao"
    if find_spec(package) is None:
        raise ModelError(
            f"--quantization {name} needs the package {package}: pip install 'excise[quantized]'"
        )
    if package == "bitsandbytes":
        return {"quantization_config": _bitsandbytes(name, dtype)}
    return {"quantization_config": _torchao(name)}


def _bitsandbytes(name: Quantisation, dtype: torch.dtype | str) -> object:
    import torch
    from transformers import BitsAndBytesConfig

    if name == "bnb_8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if isinstance(dtype, str) else dtype,
    )


def _torchao(name: Quantisation) -> object:
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(
        Int8WeightOnlyConfig() if name == "int8" else Int4WeightOnlyConfig(group_size=32)
    )
