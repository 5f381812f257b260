"""Data sets on the hub, pinned to the commit that was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from datasets.utils import are_progress_bars_disabled as data_bars_hidden
from datasets.utils import disable_progress_bars as hide_data_bars
from datasets.utils import enable_progress_bars as show_data_bars
from huggingface_hub import HfApi, scan_cache_dir
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of httpx or httpx2, whichever this version is built on
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled as hub_bars_hidden
from huggingface_hub.utils.tqdm import disable_progress_bars as hide_hub_bars
from huggingface_hub.utils.tqdm import enable_progress_bars as show_hub_bars

from excise.errors import HubError, PromptError
from excise.prompts.columns import check_column
from excise.prompts.saved import choose_split, column_of, first_line
from excise.prompts.slices import Split

_TIMEOUT = 20.0
"""Seconds to wait for the hub before turning to the cache."""

_READ_ERRORS = (DatasetsError, HTTPError, OSError, ValueError, KeyError, RuntimeError)
"""What `datasets` raises on data that are missing, damaged, or cannot be fetched."""


@dataclass(frozen=True)
class HubRows:
    """All rows of one column of one split, not yet sliced."""

    rows: list[object]
    split: str
    revision: str
    from_cache: bool
    """True if the hub was out of reach."""


def read_hub(name: str, revision: str | None, column: str, split: Split) -> HubRows:
    """Read a data set at the commit that `revision` (default: its main branch) now stands for.

    Out of reach of the hub, the cached copy is read, if there is one.

    Raises:
        HubError: the hub is out of reach and the data set is not cached, or the hub refuses.
        PromptError: no such data set, revision, split or column.
    """
    with _quiet():
        try:
            commit = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT).sha
        except GatedRepoError:
            raise HubError(
                f"{name}: the hub gives it only to those it has admitted; ask for access on its "
                "page and log in with: hf auth login"
            ) from None
        except RevisionNotFoundError:
            raise PromptError(f"{name}: no revision {revision} on the hub") from None
        except (RepositoryNotFoundError, HFValidationError):
            raise PromptError(
                f"{name}: no such file or folder, and no such data set on the hub (or a private "
                "one: log in with: hf auth login)"
            ) from None
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise HubError(f"{name}: the hub refuses: {first_line(error)}") from None
            return _read_cached(name, revision, column, split, error)
        except (HTTPError, ConnectionError) as error:
            return _read_cached(name, revision, column, split, error)
        if commit is None:
            raise HubError(f"{name}: the hub names no commit for it; try again later")
        return _read(name, commit, column, split)


def cached_data_sets() -> tuple[str, ...]:
    """The names of the data sets in the hub's cache on this machine."""
    return tuple(sorted(repository.repo_id for repository in _cached()))


def _read(name: str, commit: str, column: str, split: Split) -> HubRows:
    try:
        builder = datasets.load_dataset_builder(name, revision=commit)
        if builder.hash != commit:
            # When the hub fails it half way, datasets takes whatever commit it has prepared before.
            raise HubError(f"{name}: commit {commit} could not be fetched; try again later")
        builder.download_and_prepare()
        return _take(builder, name, column, split, commit, from_cache=False)
    except _READ_ERRORS as error:
        raise HubError(f"{name}: could not be read from the hub: {first_line(error)}") from None


def _read_cached(
    name: str, revision: str | None, column: str, split: Split, cause: Exception
) -> HubRows:
    reason = f"{name}: the hub is out of reach ({first_line(cause)})"
    found = next((one for one in _cached() if one.repo_id == name), None)
    commits = [
        commit
        for commit in (found.revisions if found else ())
        if revision is None or revision in commit.refs or commit.commit_hash.startswith(revision)
    ]
    if not commits:
        names = ", ".join(cached_data_sets()) or "none"
        if found:
            reason += f", and revision {revision} of it is not cached"
        raise HubError(f"{reason}; data sets in the cache: {names}")
    newest = max(commits, key=lambda commit: ("main" in commit.refs, commit.last_modified))
    try:
        builder = datasets.load_dataset_builder(str(Path(newest.snapshot_path)))
        builder.download_and_prepare()
        return _take(builder, name, column, split, newest.commit_hash, from_cache=True)
    except _READ_ERRORS as error:
        raise HubError(f"{reason}, and its cached copy is of no use: {first_line(error)}") from None


def _take(
    builder: Any, name: str, column: str, split: Split, commit: str, *, from_cache: bool
) -> HubRows:
    chosen = choose_split(split, list(builder.info.splits or ()), name)
    data = builder.as_dataset(split=chosen)
    check_column(column, data.column_names, name)
    return HubRows(column_of(data, column), chosen, commit, from_cache)


def _cached() -> list[Any]:
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [one for one in repositories if one.repo_type == "dataset" and one.revisions]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the libraries': only the command line draws on the screen."""
    switches = [
        (enable, disable)
        for hidden, disable, enable in (
            (data_bars_hidden, hide_data_bars, show_data_bars),
            (hub_bars_hidden, hide_hub_bars, show_hub_bars),
        )
        if not hidden()
    ]
    for _, disable in switches:
        disable()
    try:
        yield
    finally:
        for enable, _ in switches:
            enable()
