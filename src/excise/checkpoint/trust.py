"""Refuses dangerous content of a model's folder: remote code, adapters, damaged files, absurd settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from excise.checkpoint.folder import weight_files
from excise.checkpoint.index import file_shapes
from excise.checkpoint.source import ModelSource
from excise.errors import ModelError
from excise.system.json_files import read_json_object
from excise.undocumented import CONFIG_MAPPING_NAMES

_CONFIGURATIONS = ("config.json", "tokenizer_config.json")
_GENERATE = "custom_generate/generate.py"
_ADAPTER = "adapter_config.json"
_MOST_LAYERS = 10_000
"""Far more layers than any model has. Each layer is built as Python objects before weights are read."""


def remote_code_in(folder: Path) -> list[str]:
    """The remote code that a model names: `file.Class`, or `owner/name--file.Class`. Raises ModelError."""
    found: list[str] = []
    for name in _CONFIGURATIONS:
        path = folder / name
        named = read_json_object(path, ModelError).get("auto_map") if path.is_file() else None
        values = named.values() if isinstance(named, Mapping) else ()
        for value in values:
            found += [str(one) for one in (value if isinstance(value, list) else [value]) if one]
    if (folder / _GENERATE).is_file():
        found.append(_GENERATE)
    return sorted(set(found))


def remote_code_of(source: ModelSource) -> str:
    """A model's remote code and its commit, for people; empty without remote code."""
    found = remote_code_in(source.folder)
    commit = f" (commit {source.revision})" if source.revision and found else ""
    return ", ".join(found) + commit


def remote_code_error(name: str, folder: Path) -> ModelError:
    """The error for remote code that the user has not allowed."""
    code = ", ".join(remote_code_in(folder)) or "named in its configuration"
    return ModelError(
        f"{name} comes with remote code ({code}); read it, and give trust_remote_code (--trust-remote-code) "
        "to run it"
    )


def require_trust(name: str, folder: Path, *, trust_remote_code: bool) -> None:
    """Raise ModelError for remote code that the user has not allowed, and for an absurd configuration.

    Remote code is a model class that transformers does not have, or a compiled kernel from the hub.
    """
    config = read_json_object(folder / "config.json", ModelError)
    for place, value in _settings_of(config):
        key = place.rpartition(".")[2]
        if key.strip("_").endswith("_implementation") and not trust_remote_code:
            for kernel in _kernels(value):
                raise ModelError(
                    f"{folder / 'config.json'}: {place} names a kernel, {kernel}, which is code from the "
                    "hub; remove the line, or give trust_remote_code (--trust-remote-code) to run it"
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
    """Raise ModelError if the weights are damaged, or if transformers would load other files.

    transformers would apply an adapter in the folder, or load the adapter's base model, and would follow an
    index into other folders. Files that transformers does not load are not checked.
    """
    if source.gguf is not None:
        from excise.checkpoint.gguf_file import require_sound

        require_sound(source.folder / source.gguf)
        return
    if (source.folder / _ADAPTER).exists():
        raise ModelError(
            f"{source.name}: holds an adapter beside the model ({_ADAPTER}), and transformers would load the "
            "adapter, perhaps with another base model; merge the adapter, or move it away"
        )
    for name in weight_files(source.folder)[0]:
        file_shapes(source.folder / name)


def require_offload_folder(folder: Path) -> None:
    """Raise ModelError if offloading could overwrite files that are not offloaded weights."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError("is not a folder", setting="offload_folder", value=folder)
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.suffix not in (".safetensors", ".dat"):
            raise ModelError(
                f"holds {path.name}, which is not an offloaded weight and may be overwritten; give an empty "
                "folder",
                setting="offload_folder",
                value=folder,
            )


def _settings_of(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every entry of a nested configuration: its dotted key and its value."""
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _settings_of(value, f"{prefix}{key}.")


def _kernels(value: object) -> list[str]:
    """The repositories of kernels that an attention implementation (one, or one for each part) names."""
    values = value.values() if isinstance(value, Mapping) else (value,)
    return [one for one in values if isinstance(one, str) and "/" in one]
