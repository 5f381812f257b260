"""Events of an upload."""

from __future__ import annotations

from dataclasses import dataclass

from excise.events import Event


@dataclass(frozen=True)
class UploadStarted(Event):
    """An upload starts. bytes: of all files."""

    repository: str
    files: int
    bytes: int


@dataclass(frozen=True)
class FileUploaded(Event):
    """A large file is in the hub's storage. done, total: bytes."""

    name: str
    bytes: int
    done: int
    total: int


@dataclass(frozen=True)
class Uploaded(Event):
    """The repository holds the files. unchanged: it held the same files before."""

    url: str
    commit: str
    private: bool
    unchanged: bool
