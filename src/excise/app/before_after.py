"""An original model and its edited version, measured one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from accelerate.utils import release_memory

from excise.app.model import in_data_type, load_model, source_of
from excise.checkpoint.source import ModelSource, resolve
from excise.config import Settings
from excise.edits.edit import Edit
from excise.events import Emit
from excise.models.load import LoadedModel

Before = TypeVar("Before")
After = TypeVar("After")


@dataclass(frozen=True)
class Subject:
    """What is measured before and after.

    name, against: the edited version and the original, for people. settings: load either. original: files of
    the original model. edit: applied to the original in memory; no model is written. edited: files of a model
    that was edited before. With neither, the original alone is measured.
    """

    name: str
    against: str
    settings: Settings
    original: ModelSource
    edit: Edit | None = None
    edited: ModelSource | None = None

    @classmethod
    def of_models(cls, settings: Settings, against: str) -> Subject:
        """The model that the settings name, and its original. Raises ModelError or HubError."""
        edited = source_of(settings)
        original = resolve(against, code=settings.trust_remote_code)
        return cls(settings.model, against, settings, original, edited=edited)

    @property
    def is_pair(self) -> bool:
        """False if there is only the original."""
        return self.edit is not None or self.edited is not None


def measured(
    subject: Subject,
    emit: Emit,
    before: Callable[[LoadedModel], Before],
    after: Callable[[LoadedModel, Edit | None, Before], After],
) -> After:
    """What `after` returns of the edited model; it gets the edit to apply, and what `before` found.

    One model is in memory at a time. The result of `before` may not refer to its model.
    """
    if subject.edited is None:
        loaded = load_model(subject.settings, subject.original, emit)
        return after(loaded, subject.edit, before(loaded))
    found, dtype = _alone(subject, emit, before)
    # The memory of the first model is needed for the second.
    release_memory()
    # The same data type for both, because a difference of type would count too.
    settings = subject.settings
    if dtype is not None:
        settings = in_data_type(settings, dtype, subject.edited)
    return after(load_model(settings, subject.edited, emit), None, found)


def _alone(
    subject: Subject, emit: Emit, before: Callable[[LoadedModel], Before]
) -> tuple[Before, str | None]:
    """A function of its own, so that no variable refers to the model afterwards.

    The data type is None for packed weights.
    """
    loaded = load_model(subject.settings, subject.original, emit)
    return before(loaded), loaded.dtype if loaded.packing is None else None
