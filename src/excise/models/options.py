"""How a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from excise.data_types import DataType, Quantization
from excise.validation import NonEmpty, check_fields


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    dtypes: data types to try in turn. device: "auto", "cpu", "cuda", "cuda:1", "mps", ….
    quantization: quantises the weights while loading; a quantised checkpoint needs none. max_memory: bytes of
    weights for each device, by the index of an accelerator or "cpu"; the rest is offloaded, finally to disk,
    into `offload_folder` or the checkpoint's own files. trust_remote_code: run code that comes with the
    model. chat_template: a Jinja file, or the name of one of the model's templates. template_arguments:
    template variables beside the messages. system_prompt: goes before every prompt. prepack: prepack weights
    on a CPU; False if they are to be trained, or an adapter is to be merged into them.
    """

    dtypes: NonEmpty[DataType] = (
        "auto",
        "float16",
        "bfloat16",
        "float32",
    )
    device: str = "auto"
    quantization: Quantization = "none"
    max_memory: Mapping[int | str, int] = field(default_factory=dict)
    offload_folder: Path | None = None
    trust_remote_code: bool = False
    chat_template: str | Path | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    prepack: bool = True

    def __post_init__(self) -> None:
        """Raises SettingsError for a wrong value."""
        check_fields(self)
