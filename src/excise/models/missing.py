"""What a checkpoint lacks of its model. transformers draws such weights at random and goes on.

A tensor that it takes from elsewhere (a tied one) or that its classes declare as not needed is not among
what it reports.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from excise.devices.out_of_memory import tells_of_it
from excise.errors import ModelError

_REPORT = "LOAD REPORT"
_CONVERSION = re.compile(r"^(\S.*?)\s*\|[^|]*CONVERSION", re.MULTILINE)
_LOGGER = "transformers.modeling_utils"
_OUTPUT = "lm_head"


def require_whole(name: str, info: Mapping[str, Any], *, packing: bool = False) -> str | None:
    """What is to be noted of a load: tensors that the model has no place for. None if there are none.

    info: what `from_pretrained` gives with `output_loading_info`. packing: whether weights were packed while
    they were loaded, which transformers cannot do with every tensor that it converts. Raises ModelError that
    names what the checkpoint lacks, or has in another shape.
    """
    unexpected = sorted(info["unexpected_keys"])
    missing = sorted(info["missing_keys"])
    if missing and packing:
        raise ModelError(
            f"{name}: the checkpoint lacks {_counted(missing)}, or it cannot be packed while loading; it "
            "would be random numbers; leave out --quantization, or choose another"
        )
    if missing:
        raise ModelError(
            f"{name}: the checkpoint lacks {_counted(missing)}, which would be random numbers; "
            f"{_hint(missing, unexpected)}"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        key, stored, wanted = mismatched[0]
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise ModelError(
            f"{name}: {key} has the shape {_shape(stored)} in the checkpoint, by config.json it is "
            f"{_shape(wanted)}{more}; the two do not belong together, or part of it is missing"
        )
    if unexpected:
        return f"the checkpoint holds {_counted(unexpected)}, which this model does not use"
    return None


def require_scales(name: str, model: nn.Module) -> None:
    """Raise ModelError if a weight of a model that was unpacked while loading is packed still.

    transformers leaves the codes as they are where what they have to be multiplied with is missing.
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
        return f"it holds {first}, which fits nothing: names of another tool, or a model of another type"
    if all(key.startswith(_OUTPUT) for key in missing):
        return (
            'if its output matrix is that of its embeddings, config.json has to say "tie_word_embeddings": '
            "true"
        )
    return "download it again, or save it again with all its tensors"


def _shape(shape: Collection[int]) -> str:
    return "×".join(map(str, shape)) or "a single number"


class _Reports(logging.Filter):
    """Takes transformers' tables of what did not fit out of its log, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        text = record.getMessage()
        if _REPORT not in text:
            return True
        self.texts.append(text)
        return False


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Within, a load prints no table of what did not fit; tensors that cannot be converted raise ModelError.

    transformers names those (experts of different shapes, say) in that table only, and raises RuntimeError.
    Memory that ran out while it converted one is told there too, and raises MemoryError.
    """
    reports, logger = _Reports(), logging.getLogger(_LOGGER)
    logger.addFilter(reports)
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for text in reports.texts for line in text.splitlines()]
        for line in filter(tells_of_it, lines):
            raise MemoryError(line) from error
        failed = [key for text in reports.texts for key in _CONVERSION.findall(text)]
        if failed:
            raise ModelError(
                f"{name}: the checkpoint's parts of {_counted(failed)} do not go together; it is damaged "
                "or of another model"
            ) from error
        raise
    finally:
        logger.removeFilter(reports)
