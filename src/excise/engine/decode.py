"""Greedy decoding of many prompts, of one candidate or of several side by side.

Equal to `model.generate(do_sample=False)` token for token (float32), if the generation configuration sets
nothing but end tokens: penalties, forced and forbidden tokens are ignored. A sequence leaves as soon as it
has ended or its stopping rule stops it.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from excise.engine.answers import Request, StoppingRule
from excise.engine.assignment import ONE_CANDIDATE, Assignment, AssignRows
from excise.engine.capability import slots_are_exact
from excise.engine.plain import PlainScheduler
from excise.engine.prefill import Tokens
from excise.engine.scheduler import Scheduler, SlotScheduler


def scheduler_for(
    model: PreTrainedModel,
    slots: int,
    longest: int,
    assign_rows: AssignRows = ONE_CANDIDATE.assign_rows,
) -> Scheduler:
    """A scheduler for sequences of up to `longest` tokens, prompt and answer.

    slots: sequences that decode at a time. assign_rows: called before every forward pass with the candidate
    of each row.
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

    slots: sequences that decode at a time. stopping_rule: decides which answers go on, by default all; an
    answer that never started is empty. assignment: the candidate that the prompts belong to. Each token is
    that of the largest logit, whatever penalties the model's generation configuration sets. Raises TrialError
    if a logit is not finite.
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
    run_requests(model, [request], slots)
    return request.tokens


def run_requests(model: PreTrainedModel, requests: Sequence[Request], slots: int) -> None:
    """Answer requests side by side, all of one candidate, to their end.

    Raises TrialError if a logit is not finite.
    """
    if not requests:
        return
    slots = min(slots, sum(len(request.prompts) for request in requests))
    longest = max(request.longest for request in requests)
    scheduler = scheduler_for(model, slots, longest, requests[0].assignment.assign_rows)
    for request in requests:
        scheduler.add(request)
    while not all(request.done for request in requests):
        scheduler.step()
    for request in requests:
        if request.failure is not None:
            raise request.failure
