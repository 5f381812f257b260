"""Greedy decoding of many prompts, of one candidate or of several side by side.

Equal to `model.generate(do_sample=False)` token for token (float32), where the generation configuration
asks for nothing but end tokens: penalties, forced and forbidden tokens are not followed. A row leaves as
soon as it has ended or the stopping_rule says that nothing it could still say matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from excise.engine.answers import Request, StoppingRule
from excise.engine.assignment import ONE_CANDIDATE, Assignment, AssignRows
from excise.engine.capability import slots_are_exact
from excise.engine.plain import PlainScheduler
from excise.engine.prefill import Tokens
from excise.engine.scheduler import SlotScheduler


class Scheduler(Protocol):
    """Where rows of all who are asked decode together."""

    def ready(self, prompts: int) -> bool:
        """True if somebody who is asked so many prompts would begin at once and keep nobody waiting."""

    def add(self, request: Request) -> None:
        """Let these prompts be answered too."""

    def step(self) -> None:
        """Take the answers one step on. Does nothing if there is nothing to answer."""


def scheduler_for(
    model: PreTrainedModel,
    slots: int,
    longest: int,
    assign_rows: AssignRows = ONE_CANDIDATE.assign_rows,
) -> Scheduler:
    """A scheduler for rows of up to `longest` tokens, prompt and answer: of slots if the model allows them.

    slots: rows decoded at a time. assign_rows: called before every pass with the candidate of each row.
    """
    if slots_are_exact(model):
        return SlotScheduler(model, slots, longest, assign_rows)
    return PlainScheduler(model, slots, assign_rows)


def greedy(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    *,
    max_new_tokens: int,
    slots: int,
    stopping_rule: StoppingRule | None = None,
    assignment: Assignment = ONE_CANDIDATE,
) -> list[list[int]]:
    """The greedy answer to each prompt, as token ids, the end-of-turn token included.

    slots: rows decoded at a time. stopping_rule: says which rows are worth going on with, by default all; a row
    that was never begun has an empty answer. assignment: whose the prompts are. The token is the largest
    logit's, whatever penalties the model's generation configuration asks for. Raises TrialError if a logit
    is not a number.
    """
    if not prompts:
        return []
    request = Request(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        stopping_rule=stopping_rule,
        assignment=assignment,
    )
    answer(model, [request], slots)
    return request.tokens


def answer(model: PreTrainedModel, sets: Sequence[Request], slots: int) -> None:
    """Answer sets of prompts side by side, all of one candidate, to their end.

    Raises TrialError if a logit is not a number.
    """
    if not sets:
        return
    slots = min(slots, sum(len(request.prompts) for request in sets))
    longest = max(request.longest for request in sets)
    scheduler = scheduler_for(model, slots, longest, sets[0].assignment.assign_rows)
    for request in sets:
        scheduler.add(request)
    while not all(request.done for request in sets):
        scheduler.step()
    for request in sets:
        if request.failure is not None:
            raise request.failure
