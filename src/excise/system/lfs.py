"""Git LFS pointers: small text files in place of large files that were not downloaded."""

from __future__ import annotations

from pathlib import Path

from excise.errors import ExciseError, first_line

_POINTER = b"version https://git-lfs.github.com/spec/"


def require_fetched(path: Path, to: type[ExciseError]) -> None:
    """Raise `to` if the file is a Git LFS pointer or cannot be opened."""
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
    except OSError as error:
        raise to(f"{path}: cannot be read ({first_line(error)})") from error
    if beginning == _POINTER:
        raise to(
            f"{path}: is a Git LFS pointer in place of the file; download the file with: git lfs pull"
        )
