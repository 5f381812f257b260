"""Makes the files that transformers 5 writes readable by transformers 4: adds the older keys.

Version 4, and serving engines built on it, ignore `rope_parameters` and silently use the default rotary base;
they refuse `TokenizersBackend`. Version 5 reads both forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from excise.errors import ModelError
from excise.system.json_files import read_json_object

Config = dict[str, Any]

_BACKEND, _FAST = "TokenizersBackend", "PreTrainedTokenizerFast"
_OF_THIS_MACHINE = ("backend", "is_local", "local_files_only")
"""Keys in which version 5 stores how a tokenizer was loaded."""
_LAYER_KINDS = ("full_attention", "sliding_attention")


def add_version4_keys(folder: Path) -> list[str]:
    """Rewrite `config.json` and `tokenizer_config.json` of a folder that transformers 5 wrote.

    Returns a line for each setting that version 4 cannot express. Raises ModelError for damaged JSON.
    """
    inexpressible: list[str] = []
    path = folder / "config.json"
    _write(path, config_for_both_versions(read_json_object(path, ModelError), inexpressible))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        _write(path, tokenizer_for_both_versions(read_json_object(path, ModelError)))
    return inexpressible


def config_for_both_versions(config: Mapping[str, Any], inexpressible: list[str]) -> Config:
    """The content of a config.json with older and newer keys.

    inexpressible: receives a line for each setting without an older key.
    """
    both = dict(config)
    if isinstance(dtype := both.get("dtype"), str):
        both.setdefault("torch_dtype", dtype)
    rotary = both.get("rope_parameters")
    if isinstance(rotary, dict):
        older = _older_rotary(rotary, str(both.get("model_type", "")))
        if older is None:
            kinds = ", ".join(sorted(rotary))
            inexpressible.append(
                f"transformers 4 has no setting for rotary positions by kind of layer ({kinds}) and will not "
                "run this model correctly; transformers 5 does"
            )
        for key, value in (older or {}).items():
            both.setdefault(key, value)
    for key, inner in both.items():
        if key.endswith("_config") and isinstance(inner, dict):
            both[key] = config_for_both_versions(inner, inexpressible)
    return both


def tokenizer_for_both_versions(config: Mapping[str, Any]) -> Config:
    """The content of a tokenizer_config.json that both versions read."""
    both = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
    if both.get("tokenizer_class") == _BACKEND:
        # In version 5, this is another name of the same class.
        both["tokenizer_class"] = _FAST
    if isinstance(both.get("extra_special_tokens"), list):
        # In version 4 this key is a table; the list has an older name, which version 5 reads too.
        both.setdefault("additional_special_tokens", both.pop("extra_special_tokens"))
    return both


def _older_rotary(rotary: Config, model_type: str) -> Config | None:
    """Version 4's keys for `rope_parameters`; None if version 4 cannot express them."""
    if any(isinstance(one, dict) for one in rotary.values()):
        kinds = {kind: one for kind, one in rotary.items() if isinstance(one, dict)}
        if all(one == next(iter(kinds.values())) for one in kinds.values()):
            return _older_rotary(next(iter(kinds.values())), model_type)
        if not model_type.startswith("gemma3") or set(kinds) != set(_LAYER_KINDS):
            return None
        whole, sliding = (kinds[kind] for kind in _LAYER_KINDS)
        return {**_flat(whole), "rope_local_base_freq": sliding.get("rope_theta")}
    return _flat(rotary)


def _flat(rotary: Config) -> Config:
    own = ("rope_theta", "partial_rotary_factor")
    older: Config = {key: rotary[key] for key in own if rotary.get(key) is not None}
    scaling = {key: value for key, value in rotary.items() if key not in own}
    plain = scaling.get("rope_type", "default") == "default"
    older["rope_scaling"] = None if plain else scaling
    return older


def _write(path: Path, content: Config) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
