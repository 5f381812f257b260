"""What excise uses beside documented interfaces: in one module, there in this version, and capped."""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import optuna
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from packaging.requirements import Requirement
from transformers import PreTrainedModel

import excise

SOURCES = Path(excise.__file__).parent
LIST = SOURCES / "undocumented.py"
"""Parsed and not imported, so that a version that lacks several names has all of them told."""

UNDOCUMENTED = (
    "torch._",
    "torch.utils._",
    "torchao.prototype",
    "torchao.quantization.quantize_",
    "transformers.conversion_mapping",
    "transformers.core_model_loading",
    "transformers.initialization",
    "transformers.integrations",
    "transformers.modeling_gguf",
    "transformers.models.",
    "transformers.quantizers.",
)
"""Modules that no documentation names, by the beginning of their name."""


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a file imports from somewhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, one.name) for one in node.names)


def elsewhere() -> list[tuple[str, str]]:
    (found,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(LIST.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ELSEWHERE"
    )
    return list(found)


def test_every_name_is_there_in_the_installed_version() -> None:
    wanted = [*imported(LIST), *elsewhere()]
    assert len(wanted) > 15
    lacking = [f"{module}.{name}" for module, name in wanted if not _has(module, name)]
    assert lacking == []


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def test_every_private_attribute_is_there_in_the_installed_version() -> None:
    from transformers.core_model_loading import revert_weight_conversion

    linear = torch.nn.Linear(2, 2)
    hook = ModelHook()
    add_hook_to_module(linear, hook)
    found = {
        "torch.ops.mkldnn._reorder_linear_weight": hasattr(
            torch.ops.mkldnn, "_reorder_linear_weight"
        ),
        "torch.ops.mkldnn._linear_pointwise": hasattr(torch.ops.mkldnn, "_linear_pointwise"),
        "torch._mkldnn": hasattr(torch, "_mkldnn"),
        "UntypedStorage._checkpoint_offset": hasattr(torch.UntypedStorage, "_checkpoint_offset"),
        "Module._hf_hook": getattr(linear, "_hf_hook", None) is hook,
        "FrozenTrial._trial_id": hasattr(optuna.trial.create_trial(value=0.0), "_trial_id"),
        "PreTrainedModel._is_stateful": hasattr(PreTrainedModel, "_is_stateful"),
        "PreTrainedModel._weight_conversions": "_weight_conversions"
        in inspect.getsource(revert_weight_conversion),
    }
    assert [name for name, there in found.items() if not there] == []
    text = LIST.read_text(encoding="utf-8")
    attributes = {name.rpartition(".")[2] for name in found}
    assert attributes == {one for _, one in private_uses(ast.parse(text), set())}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_uses(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of attributes that begin with one underscore and are none of ours."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
        ):
            literal = node.args[1]
            name = literal.value if isinstance(literal, ast.Constant) else None
        if isinstance(name, str) and _is_private(name) and name not in own:
            yield node.lineno, name


def test_no_other_module_uses_what_is_not_documented() -> None:
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in SOURCES.rglob("*.py")
        if path != LIST
    }
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in _defined(node)}
    found = [
        f"{path.relative_to(SOURCES)}:{line}: {name}"
        for path, tree in trees.items()
        for line, name in private_uses(tree, own)
    ]
    found += [
        f"{path.relative_to(SOURCES)}: {module}.{name}"
        for path in trees
        for module, name in imported(path)
        if module.startswith(UNDOCUMENTED) or _is_private(name)
    ]
    assert found == []


def _defined(node: ast.AST) -> Iterator[str]:
    """Names of attributes that a node of our own sources makes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for one in ast.walk(target):
                if isinstance(one, ast.Name):
                    yield one.id
                elif isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self":
                    yield one.attr


def test_a_library_whose_undocumented_interfaces_are_used_is_capped() -> None:
    project = SOURCES.parents[1] / "pyproject.toml"
    if not project.is_file():
        pytest.skip("excise is installed, not run from its sources")
    content = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    listed = [*content["dependencies"], *content["optional-dependencies"]["quantized"]]
    capped = {
        one.name
        for one in map(Requirement, listed)
        if any(bound.operator in ("<", "<=", "==") for bound in one.specifier)
    }
    listed_modules = [module for module, _ in [*imported(LIST), *elsewhere()]]
    used = {one.partition(".")[0] for one in listed_modules if one.startswith(UNDOCUMENTED)}
    assert used == {"transformers", "torch", "torchao"}
    # Of these, attributes alone are used, see the test of attributes.
    assert used | {"accelerate", "optuna"} <= capped
