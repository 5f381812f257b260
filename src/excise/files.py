"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from excise.errors import SaveError

FurtherFiles = Callable[[Path], Mapping[str, str]]
"""Given a new folder before it takes its name, whole but for them: texts of further files, by name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well.

    Raises SaveError, with the system's reason, if it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise SaveError(
            f"{path}: could not be written ({error}); nothing was left behind"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_free(path: Path) -> None:
    """Raise SaveError if `path` exists and is not an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SaveError(f"{path}: already exists and is not empty; choose another name")


def next_free(path: Path) -> Path:
    """The first of path-2, path-3, … that does not exist."""
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well.

    Raises SaveError if `path` exists and is not an empty folder, or if anything cannot be written (a
    full disk, say); nothing half-written is left under either name.
    """
    require_free(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        )
        yield temporary
        # mkdtemp makes folders that only their owner can read; a model is made to be shared.
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise SaveError(
            f"{path}: could not be written ({error}); nothing was left behind"
        ) from error
    finally:
        if temporary is not None and temporary.exists():
            shutil.rmtree(temporary)
