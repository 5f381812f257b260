"""What a decoding step brings to the host: the tokens, once, with what tells that they are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from conftest import Thirds, random_prompts, tiny_model
from excise.anatomy.writers import examine
from excise.edits.virtual import VirtualEdits
from excise.engine.answers import NO_TOKEN, Request, greedy_tokens
from excise.engine.assignment import Assignment
from excise.engine.decode import scheduler_for
from spread import spread
from test_cached_layers import late_edits
from virtual_devices import Crossings, VirtualDevices
from zoo import tiny

PROMPTS = random_prompts(9)
TOKENS = 6


def one_device(model: PreTrainedModel) -> PreTrainedModel:
    return model.to("cuda")


def two_devices(model: PreTrainedModel) -> PreTrainedModel:
    return spread(model, 0, 1)


def steps(
    model: PreTrainedModel, devices: VirtualDevices
) -> tuple[list[Crossings], list[Sequence[int]]]:
    """What crossed in each step of two candidates' rows side by side, and what was said."""
    anatomy = examine(model)
    seen: list[Crossings] = []
    with VirtualEdits(model, anatomy.names) as scope:
        scope.use_several(late_edits(anatomy, 0, 2))
        scheduler = scheduler_for(model, 2 * len(PROMPTS), 40, scope.assign)
        requests = [
            Request(
                model,
                PROMPTS,
                max_new_tokens=TOKENS,
                stopping_rule=Thirds(),
                assignment=Assignment(candidate, scope.assign),
            )
            for candidate in range(2)
        ]
        for each in requests:
            scheduler.add(each)
        while not all(each.done for each in requests):
            with devices.watched() as crossed:
                scheduler.step()
            seen.append(crossed)
    return seen, [tokens for each in requests for tokens in each.tokens]


@pytest.mark.parametrize("place", [one_device, two_devices])
def test_a_step_of_mixed_candidates_brings_one_tensor_to_the_host(place) -> None:  # type: ignore[no-untyped-def]
    with VirtualDevices(2) as devices:
        seen, _ = steps(place(tiny_model()), devices)
    # The first one runs prompts too, whose first tokens come to the host group by group.
    assert len(seen) >= 3
    assert len(seen[0].to_host) <= len(PROMPTS)
    copied = "aten._to_copy.default"
    # Between GPUs numbers go on their own; to the host they come once.
    assert [one.to_host for one in seen[1:]] == [[copied]] * len(seen[1:])
    assert all(one.waits == [] for one in seen)


def test_a_group_of_generate_reads_its_tokens_once_a_step() -> None:
    with VirtualDevices() as devices:
        model = tiny("mamba").to("cuda")
        request = Request(model, [[5, 6, 7]] * 3, max_new_tokens=TOKENS)
        scheduler = scheduler_for(model, 3, 20)
        scheduler.add(request)
        with devices.watched() as seen:
            scheduler.step()
        assert request.done
    # One is ours; the other is `generate`'s own, which looks whether all rows are done. Two come before them.
    assert seen.to_host.count("aten._to_copy.default") == TOKENS
    assert len(seen.to_host) <= 2 * TOKENS + 2


def test_the_largest_logit_says_whether_it_is_a_number() -> None:
    nothing, endless = float("nan"), float("inf")
    logits = torch.tensor(
        [[1.0, 3.0, 2.0], [nothing, 3.0, 2.0], [1.0, endless, 2.0], [-endless, 1.0, 0.0]]
    )
    assert greedy_tokens(logits).tolist() == [1, NO_TOKEN, NO_TOKEN, 1]
