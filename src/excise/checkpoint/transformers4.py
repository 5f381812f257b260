"""What transformers 5 writes, readable by version 4 too: the keys of both stand side by side.

Version 4, and serving stacks built on it, do not know `rope_parameters` and take the default rotary base
without a word; they stop at `TokenizersBackend`. Version 5 reads the older keys as it reads its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from excise.checkpoint.json_files import read_object

Config = dict[str, Any]

_BACKEND, _FAST = "TokenizersBackend", "PreTrainedTokenizerFast"
_OF_THIS_MACHINE = ("backend", "is_local", "local_files_only")
"""What version 5 notes of how a tokenizer was loaded."""
_LAYER_KINDS = ("full_attention", "sliding_attention")


def add_version4_keys(folder: Path) -> list[str]:
    """Rewrite `config.json` and `tokenizer_config.json` of a folder that transformers 5 wrote.

    Returns what version 4 has no words for, one line each. Raises ModelError if a file is no JSON object.
    """
    unsaid: list[str] = []
    path = folder / "config.json"
    _write(path, config_for_both_versions(read_object(path), unsaid))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        _write(path, tokenizer_for_both_versions(read_object(path)))
    return unsaid


def config_for_both_versions(config: Mapping[str, Any], unsaid: list[str]) -> Config:
    """The content of a config.json with the older keys beside the newer ones.

    unsaid: is added to for what has no older key.
    """
    both = dict(config)
    if isinstance(dtype := both.get("dtype"), str):
        both.setdefault("torch_dtype", dtype)
    rotary = both.get("rope_parameters")
    if isinstance(rotary, dict):
        older = _older_rotary(rotary, str(both.get("model_type", "")))
        if older is None:
            kinds = ", ".join(sorted(rotary))
            unsaid.append(
                f"transformers 4 has no words for rotary positions of each kind of layer ({kinds}); it "
                "will not run this model rightly, transformers 5 does"
            )
        for key, value in (older or {}).items():
            both.setdefault(key, value)
    for key, inner in both.items():
        if key.endswith("_config") and isinstance(inner, dict):
            both[key] = config_for_both_versions(inner, unsaid)
    return both


def tokenizer_for_both_versions(config: Mapping[str, Any]) -> Config:
    """The content of a tokenizer_config.json that both versions read, beside a tokenizer.json."""
    both = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
    if both.get("tokenizer_class") == _BACKEND:
        # Version 5 has it as another name of the same class.
        both["tokenizer_class"] = _FAST
    if isinstance(both.get("extra_special_tokens"), list):
        # In version 4 that is a table; the list has the older name, which version 5 reads too.
        both.setdefault("additional_special_tokens", both.pop("extra_special_tokens"))
    return both


def _older_rotary(rotary: Config, model_type: str) -> Config | None:
    """Version 4's keys for `rope_parameters`; None if it has none."""
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
