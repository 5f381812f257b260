"""What an upload emits."""

from __future__ import annotations

from dataclasses import dataclass

from excise.events import Event


@dataclass(frozen=True)
class UploadStarted(Event):
    """Files go to a repository of the hub. bytes: of all of them."""

    repository: str
    files: int
    bytes: int


@dataclass(frozen=True)
class FileUploaded(Event):
    """A large file is in the hub's storage, or was there already. done, total: bytes."""

    name: str
    bytes: int
    done: int
    total: int


@dataclass(frozen=True)
class Uploaded(Event):
    """A repository holds what was to be uploaded. unchanged: it did before."""

    url: str
    commit: str
    private: bool
    unchanged: bool
