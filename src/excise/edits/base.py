"""The base model of an edit, with digests that identify it and its copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.checkpoint.source import ModelSource
from excise.errors import SaveError
from excise.events import Emit, Note


@dataclass(frozen=True)
class Base:
    """The model that an edit belongs to.

    model: hub id or absolute path (in older files perhaps a relative path). revision: commit on the hub, None
    for local files. digest: the revision, or a hash of the weights (`ModelSource.digest`). index: hash of the
    names, shapes and data types of all tensors (`ModelSource.index_digest`), None in files before format 3.
    contents: hash of the weights (`ModelSource.contents`), None in older files.
    """

    model: str
    revision: str | None
    digest: str
    index: str | None
    contents: str | None = None

    @classmethod
    def of(cls, source: ModelSource) -> Base:
        """The base of `source`. Reads headers and some blocks of the weights."""
        return cls(
            source.reference, source.revision, source.digest, source.index_digest, source.contents
        )

    @classmethod
    def of_facts(cls, facts: Mapping[str, object]) -> Base | None:
        """The base in files of format 2, where the digest of a hub model is its revision."""
        if "model" not in facts:
            return None
        digest = str(facts["model_digest"])
        # A commit has 40 digits, a hash over blocks 16.
        return cls(str(facts["model"]), digest if len(digest) == 40 else None, digest, None)

    def can_compare_contents(self, source: ModelSource) -> bool:
        """False if an old edit file allows only the index to be compared.

        That is the case if one of both models is on the hub and the other is local.
        """
        return self.contents is not None or (self.revision is None) == (source.revision is None)

    def differences(self, source: ModelSource) -> list[str]:
        """The differences between `source` and this base, as text; empty for the same model.

        Names and places are not compared: a copy in another folder, also of a hub model, is the same model.
        """
        found: list[str] = []
        if self.index is not None and source.index_digest != self.index:
            found.append(
                f"names, shapes or data types of its tensors (index {source.index_digest}, not {self.index})"
            )
        if self.revision is not None and source.revision is not None:
            part, found_digest, digest = "revision", source.revision, self.revision
        elif self.contents is not None:
            part, found_digest, digest = "contents", source.contents, self.contents
        elif self.revision is None and source.revision is None:
            part, found_digest, digest = "contents", source.digest, self.digest
        else:
            return found
        if found_digest != digest:
            found.append(f"{part} ({found_digest}, not {digest})")
        return found


def require_base(base: Base | None, source: ModelSource, *, force: bool, emit: Emit) -> None:
    """Raise SaveError unless `source` is the base model of the edit. force: emit a warning instead."""
    if base is None:
        differs = "the edit does not name its checkpoint"
    elif base.index is None and not base.can_compare_contents(source):
        differs = f"the edit file is old and holds no digests of {base.model}"
    elif found := base.differences(source):
        differs = f"the edit was made of {base.model}, from which it differs in {'; '.join(found)}"
    else:
        if not base.can_compare_contents(source):
            emit(
                Note(
                    f"names and shapes equal those of {base.model}; contents cannot be compared: "
                    "the edit file is old and only one of both models is on the hub"
                )
            )
        return
    if not force:
        raise SaveError(
            f"{source.name} is not the checkpoint that the edit was made for: {differs}; give that "
            "checkpoint, or force (--force) to apply the edit anyway"
        )
    emit(
        Note(
            f"continuing with force (--force) although {differs}: the direction was found in other weights, "
            "so the edit may remove something else, or nothing"
        )
    )
