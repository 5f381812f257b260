"""The values that all ways of saving an edit take."""

from __future__ import annotations

from dataclasses import dataclass

from excise.edits.edit import Edit
from excise.reproduce.record import Reproduction
from excise.rewrite.plan import Form
from excise.validation import check_fields


@dataclass(frozen=True)
class SaveOptions:
    """How the files of a model are read and written.

    packed: form of packed matrices in the result: "same" packs them the same way, "plain" unpacks them.
    writers: declared writers, "PATTERN=COMPONENT". trust_remote_code: build the model with its own code.
    chat_template: text of a template that replaces the model's own. force: apply an edit to another
    checkpoint than its own.
    """

    packed: Form = "same"
    writers: tuple[str, ...] = ()
    trust_remote_code: bool = False
    chat_template: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Raises SettingsError for a wrong value."""
        check_fields(self)


@dataclass(frozen=True)
class DescribedEdit:
    """An edit with its figures and its origin.

    figures: Markdown for the card. record: for `reproduce.json`; None writes no such file.
    """

    edit: Edit
    figures: str
    record: Reproduction | None = None
