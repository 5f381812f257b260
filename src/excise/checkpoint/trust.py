"""What a model's folder may bring beside numbers, and what of it is refused: it comes from somebody else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from excise.checkpoint.folder import weight_files
from excise.checkpoint.json_files import read_object
from excise.checkpoint.pytorch_file import pytorch_shapes
from excise.checkpoint.source import ModelSource
from excise.checkpoint.tensors import read_safetensors
from excise.errors import ModelError
from excise.undocumented import CONFIG_MAPPING_NAMES

_CONFIGURATIONS = ("config.json", "tokenizer_config.json")
_GENERATE = "custom_generate/generate.py"
_ADAPTER = "adapter_config.json"
_MOST_LAYERS = 10_000
"""More than any model has by far. Each is built as Python objects, before a number is read."""


def remote_code_in(folder: Path) -> list[str]:
    """The code that a model brings, as its files name it: `file.Class`, or `owner/name--file.Class`.

    Raises ModelError for a configuration that cannot be read.
    """
    found: list[str] = []
    for name in _CONFIGURATIONS:
        path = folder / name
        named = read_object(path).get("auto_map") if path.is_file() else None
        values = named.values() if isinstance(named, Mapping) else ()
        for value in values:
            found += [str(one) for one in (value if isinstance(value, list) else [value]) if one]
    if (folder / _GENERATE).is_file():
        found.append(_GENERATE)
    return sorted(set(found))


def remote_code_of(source: ModelSource) -> str:
    """The code that a model brings and where from, in words; empty if it brings none."""
    found = remote_code_in(source.folder)
    commit = f" (commit {source.revision})" if source.revision and found else ""
    return ", ".join(found) + commit


def remote_code_error(name: str, folder: Path) -> ModelError:
    """The refusal to run what `remote_code_in` names."""
    code = ", ".join(remote_code_in(folder)) or "named in its configuration"
    return ModelError(
        f"{name} brings code of its own ({code}); read it, and give --trust-remote-code to run it"
    )


def require_trust(name: str, folder: Path, *, trust_remote_code: bool) -> None:
    """Raise ModelError if code would run, and the user has not allowed it; or for an absurd configuration.

    Code is a class that transformers does not have, or a compiled kernel out of the hub for one that it has.
    """
    config = read_object(folder / "config.json")
    for place, value in _settings_of(config):
        key = place.rpartition(".")[2]
        if key.strip("_").endswith("_implementation") and not trust_remote_code:
            for kernel in _kernels(value):
                raise ModelError(
                    f"{folder / 'config.json'}: {place} names a kernel, {kernel}, which is code out of the "
                    "hub; take the line out, or give --trust-remote-code to run it"
                )
        if "layer" in key and type(value) is int and value > _MOST_LAYERS:
            raise ModelError(
                f"{folder / 'config.json'}: {place} is {value}, and no model has more than {_MOST_LAYERS:,} "
                "layers; the file is damaged"
            )
    known = str(config.get("model_type")) in CONFIG_MAPPING_NAMES
    if "auto_map" in config and not trust_remote_code and not known:
        raise remote_code_error(name, folder)


def require_sound_files(source: ModelSource) -> None:
    """Raise ModelError if weights of `source` are damaged, or transformers would load something else.

    So it does with an adapter beside them: of its base model, wherever that is, or put upon these; and with
    an index that names files of other folders. Of a GGUF file it would load more than the file holds. Files
    that it does not load are not looked at.
    """
    if source.gguf is not None:
        from excise.checkpoint.gguf_file import require_sound

        require_sound(source.folder / source.gguf)
        return
    if (source.folder / _ADAPTER).exists():
        raise ModelError(
            f"{source.name}: holds an adapter beside the model ({_ADAPTER}), which transformers would load "
            "with it, and its base model from wherever it names; merge the two, or move the adapter away"
        )
    for name in weight_files(source.folder)[0]:
        path = source.folder / name
        if path.suffix.lower() == ".safetensors":
            read_safetensors(path)
        else:
            # Its pickle is read here once: what could run code is named, and not opened.
            pytorch_shapes(path)


def require_offload_folder(folder: Path) -> None:
    """Raise ModelError if offloaded weights could write over what is no offloaded weight."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"--offload-folder {folder}: is no folder")
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.suffix not in (".safetensors", ".dat"):
            raise ModelError(
                f"--offload-folder {folder}: holds {path.name}, which is no offloaded weight and may be "
                "written over; give an empty folder"
            )


def _settings_of(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every entry of a configuration and of those inside it: its place, and what it is."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _settings_of(value, f"{prefix}{key}.")


def _kernels(value: object) -> list[str]:
    """The repositories in the name of an implementation, or of several by part of the model."""
    values = value.values() if isinstance(value, Mapping) else (value,)
    return [one for one in values if isinstance(one, str) and "/" in one]
