"""Log-likelihoods of given continuations of prompts: one for each prompt, or several that share its pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from excise.devices.memory import input_device
from excise.devices.transfers import as_float64
from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.capability import slots_are_exact
from excise.engine.distributions import distributions
from excise.engine.prefill import Group, Prefill, Tokens, all_finite, gather_finite


@torch.inference_mode()
def likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    limit: int,
    assignment: Assignment = ONE_CANDIDATE,
) -> list[Tensor]:
    """The log-likelihood of each token of a continuation of each prompt: [token] float64, nats, on the host.

    limit: prompts in a forward pass. Raises TrialError if a logit is not finite.
    """
    found: dict[int, Tensor] = {}
    finite: list[Tensor] = []
    for group in distributions(
        model, prompts, limit, answers=continuations, assignment=assignment, checked=False
    ):
        finite.append(all_finite(group.log_probabilities))
        for row, each, length in zip(
            group.rows, group.log_probabilities, group.lengths, strict=True
        ):
            found[row] = _of_tokens(each[-length:], continuations[row])
    rows = sorted(found)
    return gather_finite([found[row] for row in rows], finite) if rows else []


@torch.inference_mode()
def choice_likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    choices: Sequence[Sequence[Tokens]],
    limit: int,
    assignment: Assignment = ONE_CANDIDATE,
) -> list[list[Tensor]]:
    """As `likelihoods` for several continuations of each prompt, which runs once: one list for each prompt.

    Models that cannot share a prompt run the whole sequences. limit: sequences in a forward pass.
    """
    if not slots_are_exact(model):
        flat = [
            (prompt, each) for prompt, row in zip(prompts, choices, strict=True) for each in row
        ]
        found = likelihoods(model, [p for p, _ in flat], [c for _, c in flat], limit, assignment)
        rest = iter(found)
        return [[next(rest) for _ in row] for row in choices]
    by_choice: dict[tuple[int, int], Tensor] = {}
    finite: list[Tensor] = []
    prefill = Prefill.start(model, prompts, assignment)
    for rows in prefill.groups(max(1, limit // max(map(len, choices)))):
        group = prefill.run(rows, checked=False)
        finite.append(all_finite(group.logits))
        for key, value, sound in _after(model, group, prompts, choices, assignment):
            by_choice[key] = value
            finite.append(sound)
    keys = sorted(by_choice)
    values = dict(zip(keys, gather_finite([by_choice[key] for key in keys], finite), strict=True))
    return [
        [values[row, index] for index in range(len(of_row))] for row, of_row in enumerate(choices)
    ]


def _after(
    model: PreTrainedModel,
    group: Group,
    prompts: Sequence[Tokens],
    choices: Sequence[Sequence[Tokens]],
    assignment: Assignment,
) -> Iterator[tuple[tuple[int, int], Tensor, Tensor]]:
    """The choices of a group of prompts, whose keys and values are copied for each choice.

    Yields prompt and choice, log-likelihoods [token], and whether the logits are finite.
    """
    first = group.logits[:, -1].to(torch.float32).log_softmax(-1)
    keys = [
        (place, row, index)
        for place, row in enumerate(group.rows)
        for index in range(len(choices[row]))
    ]
    # A choice of one token is known from the prompt alone.
    longer = [key for key in keys if len(choices[key[1]][key[2]]) > 1]
    following: Iterator[Tensor] = iter(())
    if longer:
        assert group.cache is not None
        assert group.present is not None
        group.cache.reorder_cache(torch.tensor([place for place, _, _ in longer]))
        following = iter(
            _following(
                model,
                group.cache,
                group.present[[place for place, _, _ in longer]],
                [len(prompts[row]) for _, row, _ in longer],
                [choices[row][index] for _, row, index in longer],
                assignment,
            )
        )
    for place, row, index in keys:
        tokens = choices[row][index]
        own = first[place : place + 1]
        if len(tokens) > 1:
            own = torch.cat([own, next(following)[: len(tokens) - 1]])
        yield (row, index), _of_tokens(own, tokens), all_finite(own)


def _following(
    model: PreTrainedModel,
    cache: DynamicCache,
    present: Tensor,
    begins: Sequence[int],
    choices: Sequence[Tokens],
    assignment: Assignment,
) -> Tensor:
    """Log-probabilities [sequence, token, vocabulary] after each token of a choice but the last.

    cache, present: of the prompt of each sequence, see `Group`. begins: lengths of the prompts. Choices are
    left-aligned: what stands behind a shorter choice does not affect it.
    """
    device = input_device(model)
    width = max(map(len, choices)) - 1
    ids = torch.tensor([[*each[:-1], *[each[0]] * (width - len(each) + 1)] for each in choices])
    positions = torch.tensor(begins).unsqueeze(1) + torch.arange(width)
    seen = torch.cat([present, present.new_ones(len(choices), width)], 1)
    assignment.before_pass(len(choices))
    logits: Tensor = model(
        ids.to(device),
        past_key_values=cache,
        attention_mask=seen.to(device),
        position_ids=positions.to(device),
    ).logits
    return logits.to(torch.float32).log_softmax(-1)


def _of_tokens(log_probabilities: Tensor, tokens: Tokens) -> Tensor:
    """The log-probability of each token [token], float64, of log_probabilities [token, vocabulary]."""
    index = torch.tensor(list(tokens), device=log_probabilities.device)
    return as_float64(log_probabilities.gather(1, index.unsqueeze(1)).squeeze(1))
