"""A trial's parameters as short text."""

from __future__ import annotations

from collections.abc import Mapping

from excise.search.space import DIRECTION_INDEX, REFUSAL_WEIGHT, RIDGE_INDEX, RIDGES, SCOPE

_POSITION = ".max_weight_position"
_SHORT = {"attn.o_proj": "attn", "mlp.down_proj": "mlp"}


def short(parameters: Mapping[str, object]) -> str:
    """`discriminant · ρ 0.01 · attn 1.00@14.5 →0.73±12 · mlp off`.

    For each component: highest strength @ its layer → strength at the kernel's edge ± distance of the edge in
    layers. A trial of the gradient search of former versions shows its weight of refusals.
    """
    parts: list[str] = [str(parameters["kind"])] if "kind" in parameters else []
    if RIDGE_INDEX in parameters:
        parts.append(f"ρ {RIDGES[int(_number(parameters, RIDGE_INDEX))]:.2g}")
    if SCOPE in parameters:
        shared = parameters[SCOPE] == "global"
        parts.append(f"layer {_number(parameters, DIRECTION_INDEX):.1f}" if shared else "per layer")
    if REFUSAL_WEIGHT in parameters:
        parts.append(f"by gradients, weight {_number(parameters, REFUSAL_WEIGHT):.2g}")
    for name in parameters:
        if name.endswith(_POSITION):
            whole = name.removesuffix(_POSITION)
            component = whole.partition(".")[2]
            parts.append(f"{_SHORT.get(component, component)} {_kernel(parameters, whole)}")
    return " · ".join(parts)


def _kernel(parameters: Mapping[str, object], component: str) -> str:
    peak = _number(parameters, f"{component}.max_weight")
    if peak <= 0:
        return "off"
    position = _number(parameters, f"{component}{_POSITION}")
    edge = peak * _number(parameters, f"{component}.min_weight_fraction")
    distance = _number(parameters, f"{component}.min_weight_distance")
    return f"{peak:.2f}@{position:.1f} →{edge:.2f}±{distance:.0f}"


def _number(parameters: Mapping[str, object], name: str) -> float:
    value = parameters[name]
    assert isinstance(value, int | float)
    return value
