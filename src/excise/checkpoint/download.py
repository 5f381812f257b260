"""Downloads a model from the hub: one set of weights and the small files, nothing else.

Repositories often hold the weights several times: in the maker's own format, for other libraries, quantised.
The index or the list of files shows which of them transformers loads.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import logging as hub_logging

from excise.checkpoint.copies import Shape, Shapes, group_of, is_copy, shapes_of
from excise.checkpoint.folder import first_set, index_names, weight_files
from excise.checkpoint.tensors import ORDINARY, read_safetensors
from excise.errors import HubError, ModelError
from excise.hub_access.cache import Snapshot, cached_names, cached_snapshot
from excise.hub_access.failures import FAILURES, disk_full, failure, free_bytes
from excise.hub_access.request import OUT_OF_REACH, Cause, HubRequest

_TIMEOUT = 20.0
"""Seconds to wait for the hub before turning to the cache."""
_SMALL = (
    *("json", "jsonl", "txt", "md", "rst", "yaml", "yml", "toml", "cfg", "pdf"),
    *("model", "jinja", "jinja2", "tiktoken", "vocab", "bpe", "spm", "tok", "merges"),
)
"""Suffixes of files for people, tokenizers, templates and processors."""
_NAMED = ("license*", "licence*", "notice*", "copying*", "*policy*", "readme*", "*terms*")
"""Files for people, with any suffix or none."""
_TEMPLATES = "additional_chat_templates/*.jinja"
_ORIGINAL_FORMAT = "consolidated*"
_CACHE_SERVES: frozenset[Cause] = OUT_OF_REACH | {"token", "gated", "repository"}
"""Failures after which a completely cached model is used."""


def download(name: str, revision: str | None, *, weights: bool, code: bool) -> Snapshot:
    """Download a model into the hub's cache; cached files are not downloaded again.

    code: whether to download the model's Python files. If the hub is out of reach, a complete cached copy is
    used. Raises ModelError for an unknown model or revision and for a model without readable weights,
    HubError for other failures.
    """
    request = HubRequest(name, "model", revision)
    repository: _Repository | None = None
    try:
        with _no_log_lines():
            repository = _repository(name, revision)
            repository.fetch(small_files(repository.sizes, code=code))
            if weights:
                repository.fetch_weights()
            repository.remember(revision)
    except FAILURES as error:
        found = failure(error, request if repository is None else repository.request)
        if repository is None and found.cause in _CACHE_SERVES:
            snapshot = cached_snapshot(name, "model", revision)
            if snapshot is not None and is_whole(snapshot.folder, weights=weights):
                return snapshot
        if found.cause in ("repository", "revision"):
            raise ModelError(found.text) from None
        if found.cause in OUT_OF_REACH:
            names = ", ".join(cached_names("model")) or "none"
            raise HubError(
                f"{found.text}; no folder of that name is here; models in the cache: {names}"
            ) from None
        raise HubError(found.text) from None
    return Snapshot(repository.commit, repository.folder)


def is_whole(folder: Path, *, weights: bool) -> bool:
    """False for an interrupted download: small files are downloaded first, weights after them."""
    try:
        return (folder / "config.json").is_file() and bool(not weights or weight_files(folder))
    except ModelError:
        return False


def small_files(names: Collection[str], *, code: bool) -> list[str]:
    """The text files of the top folder, and the chat templates."""
    patterns = (*(f"*.{ending}" for ending in _SMALL), *_NAMED)
    found = set(fnmatch.filter(names, _TEMPLATES))
    for name in names:
        if "/" in name or name.startswith("."):
            continue
        if name.lower().endswith(".py"):
            found.update([name] if code else ())
        elif any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns):
            found.add(name)
    return sorted(found)


def main_files(name: str, names: Collection[str]) -> tuple[list[str], str | None]:
    """The weights that transformers loads, or their index. Raises ModelError if there are no weights."""
    main, index = first_set(sorted(one for one in names if "/" not in one))
    if main or index is not None:
        return main, index
    if ggufs := [one for one in names if one.endswith(".gguf")]:
        raise ModelError(
            f"{name}: holds GGUF files only; download one (hf download {name} {ggufs[0]}) and give its path"
        )
    raise ModelError(
        f"{name}: holds no weights in a format that excise reads (*.safetensors, pytorch_model*.bin)"
    )


@dataclass(frozen=True)
class _Repository:
    """A commit of a repository. sizes: bytes of its files, by name."""

    name: str
    commit: str
    sizes: dict[str, int]

    @property
    def folder(self) -> Path:
        """The snapshot's folder in the cache."""
        repository = "--".join(("models", *self.name.split("/")))
        return Path(constants.HF_HUB_CACHE) / repository / "snapshots" / self.commit

    @property
    def request(self) -> HubRequest:
        """The request, for messages."""
        return HubRequest(self.name, "model", self.commit, stage="downloading it")

    def fetch(self, names: Sequence[str]) -> None:
        """Download files. Raises HubError if the disk has no room for them."""
        lacking = [
            name
            for name in names
            if not isinstance(try_to_load_from_cache(self.name, name, revision=self.commit), str)
        ]
        if not lacking:
            return
        # Interrupted downloads are continued.
        incomplete = (self.folder.parent.parent / "blobs").glob("*.incomplete")
        needed = sum(self.sizes[name] for name in lacking)
        needed -= sum(path.stat().st_size for path in incomplete)
        if needed > free_bytes(self.folder):
            raise HubError(f"{self.name}: {disk_full(needed)}")
        # snapshot_download takes patterns, and file names may contain brackets.
        patterns = [glob.escape(name) for name in names]
        snapshot_download(self.name, revision=self.commit, allow_patterns=patterns)

    def fetch_weights(self) -> None:
        """Download the weights, and files with further tensors, such as a draft head."""
        main, index = main_files(self.name, self.sizes)
        if index is not None:
            path = Path(hf_hub_download(self.name, index, revision=self.commit))
            main = index_names(path)
            if absent := [name for name in main if name not in self.sizes]:
                raise ModelError(f"{self.name}: its {index} names {absent[0]}, which is missing")
        self.fetch(main)
        half = sum(self.sizes[name] for name in main) / 2
        others = [
            name
            for name in fnmatch.filter(self.sizes, "*.safetensors")
            if "/" not in name and name not in main and not fnmatch.fnmatch(name, _ORIGINAL_FORMAT)
            # A file of half the weights' size or more is a copy: its header is not read.
            if self.sizes[name] < half
        ]
        if others:
            self.fetch(list(self._with_further_tensors(others)))

    def _with_further_tensors(self, names: Sequence[str]) -> Iterator[str]:
        """The files that hold other tensors than the weights; reads only their headers."""
        model: dict[str, Shape] = {}
        for name in weight_files(self.folder)[0]:
            if name.endswith(".safetensors"):
                model |= shapes_of(read_safetensors(self.folder / name))
        groups: dict[object, dict[str, Shapes]] = {}
        for name in names:
            try:
                found = HfApi().parse_safetensors_file_metadata(
                    self.name, name, revision=self.commit
                )
            except (NotASafetensorsRepoError, SafetensorsParsingError):
                continue  # A damaged file is not downloaded.
            if found.tensors:
                groups.setdefault(group_of(Path(name)), {})[name] = {
                    tensor: Shape(one.dtype in ORDINARY, tuple(one.shape))
                    for tensor, one in found.tensors.items()
                }
        for files in groups.values():
            if not is_copy(model, list(files.values())):
                yield from files

    def remember(self, revision: str | None) -> None:
        """Record the branch's or tag's commit in the cache, for the hub's client when it is offline.

        Files were requested by commit, because a branch may move between two requests.
        """
        if revision == self.commit:
            return
        path = self.folder.parent.parent / "refs" / (revision or constants.DEFAULT_REVISION)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.commit, encoding="utf-8")


def _repository(name: str, revision: str | None) -> _Repository:
    """Commit and file sizes, from the hub."""
    api = HfApi()
    commit = api.model_info(name, revision=revision, timeout=_TIMEOUT).sha
    if commit is None:
        raise HubError(f"{name}: the hub reports no commit for it; try again later")
    sizes = {
        one.path: one.size
        for one in api.list_repo_tree(name, recursive=True, revision=commit)
        if isinstance(one, RepoFile)
    }
    return _Repository(name, commit, sizes)


@contextmanager
def _no_log_lines() -> Iterator[None]:
    """Within the context, the client logs no retries: its log lines contain signed URLs."""
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
