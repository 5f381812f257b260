"""The folder of a LoRA adapter, as peft reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from excise.checkpoint.source import ModelSource, resolve
from excise.edits.adapter import (
    ParameterChange,
    adapter_tensors,
    changed_writers,
    edit_changes,
    rank_of,
    require_adapter,
)
from excise.edits.base import require_base
from excise.edits.served import serving_note
from excise.edits.stored import FittedEdit, from_files
from excise.edits.values import EditValues
from excise.errors import SaveError
from excise.events import ignore
from excise.system.files import FurtherFiles, new_folder

_NAMES_OF_EXPERTS = frozenset(("down_proj", "w2"))


@dataclass(frozen=True)
class AdapterFolder:
    """A new folder of an adapter.

    path: of the folder. base, revision: of the original model, for the adapter's configuration. card: text of
    the README.md without its section about serving. further: makes further files.
    """

    path: Path
    base: str
    revision: str | None = None
    card: str = ""
    further: FurtherFiles | None = None

    @classmethod
    def of(
        cls, path: Path, source: ModelSource, card: str, further: FurtherFiles | None = None
    ) -> AdapterFolder:
        """A folder whose base has its name on the hub or an absolute path, valid in any working directory."""
        origin = source.origin
        base = source.reference if origin is None else origin.name
        return cls(path, base, None if origin is None else origin.revision, card, further)


def to_peft(
    edit: EditValues,
    path: Path,
    model: PreTrainedModel | str | Path | None,
    writers: tuple[str, ...],
    trust_remote_code: bool,
    force: bool,
) -> None:
    """`Edit.to_peft`."""
    base = edit.base
    if isinstance(model, str | Path):
        source = resolve(str(model), code=trust_remote_code)
    elif model is not None:
        name, revision = (model.name_or_path, None) if base is None else (base.model, base.revision)
        fitted = FittedEdit.of(edit, model, writers)
        save_adapter(fitted, AdapterFolder(path, name, revision, _card(edit, name)))
        return
    elif base is not None:
        source = resolve(base.model, base.revision, code=trust_remote_code)
    else:
        raise SaveError("the edit does not name its model; give the model")
    require_base(base, source, force=force, emit=ignore)
    with from_files(edit, source, writers, trust_remote_code=trust_remote_code) as fitted:
        save_adapter(fitted, AdapterFolder.of(path, source, _card(edit, source.public_name)))


def _card(edit: EditValues, base: str) -> str:
    return (
        "---\nlibrary_name: peft\ntags:\n- excise\n---\n\n"
        f"# {Path(base).name}, edited\n\nThis is a LoRA adapter of rank {edit.directions} for **{base}**. It "
        f"removes the direction of one behaviour from {len(edit.changed)} matrices ({edit.kind}). Nothing "
        "was trained. Safety behaviour of the original may be weakened or gone; test it before you rely on "
        "it.\n"
    )


def save_adapter(fitted: FittedEdit, folder: AdapterFolder) -> None:
    """Write a peft folder that `PeftModel.from_pretrained` loads. Raises SaveError."""
    edit, model = fitted.edit, fitted.model
    require_adapter(model, changed_writers(edit, fitted.writers), edit.directions)
    write_adapter(model, list(edit_changes(edit, fitted.writers, fitted.weights)), folder)


def write_adapter(
    model: PreTrainedModel, changes: Sequence[ParameterChange], folder: AdapterFolder
) -> None:
    """Write the changes as a peft folder. Raises SaveError. model: its weights are not read."""
    from peft import LoraConfig

    tensors = adapter_tensors(model, changes)
    rank = rank_of(changes)
    changed = [change.tensor.name for change in changes if change.bias is None]
    modules, parameters = split_targets(model, changed)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=modules,
        target_parameters=parameters or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(one), Conv1D) for one in modules),
        bias="lora_only" if any(change.bias is not None for change in changes) else "none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=folder.base,
        revision=folder.revision,
        inference_mode=True,
    )
    note = serving_note([change.tensor for change in changes], rank)
    with new_folder(folder.path) as place:
        config.save_pretrained(str(place))
        save_file(tensors, place / "adapter_model.safetensors", metadata={"format": "pt"})
        card = f"{folder.card.rstrip()}\n\n{note}\n"
        (place / "README.md").write_text(card, encoding="utf-8")
        for name, text in (folder.further(place) if folder.further else {}).items():
            (place / name).write_text(text, encoding="utf-8")


def split_targets(model: nn.Module, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parameters' names as peft's target_modules (of linear layers) and target_parameters (the others)."""
    linear = {
        name
        for name in names
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear | Conv1D)
    }
    if len(linear) < len(names):
        # In models with experts, peft converts modules of these names to the experts' parameter, because old
        # checkpoints name single experts so. It does not convert target_parameters.
        linear = {name for name in linear if name.split(".")[-2] not in _NAMES_OF_EXPERTS}
    return (
        [name.rpartition(".")[0] for name in names if name in linear],
        [name for name in names if name not in linear],
    )
