"""Descent on the strengths of all writers, and the trade-off weights that a sweep goes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from excise.search.front import Point

HIGHEST = 1.5
"""Strengths stay between 0 and this overshoot."""
WEIGHTS = (0.02, 1.0)
"""Least and largest weight of refusals against KL, in nats."""
_RATE = 0.08


def descend(loss: Callable[[Tensor, int], float], start: Tensor, steps: int) -> Tensor:
    """Strengths [writer] after `steps` of Adam (Kingma and Ba 2014, arXiv 1412.6980), inside their range.

    loss: called with strengths that want a gradient and the step's number; it has to call `backward`.
    The learning rate falls along a cosine to a tenth.
    """
    strengths = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([strengths], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, _RATE / 10)
    for step in range(steps):
        optimiser.zero_grad()
        loss(strengths, step)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            strengths.clamp_(0.0, HIGHEST)
    return strengths.detach()


def weight(number: int) -> float:
    """The weight of the sweep's trial `number`, evenly spread on a logarithmic scale however many there are.

    Source: van der Corput 1935, the sequence of base 2.
    """
    share, scale, number = 0.0, 0.5, number + 1
    while number:
        share += scale * (number % 2)
        number, scale = number // 2, scale / 2
    low, high = map(math.log, WEIGHTS)
    return math.exp(low + share * (high - low))


def scalarised(kl: float, refused: float, weight: float) -> float:
    """KL − w·log(1 − share refused): what a trade-off weight makes of a trial; less is better."""
    return kl - weight * math.log1p(-min(refused, 1 - 1e-3))


def best_start(points: Sequence[Point], prompts: int, weight: float) -> Point:
    """The finished trial that is best at this weight."""
    return min(
        points,
        key=lambda point: (scalarised(point.kl, point.refusals / prompts, weight), point.number),
    )
