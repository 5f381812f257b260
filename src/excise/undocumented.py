"""All undocumented interfaces of libraries that excise uses.

Any release may change or remove them. They are therefore used only through this module, `pyproject.toml`
limits the versions of their libraries, and a test lists interfaces that a new version lacks.
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

ELSEWHERE: tuple[tuple[str, str], ...] = (
    ("transformers.integrations.mxfp4", "Mxfp4ReverseDeserialize"),
    ("transformers.integrations.mxfp4", "convert_moe_packed_tensors"),
    ("torchao.quantization.quantize_.workflows", "Int4PackingFormat"),
    ("torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig"),
)
"""Module and name of interfaces that `import_undocumented` imports on demand."""


def import_undocumented(module: str, name: str) -> Any:
    """An entry of `ELSEWHERE`. Raises ImportError, also if this version lacks the name."""
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
    """The file offset of a storage that torch.load read with fake tensors."""
    offset: int | None = storage._checkpoint_offset
    return offset


def hook_of(module: nn.Module) -> object | None:
    """accelerate's hook of a module; several hooks are one SequentialHook."""
    return getattr(module, "_hf_hook", None)


def keeps_state(model: PreTrainedModel) -> bool:
    """True if the model keeps state outside its cache."""
    return bool(model._is_stateful)


def trial_id(trial: FrozenTrial) -> int:
    """The id of a trial in Optuna's storage, which differs from its number in the study."""
    number: int = trial._trial_id
    return number


def use_conversions(model: PreTrainedModel, conversions: Sequence[object] | None) -> None:
    """Set the weight conversions that transformers reverts when it saves the model; None for none."""
    model._weight_conversions = None if conversions is None else list(conversions)
