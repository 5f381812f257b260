"""The contents of the hub's cache on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository, and the folder of its files."""

    commit: str
    folder: Path


def cached_names(kind: Kind) -> tuple[str, ...]:
    """Names of the repositories in the cache, sorted."""
    return tuple(sorted(one.repo_id for one in _repositories(kind)))


def cached_snapshot(name: str, kind: Kind, revision: str | None) -> Snapshot | None:
    """The newest cached commit of `revision` (branch, tag or beginning of a commit), None if not cached.

    Without a revision: the commit of the main branch, else the newest cached commit.
    """
    commits = [
        commit
        for one in _repositories(kind)
        if one.repo_id == name
        for commit in one.revisions
        if revision is None or revision in commit.refs or commit.commit_hash.startswith(revision)
    ]
    if not commits:
        return None
    newest = max(commits, key=lambda commit: ("main" in commit.refs, commit.last_modified))
    return Snapshot(newest.commit_hash, Path(newest.snapshot_path))


def _repositories(kind: Kind) -> list[Any]:
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [one for one in repositories if one.repo_type == kind and one.revisions]
