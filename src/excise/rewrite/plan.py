"""What of a checkpoint changes: which stored tensors are edited, in which form, and how large all becomes."""

from __future__ import annotations

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
from excise.checkpoint.folder import Checkpoint
from excise.checkpoint.tensors import DTYPES, ORDINARY, Entry, WeightsFile, same_numbers
from excise.edits.edit import Edit
from excise.edits.spelling import spelt_for
from excise.errors import SaveError
from excise.models.meta_model import meta_model
from excise.models.quantization import named_dtype
from excise.rewrite.packing import find
from excise.rewrite.packing.formats import Packing
from excise.undocumented import get_keys_to_not_convert

Form = Literal["same", "plain"]
"""What packed tensors of writers become: packed the same way, or plain."""


@dataclass(frozen=True)
class Rewrite:
    """One stored tensor of a writer.

    stored: name, shape and axis as if nothing were packed. file, entry: where its numbers, or the codes
    of a packed one, lie. packing: how they are packed, None if they are plain. scales: what else a packed
    one is read from. first: how many matrices (or biases) of the same writer come before its own.
    output: what stands in the edited checkpoint; repacking: how it is packed there. beside: stored names of
    what goes with the codes and is not read.
    """

    writer: str
    stored: StoredTensor
    file: WeightsFile
    entry: Entry
    packing: Packing | None
    scales: Mapping[str, tuple[WeightsFile, Entry]]
    first: int
    output: Entry
    repacking: Packing | None
    beside: frozenset[str] = frozenset()

    @property
    def changed_scales(self) -> Mapping[str, Entry]:
        """The scales that may change with the codes, by what the format calls them."""
        keys = () if self.repacking is None else self.repacking.changed_scales
        return {key: self.scales[key][1] for key in keys if key in self.scales}

    @property
    def count(self) -> int:
        """How many matrices, or biases, it holds."""
        return prod(self.stored.shape[: -1 if self.stored.bias else -2])

    def written(self, tensors: Mapping[str, tuple[WeightsFile, Entry]]) -> Rewrite:
        """The same tensor where it stands in an edited copy.

        tensors: of the copy, by name. Scales that are not among them are taken to be the original's.
        """
        file, entry = tensors[self.output.name]
        scales = {} if self.repacking is None else self.scales
        theirs = {key: tensors.get(one[1].name, one) for key, one in scales.items()}
        return replace(self, file=file, entry=entry, packing=self.repacking, scales=theirs)


@dataclass(frozen=True)
class Plan:
    """Everything that writing needs to know.

    rewrites: by the stored name of what is rewritten. dropped: stored names of scales that plain tensors
    do not need. config: the content of config.json if it changes. companion_weights: other files
    of the folder that repeat tensors of writers, and how these tensors are rewritten, by stored name.
    """

    checkpoint: Checkpoint
    edit: Edit
    rewrites: Mapping[str, Rewrite]
    dropped: frozenset[str]
    config: Mapping[str, object] | None
    companion_weights: Mapping[Path, Mapping[str, Rewrite]] = field(default_factory=dict)

    @cached_property
    def changes(self) -> Mapping[str, Rewrite]:
        """By the stored name of everything that may change: `rewrites`, and scales that move with codes."""
        changed_scales = {
            entry.name: one
            for one in self.rewrites.values()
            for entry in one.changed_scales.values()
        }
        return {**changed_scales, **self.rewrites}

    def outputs(self, file: WeightsFile) -> Iterator[tuple[Entry, Entry, Rewrite | None]]:
        """What a file will hold, in order: the output, the original entry, and how it is rewritten."""
        if (side := self.companion_weights.get(file.path)) is not None:
            yield from ((entry, entry, side.get(entry.name)) for entry in file.tensors)
            return
        for entry in file.tensors:
            rewrite = self.changes.get(entry.name)
            if entry.name not in self.dropped:
                output = self.rewrites[entry.name].output if entry.name in self.rewrites else entry
                yield output, entry, rewrite

    def keeps_layout(self, file: WeightsFile) -> bool:
        """True if every byte of the file that is no edited number stays where it is."""
        return file.path in self.companion_weights or (
            all(output == entry for output, entry, _ in self.outputs(file))
            and not self.dropped.intersection(one.name for one in file.tensors)
        )

    @cached_property
    def files(self) -> tuple[WeightsFile, ...]:
        """The files that are rewritten: the checkpoint's, and those of `companion_weights`."""
        return (
            *self.checkpoint.files,
            *(
                file
                for file in self.checkpoint.companion_weights
                if file.path in self.companion_weights
            ),
        )

    def name_of(self, file: WeightsFile) -> str:
        """A file's name in the folder, with those of folders in front."""
        return file.path.relative_to(self.checkpoint.folder).as_posix()

    @property
    def size(self) -> int:
        """Bytes of all that is rewritten."""
        return self.size_of(self.files)

    def size_of(self, files: Iterable[WeightsFile]) -> int:
        """Bytes of the tensors that some files will hold."""
        return sum(output.size for file in files for output, _, _ in self.outputs(file))

    @property
    def form(self) -> Form:
        """What packed tensors of writers become; "same" if none is packed."""
        unpacked = any(one.packing and not one.repacking for one in self.rewrites.values())
        return "plain" if unpacked else "same"

    @property
    def packed(self) -> str | None:
        """How writers are packed in the original, in words; None if they are plain."""
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

    name: the model's, for messages. declared: the user's own claims about writers. Raises ModelError for
    a model that cannot be built or a damaged checkpoint, SaveError for one that the edit does not fit.
    """
    model, anatomy = _examined(name, checkpoint, declared, trust_remote_code)
    edit = spelt_for(edit, anatomy)
    require_fit(name, edit, anatomy)
    layout = layout_by_names(model, anatomy, edit.changed, find.logical_names(checkpoint))
    rewrites = _rewrites(checkpoint, layout)
    companion_weights = _companion_rewrites(checkpoint, rewrites)
    plan = Plan(checkpoint, edit, rewrites, frozenset(), None, companion_weights)
    if form == "same" or plan.packed is None:
        return plan
    return _unpacked(plan, get_keys_to_not_convert(model))


def require_fit(name: str, edit: Edit, anatomy: Anatomy) -> None:
    """Raise SaveError unless the model has the edit's writers, of its width."""
    unknown = [writer for writer in edit.changed if writer not in anatomy.names]
    if unknown:
        raise SaveError(
            f"{name}: has no writer {unknown[0]}, which the edit names; it was made of another model, or "
            "with --writers, which has to be given here too"
        )
    if edit.u.shape[1] != anatomy.dimension:
        raise SaveError(
            f"{name}: its residual stream has {anatomy.dimension} numbers, the edit's {edit.u.shape[1]}; the "
            "edit was made of another model"
        )


def require_editable(
    name: str, checkpoint: Checkpoint, declared: tuple[str, ...], *, trust_remote_code: bool
) -> None:
    """Raise SaveError if some writer of the checkpoint could not be edited; reads headers only."""
    model, anatomy = _examined(name, checkpoint, declared, trust_remote_code)
    names = find.logical_names(checkpoint)
    _rewrites(checkpoint, layout_by_names(model, anatomy, anatomy.names, names))


def _examined(
    name: str, checkpoint: Checkpoint, declared: tuple[str, ...], trust_remote_code: bool
) -> tuple[PreTrainedModel, Anatomy]:
    model = meta_model(name, checkpoint.folder, trust_remote_code=trust_remote_code)
    return model, examine(model, declared)


def _rewrites(checkpoint: Checkpoint, layout: Layout) -> dict[str, Rewrite]:
    rewrites: dict[str, Rewrite] = {}
    for writer, tensors in layout.items():
        counts = {False: 0, True: 0}
        for stored in tensors:
            rewrite = _rewrite(checkpoint, writer, stored, counts[stored.bias])
            rewrites[rewrite.entry.name] = rewrite
            counts[stored.bias] += rewrite.count
    return rewrites


def _rewrite(checkpoint: Checkpoint, writer: str, stored: StoredTensor, first: int) -> Rewrite:
    found = find.find(checkpoint, stored)
    name = checkpoint.named(stored.name) if found is None else found.codes
    assert name is not None
    file, entry = checkpoint.tensors[name]
    if found is None and entry.shape != stored.shape:
        raise SaveError(
            f"{file.path.name}: {entry.name} has the shape {entry.shape}, by config.json it is "
            f"{stored.shape}; the checkpoint is damaged or of another model"
        )
    if found is not None and file.kind == "pytorch":
        raise SaveError(
            f"{file.path.name}: packed weights in PyTorch files cannot be rewritten; save an adapter instead"
        )
    scales = (
        {} if found is None else {key: checkpoint.tensors[one] for key, one in found.scales.items()}
    )
    packing = None if found is None else found.packing
    beside = frozenset(() if found is None else found.beside)
    return Rewrite(writer, stored, file, entry, packing, scales, first, entry, packing, beside)


def _companion_rewrites(
    checkpoint: Checkpoint, rewrites: Mapping[str, Rewrite]
) -> dict[Path, dict[str, Rewrite]]:
    """Tensors of writers that lie once more in files beside the weights.

    The name alone does not tell: a draft head names layers of its own the same way. Packed ones stay.
    """
    found: dict[Path, dict[str, Rewrite]] = {}
    for file in checkpoint.companion_weights:
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


def _unpacked(plan: Plan, default_skips: list[str]) -> Plan:
    """The same with plain numbers in place of packed writers, and the configuration saying so.

    They take the data type that the model computes in, which is what its other tensors are stored as.
    """
    checkpoint = plan.checkpoint
    method = find.method_of(checkpoint)
    key = find.SKIPPED_BY.get(method or "")
    if key is None:
        raise SaveError(
            f"{plan.packed} has no list of modules that are not packed, so its writers cannot become plain; "
            "leave out --packed, or save an adapter"
        )
    dtype = _computes_in(checkpoint.config)
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
    quantization = find.quantization_of(config)
    assert quantization is not None
    skipped = quantization.get(key)
    known = skipped if isinstance(skipped, list) and skipped else default_skips
    quantization[key] = [*known, *modules]
    return replace(plan, rewrites=rewrites, dropped=frozenset(dropped), config=config)


def _computes_in(config: Mapping[str, object]) -> str:
    """The data type that config.json states, by its name in files; bfloat16 where it states none."""
    names = {str(dtype).removeprefix("torch."): name for name, dtype in ORDINARY.items()}
    return names.get(named_dtype(config) or "", "BF16")
