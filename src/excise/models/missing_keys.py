"""Tensors that a checkpoint lacks: transformers initialises them at random; excise refuses the checkpoint.

transformers does not report tied tensors and tensors that the model class declares as optional.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from excise.data_types import Quantization
from excise.devices.out_of_memory import mentions_out_of_memory
from excise.errors import ModelError

_REPORT = "LOAD REPORT"
_CONVERSION = re.compile(r"^(\S.*?)\s*\|[^|]*CONVERSION", re.MULTILINE)
_LOGGER = "transformers.modeling_utils"
_OUTPUT = "lm_head"


def require_complete(
    name: str, info: Mapping[str, Any], quantization: Quantization = "none"
) -> str | None:
    """Raise ModelError for missing tensors and wrong shapes; returns a note about unused tensors, if any.

    info: from `from_pretrained(..., output_loading_info=True)`. quantization: how weights were quantised
    while loading, which transformers cannot do with every tensor that it converts.
    """
    unexpected = sorted(info["unexpected_keys"])
    missing = sorted(info["missing_keys"])
    if missing:
        lacking = f"{name}: the checkpoint lacks {_counted(missing)}"
        if quantization != "none":
            raise ModelError(
                f"{lacking}, or it cannot be quantised while loading; it would be initialised at random; "
                "leave this setting out, or choose another value",
                setting="quantization",
                value=quantization,
            )
        hint = _hint(missing, unexpected)
        raise ModelError(f"{lacking}, which would be initialised at random; {hint}")
    if mismatched := sorted(info["mismatched_keys"]):
        key, stored, wanted = mismatched[0]
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise ModelError(
            f"{name}: {key} has the shape {_shape(stored)} in the checkpoint, but config.json gives "
            f"{_shape(wanted)}{more}; the two do not belong together, or part of it is missing"
        )
    if unexpected:
        return f"the checkpoint holds {_counted(unexpected)}, which this model does not use"
    return None


def require_scales(name: str, model: nn.Module) -> None:
    """Raise ModelError if a weight of a dequantised model is still packed.

    transformers leaves the codes unchanged if the checkpoint lacks their scales.
    """
    for key, tensor in model.named_parameters():
        if tensor.is_floating_point() and tensor.itemsize == 1:
            raise ModelError(
                f"{name}: {key} is packed, and the checkpoint lacks its scales; download it again"
            )


def _counted(keys: Collection[str]) -> str:
    first = min(keys)
    return first if len(keys) == 1 else f"{first} and {len(keys) - 1} more tensors"


def _hint(missing: Collection[str], unexpected: Collection[str]) -> str:
    if unexpected:
        first = min(unexpected)
        return f"it holds {first}, which the model does not use: another tool's names, or another model type"
    if all(key.startswith(_OUTPUT) for key in missing):
        return 'if output matrix and embeddings are tied, config.json needs "tie_word_embeddings": true'
    return "download it again, or save it again with all its tensors"


def _shape(shape: Collection[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"


@contextmanager
def captured_report(name: str) -> Iterator[None]:
    """Within the context, load reports are not printed, and failed conversions raise a named error.

    transformers raises a RuntimeError for a tensor that it cannot convert (experts of different shapes, say),
    and names the tensor only in its load report. Here this is a ModelError, and MemoryError if the report
    says that memory ran out.
    """
    reports: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if _REPORT in text:
            reports.append(text)
        return _REPORT not in text

    logger = logging.getLogger(_LOGGER)
    logger.addFilter(collect)
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for text in reports for line in text.splitlines()]
        for line in filter(mentions_out_of_memory, lines):
            raise MemoryError(line) from error
        failed = [key for text in reports for key in _CONVERSION.findall(text)]
        if failed:
            raise ModelError(
                f"{name}: the checkpoint's parts of {_counted(failed)} do not fit together; it is damaged "
                "or belongs to another model"
            ) from error
        raise
    finally:
        logger.removeFilter(collect)
