"""The plan of an edited checkpoint: which stored tensors change, their new format, and the total size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel

from excise.anatomy.tensors import Layout, StoredTensor, layout_by_names
from excise.anatomy.writers import Anatomy, examine
from excise.checkpoint.folder import Checkpoint, open_checkpoint
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import DTYPES, ORDINARY, Entry, WeightsFile, same_numbers
from excise.edits.edit import Edit
from excise.edits.fitting import fitted
from excise.errors import SaveError
from excise.models.meta_model import meta_model
from excise.models.quantization import named_dtype, quantization_in
from excise.rewrite.packing import find
from excise.rewrite.packing.formats import Packing
from excise.undocumented import get_keys_to_not_convert

Form = Literal["same", "plain"]
"""The format of quantised writers after the edit: the same, or plain floating point."""


@dataclass(frozen=True)
class Rewrite:
    """One stored tensor of a writer.

    stored: name, shape and axis of the unquantised tensor. file, entry: position of its numbers or codes.
    packing: its quantised format, None if plain. scales: further tensors, needed for decoding. output,
    repacking: the edited tensor and its format. beside: further tensors, not needed for decoding. first:
    number of matrices (or biases) of the same writer in earlier tensors.
    """

    writer: str
    stored: StoredTensor
    file: WeightsFile
    entry: Entry
    packing: Packing | None
    scales: Mapping[str, tuple[WeightsFile, Entry]]
    output: Entry
    repacking: Packing | None
    beside: frozenset[str] = frozenset()
    first: int = 0

    @property
    def changed_scales(self) -> Mapping[str, Entry]:
        """The scales that may change with the codes, by the format's names."""
        keys = () if self.repacking is None else self.repacking.changed_scales
        return {key: self.scales[key][1] for key in keys if key in self.scales}

    @property
    def count(self) -> int:
        """Number of matrices or biases in the tensor."""
        return prod(self.stored.shape[: -1 if self.stored.bias else -2])

    def written(self, tensors: Mapping[str, tuple[WeightsFile, Entry]]) -> Rewrite:
        """The same tensor in the edited checkpoint.

        tensors: of the edited checkpoint, by name. Scales missing there are the original's.
        """
        file, entry = tensors[self.output.name]
        scales = {} if self.repacking is None else self.scales
        theirs = {key: tensors.get(one[1].name, one) for key, one in scales.items()}
        return replace(self, file=file, entry=entry, packing=self.repacking, scales=theirs)


@dataclass(frozen=True)
class Plan:
    """What `write_checkpoint` writes.

    rewrites: by stored name. dropped: stored names of scales that plain tensors do not need. config: the
    changed content of config.json, None if it stays. companion_weights: other files of the folder that repeat
    tensors of writers, and how these tensors are rewritten, by stored name.
    """

    checkpoint: Checkpoint
    edit: Edit
    rewrites: Mapping[str, Rewrite]
    dropped: frozenset[str]
    config: Mapping[str, object] | None
    companion_weights: Mapping[Path, Mapping[str, Rewrite]] = field(default_factory=dict)

    @cached_property
    def changes(self) -> Mapping[str, Rewrite]:
        """All tensors that may change, by stored name: `rewrites`, and their `changed_scales`."""
        changed_scales = {
            entry.name: one
            for one in self.rewrites.values()
            for entry in one.changed_scales.values()
        }
        return {**changed_scales, **self.rewrites}

    def outputs(self, file: WeightsFile) -> Iterator[tuple[Entry, Entry, Rewrite | None]]:
        """The content of an edited file, in order: the output, the original entry, and the rewrite."""
        if (side := self.companion_weights.get(file.path)) is not None:
            yield from ((entry, entry, side.get(entry.name)) for entry in file.tensors)
            return
        for entry in file.tensors:
            rewrite = self.changes.get(entry.name)
            if entry.name not in self.dropped:
                output = self.rewrites[entry.name].output if entry.name in self.rewrites else entry
                yield output, entry, rewrite

    def keeps_layout(self, file: WeightsFile) -> bool:
        """True if all unedited bytes of the file keep their positions."""
        return file.path in self.companion_weights or (
            all(output == entry for output, entry, _ in self.outputs(file))
            and not self.dropped.intersection(one.name for one in file.tensors)
        )

    @cached_property
    def files(self) -> tuple[WeightsFile, ...]:
        """The files that are rewritten: the checkpoint's weights and `companion_weights`."""
        further = self.checkpoint.companions.weights
        return (
            *self.checkpoint.files,
            *(file for file in further if file.path in self.companion_weights),
        )

    def name_of(self, file: WeightsFile) -> str:
        """A file's path relative to the folder."""
        return file.path.relative_to(self.checkpoint.folder).as_posix()

    @property
    def size(self) -> int:
        """Bytes of all rewritten files."""
        return self.size_of(self.files)

    def size_of(self, files: Iterable[WeightsFile]) -> int:
        """Bytes of the tensors in the edited form of `files`."""
        return sum(output.size for file in files for output, _, _ in self.outputs(file))

    @property
    def form(self) -> Form:
        """The format of quantised writers after the edit; "same" if no writer is quantised."""
        unpacked = any(one.packing and not one.repacking for one in self.rewrites.values())
        return "plain" if unpacked else "same"

    @property
    def packed(self) -> str | None:
        """The quantised format of writers in the original, for people; None if they are plain."""
        return next((one.packing.name for one in self.rewrites.values() if one.packing), None)


def make_plan(
    name: str,
    checkpoint: Checkpoint,
    edit: Edit,
    *,
    form: Form = "same",
    declared: tuple[str, ...] = (),
    trust_remote_code: bool = False,
) -> Plan:
    """Find an edit's tensors in a checkpoint, from its configuration and the names in its files.

    name: the model's, for messages. declared: the writers that the user declares. Raises ModelError if
    the model cannot be built, the edit does not fit it, or the checkpoint is damaged; SaveError if the
    tensors cannot be edited.
    """
    model, anatomy = _examined(name, checkpoint, declared, trust_remote_code)
    edit = fitted(edit, anatomy, name)
    layout = layout_by_names(model, anatomy, edit.changed, find.logical_names(checkpoint))
    rewrites = _rewrites(checkpoint, layout)
    companion_weights = _companion_rewrites(checkpoint, rewrites)
    plan = Plan(checkpoint, edit, rewrites, frozenset(), None, companion_weights)
    if form == "same" or plan.packed is None:
        return plan
    return _plain(plan, get_keys_to_not_convert(model))


def require_editable(
    source: ModelSource, declared: tuple[str, ...], *, trust_remote_code: bool
) -> None:
    """Raise SaveError if an edited model can never be written from this checkpoint.

    Reads only headers, so that it can run before the search. Faults in the numbers (GPTQ zero points that
    loaders interpret differently) are found when the numbers are read.
    """
    if source.gguf is None:
        checkpoint = open_checkpoint(source.folder)
        model, anatomy = _examined(source.name, checkpoint, declared, trust_remote_code)
        names = find.logical_names(checkpoint)
        _rewrites(checkpoint, layout_by_names(model, anatomy, anatomy.names, names))


def _examined(
    name: str, checkpoint: Checkpoint, declared: tuple[str, ...], trust_remote_code: bool
) -> tuple[PreTrainedModel, Anatomy]:
    model = meta_model(name, checkpoint.folder, trust_remote_code=trust_remote_code)
    return model, examine(model, declared)


def _rewrites(checkpoint: Checkpoint, layout: Layout) -> dict[str, Rewrite]:
    return numbered(
        _rewrite(checkpoint, writer, stored)
        for writer, tensors in layout.items()
        for stored in tensors
    )


def numbered(rewrites: Iterable[Rewrite]) -> dict[str, Rewrite]:
    """Rewrites by stored name, with `first` counted for each writer's matrices and biases."""
    found: dict[str, Rewrite] = {}
    counts: Counter[tuple[str, bool]] = Counter()
    for one in rewrites:
        key = one.writer, one.stored.bias
        found[one.entry.name] = replace(one, first=counts[key])
        counts[key] += one.count
    return found


def _rewrite(checkpoint: Checkpoint, writer: str, stored: StoredTensor) -> Rewrite:
    found = find.find(checkpoint, stored)
    file, entry = checkpoint.tensors[found.codes]
    packing = found.packing
    if packing is None and entry.shape != stored.shape:
        raise SaveError(
            f"{file.path.name}: {entry.name} has the shape {entry.shape}, but config.json "
            f"gives {stored.shape}; the checkpoint is damaged or of another model"
        )
    if packing is not None and file.kind == "pytorch":
        raise SaveError(
            f"{file.path.name}: packed weights in PyTorch files cannot be rewritten; save an adapter "
            "instead: to_peft (--adapter DIR)"
        )
    scales = {key: checkpoint.tensors[one] for key, one in found.scales.items()}
    beside = frozenset(found.beside)
    return Rewrite(writer, stored, file, entry, packing, scales, entry, packing, beside)


def _companion_rewrites(
    checkpoint: Checkpoint, rewrites: Mapping[str, Rewrite]
) -> dict[Path, dict[str, Rewrite]]:
    """Tensors of writers that other files of the folder repeat; quantised tensors are not edited there.

    Names and numbers must be equal, because a draft head may use the names of the model's layers.
    """
    found: dict[Path, dict[str, Rewrite]] = {}
    for file in checkpoint.companions.weights:
        for entry in file.tensors:
            own = rewrites.get(entry.name)
            if own is None or own.packing is not None or not entry.is_ordinary:
                continue
            if own.entry.shape == entry.shape and same_numbers(
                (own.file, own.entry), (file, entry)
            ):
                rewrite = replace(own, file=file, entry=entry, output=entry)
                found.setdefault(file.path, {})[entry.name] = rewrite
    return found


def _plain(plan: Plan, default_skips: list[str]) -> Plan:
    """The plan with plain tensors of the configured data type in place of quantised writers."""
    checkpoint = plan.checkpoint
    method = find.method_of(checkpoint)
    key = find.SKIPPED_BY.get(method or "")
    if key is None:
        raise SaveError(
            f"{plan.packed} has no list of unquantised modules, so its writers cannot become plain; leave "
            "this setting out, or save an adapter",
            setting="packed",
            value="plain",
        )
    dtype = _compute_dtype(checkpoint.config)
    rewrites: dict[str, Rewrite] = {}
    dropped: set[str] = set()
    modules: list[str] = []
    for name, rewrite in plan.rewrites.items():
        if rewrite.packing is None:
            rewrites[name] = rewrite
            continue
        shape = rewrite.stored.shape
        plain = find.logical_name(name)
        output = Entry(plain, dtype, shape, 0, DTYPES[dtype].itemsize * prod(shape))
        rewrites[name] = replace(rewrite, output=output, repacking=None)
        dropped.update(entry.name for _, entry in rewrite.scales.values())
        dropped.update(rewrite.beside)
        modules.append(plain.removesuffix(".weight"))
    config = deepcopy(checkpoint.config)
    quantization = quantization_in(config)
    assert quantization is not None
    skipped = quantization.get(key)
    known = skipped if isinstance(skipped, list) and skipped else default_skips
    quantization[key] = [*known, *modules]
    return replace(plan, rewrites=rewrites, dropped=frozenset(dropped), config=config)


def _compute_dtype(config: Mapping[str, object]) -> str:
    # By safetensors' name; bfloat16 if it is missing.
    names = {str(dtype).removeprefix("torch."): name for name, dtype in ORDINARY.items()}
    return names.get(named_dtype(config) or "", "BF16")
