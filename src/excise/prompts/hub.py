"""Data sets on the hub, pinned to a commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub import utils as hub_utils

from excise.errors import HubError, PromptError, first_line
from excise.hub_access.cache import cached_names, cached_snapshot
from excise.hub_access.failures import FAILURES, Failure, failure, without_secrets
from excise.hub_access.request import OUT_OF_REACH, HubRequest
from excise.prompts.columns import Columns
from excise.prompts.files import choose_split, rows_of_data
from excise.prompts.rows import Rows
from excise.prompts.source import Split

_TIMEOUT = 20.0
"""Seconds to wait for the hub before turning to the cache."""

_READ_ERRORS = (DatasetsError, *FAILURES, KeyError)
"""What `datasets` raises for missing or damaged data and failed downloads."""


@dataclass(frozen=True)
class HubRows:
    """All rows of one split, not yet sliced."""

    rows: Rows
    split: str
    revision: str
    from_cache: bool
    """True if the hub was out of reach or limited requests."""


def read_hub(name: str, revision: str | None, columns: Columns, split: Split) -> HubRows:
    """Read a data set at the current commit of `revision` (default: its main branch).

    If the hub is out of reach, a cached copy is used. Raises HubError if the data set is not cached then, or
    the hub refuses; PromptError for an unknown data set, revision, split or column.
    """
    with _quiet():
        try:
            commit = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT).sha
        except FAILURES as error:
            found = failure(error, HubRequest(name, "data set", revision))
            if found.cause in OUT_OF_REACH:
                return _read_cached(name, revision, columns, split, found)
            if found.cause in ("repository", "revision"):
                raise PromptError(found.text) from None
            raise HubError(found.text) from None
        if commit is None:
            raise HubError(f"{name}: the hub reports no commit for it; try again later")
        return _read(name, commit, columns, split)


def _read(name: str, commit: str, columns: Columns, split: Split) -> HubRows:
    try:
        builder = datasets.load_dataset_builder(name, revision=commit)
        if builder.hash != commit:
            # If a download fails, datasets silently uses another commit from its cache.
            raise HubError(f"{name}: commit {commit} could not be fetched; try again later")
        builder.download_and_prepare()
        return _take(builder, name, columns, split, commit, from_cache=False)
    except _READ_ERRORS as error:
        raise _unread(error, name, f"{name}: could not be read from the hub") from None


def _read_cached(
    name: str, revision: str | None, columns: Columns, split: Split, cause: Failure
) -> HubRows:
    snapshot = cached_snapshot(name, "dataset", revision)
    names = cached_names("dataset")
    if snapshot is None:
        reason = cause.text
        if name in names:
            reason += f"; revision {revision} of it is not cached"
        raise HubError(f"{reason}; data sets in the cache: {', '.join(names) or 'none'}")
    try:
        builder = datasets.load_dataset_builder(str(snapshot.folder))
        builder.download_and_prepare()
        return _take(builder, name, columns, split, snapshot.commit, from_cache=True)
    except _READ_ERRORS as error:
        raise _unread(error, name, f"{cause.text}; its cached copy cannot be used") from None


def _unread(error: Exception, name: str, what: str) -> HubError:
    """The error for a failed request, a full disk, or else damaged data."""
    found = failure(error, HubRequest(name, "data set"))
    if found.cause != "other":
        return HubError(found.text)
    return HubError(without_secrets(f"{what}: {first_line(error)}"))


def _take(
    builder: Any, name: str, columns: Columns, split: Split, commit: str, *, from_cache: bool
) -> HubRows:
    chosen = choose_split(split, list(builder.info.splits or ()), name)
    data = builder.as_dataset(split=chosen)
    column = columns.of_prompts(data.column_names, name)
    rows = rows_of_data(data, column, columns.of_groups(data.column_names))
    return HubRows(rows, chosen, commit, from_cache)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context, the libraries show no progress bars."""
    libraries: tuple[Any, ...] = (datasets.utils, hub_utils)
    shown = [each for each in libraries if not each.are_progress_bars_disabled()]
    for each in shown:
        each.disable_progress_bars()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bars()
