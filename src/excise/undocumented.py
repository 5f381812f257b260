"""Every interface of a library that excise uses beside the documented ones.

Such an interface may go, or come to mean something else, with any release. So they are used through this
module only, `pyproject.toml` caps the libraries that have them, and a test names what a new version lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import no_init_weights
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.quantizers.base import get_keys_to_not_convert

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from torch import UntypedStorage

__all__ = [
    "CONFIG_MAPPING_NAMES",
    "TENSOR_PROCESSORS",
    "FakeTensorMode",
    "PrefixChange",
    "TensorProcessor",
    "WeightConverter",
    "WeightRenaming",
    "apply_renamings",
    "get_gguf_hf_weights_map",
    "get_keys_to_not_convert",
    "get_model_conversion_mapping",
    "is_traceable_wrapper_subclass",
    "no_init_weights",
    "rename_source_key",
    "revert_weight_conversion",
]

ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("transformers.integrations.mxfp4", "Mxfp4ReverseDeserialize"),
    ("transformers.integrations.mxfp4", "convert_moe_packed_tensors"),
    ("torchao.quantization.quantize_.workflows", "Int4PackingFormat"),
    ("torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig"),
)
"""Module and name of what is imported only when it is needed, see `import_undocumented`."""


def import_undocumented(module: str, name: str) -> Any:
    """An entry of `ELSEWHERE`. Raises ImportError, also where this version no longer has the name."""
    if (module, name) not in ELSEWHERE:
        raise ValueError(f"{module}.{name} is not in the list of undocumented interfaces")
    try:
        return getattr(import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{module} has no {name} in this version") from error


def prepacked_layout() -> torch.layout:
    """The layout of weights that oneDNN has prepacked."""
    layout: torch.layout = torch._mkldnn  # type: ignore[attr-defined]
    return layout


def prepack_linear_weight(weight: Tensor) -> Tensor:
    """A copy of a matrix [out, in] on the CPU, prepacked by oneDNN. Raises RuntimeError without oneDNN."""
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return result


def prepacked_linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` with a prepacked weight [out, in]: values [..., in] to [..., out]."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return output


def checkpoint_offset(storage: UntypedStorage) -> int | None:
    """Where a storage's bytes begin in the file that torch.load read under fake tensors."""
    offset: int | None = storage._checkpoint_offset
    return offset


def hook_of(module: nn.Module) -> object | None:
    """accelerate's hook around the module's forward; several are one SequentialHook."""
    return getattr(module, "_hf_hook", None)


def keeps_state(model: PreTrainedModel) -> bool:
    """True if the model holds more between calls than its cache says."""
    return bool(model._is_stateful)


def trial_id(trial: FrozenTrial) -> int:
    """What Optuna's storage knows a trial by; its number counts within the study."""
    number: int = trial._trial_id
    return number


def use_conversions(model: PreTrainedModel, conversions: Sequence[object] | None) -> None:
    """Say how names and shapes of a checkpoint differ from the model's, as if it had been loaded so.

    transformers undoes these when it saves; None: nothing.
    """
    model._weight_conversions = None if conversions is None else list(conversions)
