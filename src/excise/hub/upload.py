"""Uploads a folder to the hub in one commit, so that readers never see half a model.

`upload_folder` of huggingface_hub splits a folder into several commits. Here `preupload_lfs_files` sends
the large files without a commit, and `create_commit` then adds all files at once. When an upload is repeated
after a failure, the client skips content that is already stored (with hf_xet also parts of files).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import CommitInfo, ModelInfo, RepoSibling
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from excise.errors import HubError
from excise.events import Emit, Note, StageStarted
from excise.hub.events import FileUploaded, Uploaded, UploadStarted
from excise.hub.folder import Upload
from excise.hub_access.failures import FAILURES, failure
from excise.hub_access.request import HubRequest
from excise.system.version import VERSION

_OWN_TO_THE_HUB = frozenset((".gitattributes",))
"""Files that the hub creates in every repository."""
_LARGE = 1_000_000
"""Bytes from which a file is uploaded separately, with an event; smaller files go with the commit."""


@dataclass(frozen=True)
class _Repository:
    """The state of a repository. head: its commit, if any. files: without those that the hub creates."""

    head: str | None
    private: bool
    files: dict[str, RepoSibling]


def upload(
    what: Upload,
    repository: str,
    token: str,
    emit: Emit,
    *,
    public: bool,
    replace: Callable[[str], bool],
) -> None:
    """Make `repository` hold exactly the files of `what`; a new repository is created.

    public: create a public repository, and allow upload to a public repository. replace: called with a
    message if the repository holds other files; returns whether to replace and remove them (they stay in the
    history). Raises HubError; nothing is visible then. The token is sent only to the hub.
    """
    sender = _Sender(HfApi(token=token, library_name="excise", library_version=VERSION), repository)
    with _quiet(emit):
        found = sender.repository_for(what, emit, public=public)
        with sender.step("comparing what it holds"):
            unchanged = bool(found.files) and _holds(found, what)
        commit = found.head or ""
        if not unchanged:
            if found.files and not replace(_holds_other_files(repository, found)):
                raise HubError(f"{_holds_other_files(repository, found)}; --force replaces them")
            commit = sender.send(what, found, emit)
    url = f"{sender.api.endpoint}/{repository}"
    emit(Uploaded(url, commit, found.private, unchanged))


@dataclass(frozen=True)
class _Sender:
    api: HfApi
    name: str

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Within the context, failures become a HubError that names the step."""
        try:
            yield
        except FAILURES as error:
            # The cause is dropped, because its request holds the token.
            asked = HubRequest(self.name, writes=True, stage=what, token=str(self.api.token))
            raise HubError(failure(error, asked).text) from None

    def repository_for(self, what: Upload, emit: Emit, *, public: bool) -> _Repository:
        """The state of the repository, which is created if it does not exist."""
        if self.name.count("/") != 1:
            raise HubError(f"{self.name}: not a repository name; write OWNER/NAME")
        with self.step("reading its state"):
            found = _existing(self.api, self.name)
        with self.step("checking README.md"):
            _check_card(what)
        if found is not None:
            if not (public or found.private):
                raise HubError(
                    f"{self.name} is public, and everybody will see what is uploaded; give --public if that "
                    "is intended, or choose another name"
                )
            if public and found.private:
                emit(Note(f"{self.name} stays private; its page on the hub can change that"))
            return found
        emit(StageStarted("upload", f"Creating {self.name} on the hub"))
        with self.step("creating it"):
            self.api.create_repo(self.name, private=not public)
            return _existing(self.api, self.name) or _Repository(None, not public, {})

    def send(self, what: Upload, found: _Repository, emit: Emit) -> str:
        """Upload and commit; returns the commit."""
        additions = [
            CommitOperationAdd(
                name, one if isinstance(one := what.source(name), bytes) else str(one)
            )
            for name in what.files
        ]
        total, done = sum(map(what.size, what.files)), 0
        emit(UploadStarted(self.name, len(additions), total))
        for addition in additions:
            name, size = addition.path_in_repo, what.size(addition.path_in_repo)
            if size < _LARGE:
                continue
            with self.step(f"uploading {name} (nothing is visible yet)"):
                self.api.preupload_lfs_files(self.name, [addition], free_memory=False)
            done += size
            emit(FileUploaded(name, size, done, total))
        removals = [CommitOperationDelete(name) for name in sorted(found.files.keys() - what.files)]
        with self.step("committing (nothing is visible yet)"):
            commit: CommitInfo = self.api.create_commit(
                self.name,
                [*removals, *additions],
                commit_message=f"Upload {what.made} edited by excise {VERSION}",
                parent_commit=found.head,
            )
        return commit.oid


def _check_card(what: Upload) -> None:
    """Let the hub validate the model card before large files are uploaded."""
    source = what.source("README.md")
    text = (source if isinstance(source, bytes) else source.read_bytes()).decode("utf-8-sig")
    try:
        card = ModelCard(text, ignore_metadata_errors=True)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"its front matter is not YAML: {error}") from error
    card.validate()


def _existing(api: HfApi, repository: str) -> _Repository | None:
    try:
        info: ModelInfo = api.model_info(repository, files_metadata=True)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None
    files = {one.rfilename: one for one in info.siblings or ()}
    return _Repository(
        info.sha,
        bool(info.private),
        {name: one for name, one in files.items() if name not in _OWN_TO_THE_HUB},
    )


def _holds(found: _Repository, what: Upload) -> bool:
    """True if the repository already has exactly these files; hashes them only if names and sizes agree."""
    if found.files.keys() != what.files.keys():
        return False
    if any(found.files[name].size != what.size(name) for name in what.files):
        return False
    return all(
        one.lfs.sha256 == what.sha256(name) if one.lfs else one.blob_id == what.git_hash(name)
        for name, one in found.files.items()
    )


def _holds_other_files(repository: str, found: _Repository) -> str:
    names = sorted(found.files)
    few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{repository} already holds {len(names)} other files ({few})"


@contextmanager
def _quiet(emit: Emit) -> Iterator[None]:
    """Within the context, the client shows no progress bars and logs; the hub's warnings become notes.

    Its log lines about retries contain signed URLs.
    """
    hidden, verbosity = are_progress_bars_disabled(), hub_logging.get_verbosity()
    disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if not hidden:
            enable_progress_bars()
        for one in caught:
            # Other warnings are from libraries about each other.
            if issubclass(one.category, UserWarning):
                emit(Note(" ".join(str(one.message).split())))
