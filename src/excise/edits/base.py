"""What an edit was made on: enough to tell that model, and any copy of it, from others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from excise.checkpoint.source import ModelSource
from excise.errors import SaveError
from excise.events import Emit, Note


@dataclass(frozen=True)
class Base:
    """The model that an edit belongs to.

    model: hub id, or absolute path (in older files as it was given). revision: commit on the hub, None for
    local files. digest: the revision, or of the weights' contents (`ModelSource.digest`). index: of names,
    shapes and data types of all tensors (`ModelSource.index_digest`), None in edit files that are older than
    format 3. contents: of the weights' contents wherever they came from (`ModelSource.contents`), None in
    edit files that do not have it.
    """

    model: str
    revision: str | None
    digest: str
    index: str | None
    contents: str | None = None

    @classmethod
    def of(cls, source: ModelSource) -> Base:
        """The base that `source` is. Reads headers and blocks of the weights, not all of them."""
        return cls(
            source.reference, source.revision, source.digest, source.index_digest, source.contents
        )

    @classmethod
    def of_facts(cls, facts: Mapping[str, object]) -> Base | None:
        """The base as files of format 2 tell it: the digest of a hub model is its revision."""
        if "model" not in facts:
            return None
        digest = str(facts["model_digest"])
        # A commit has 40 digits, a hash over blocks 16.
        return cls(str(facts["model"]), digest if len(digest) == 40 else None, digest, None)

    def tells_contents(self, source: ModelSource) -> bool:
        """False if nothing but the index can be compared with `source`'s.

        So it is if one of the two is a hub model, the other is not, and the edit file is an old one.
        """
        return self.contents is not None or (self.revision is None) == (source.revision is None)

    def differences(self, source: ModelSource) -> list[str]:
        """What tells `source` from this base, most telling first; empty if nothing does.

        Names do not count: a copy in another place is the same model, and so is one of a hub model that was
        downloaded by hand and has no revision.
        """
        found: list[str] = []
        if self.index is not None and source.index_digest != self.index:
            found.append(
                f"names, shapes or data types of its tensors (index {source.index_digest}, not {self.index})"
            )
        if self.revision is not None and source.revision is not None:
            what, theirs, own = "revision", source.revision, self.revision
        elif self.contents is not None:
            what, theirs, own = "contents", source.contents, self.contents
        elif self.revision is None and source.revision is None:
            what, theirs, own = "contents", source.digest, self.digest
        else:
            return found
        if theirs != own:
            found.append(f"{what} ({theirs}, not {own})")
        return found


def require_base(base: Base | None, source: ModelSource, *, force: bool, emit: Emit) -> None:
    """Raise SaveError unless `source` is the checkpoint that the edit was made of.

    force: say what it risks and go on.
    """
    if base is None:
        differs = "the edit does not say of which checkpoint it was made"
    elif base.index is None and not base.tells_contents(source):
        differs = f"the edit, an old file, says nothing that could be compared of {base.model}"
    elif found := base.differences(source):
        differs = f"the edit was made of {base.model}, from which it differs in {'; '.join(found)}"
    else:
        if not base.tells_contents(source):
            emit(
                Note(
                    f"names and shapes are those of {base.model}; contents could not be compared, "
                    "because the edit file is an old one and only one of the two is a hub model"
                )
            )
        return
    if not force:
        raise SaveError(
            f"{source.name} is not the checkpoint that the edit was made of: {differs}; give that one, or "
            "--force to apply it all the same"
        )
    emit(
        Note(
            f"going on with --force although {differs}: the direction was found in other weights, and may "
            "take away something else, or nothing"
        )
    )
