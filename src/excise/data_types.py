"""The data types and packings that a model can be loaded in, as settings name them."""

from __future__ import annotations

from typing import Literal

DataType = Literal["auto", "float16", "bfloat16", "float32"]
Quantization = Literal["none", "bnb_4bit", "bnb_8bit", "int8", "int4"]
"""How weights are packed while loading: bitsandbytes 4-bit or 8-bit, torchao int8 or int4."""
