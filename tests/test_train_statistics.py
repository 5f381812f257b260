"""What the train prompts are asked for, against one plain forward pass a prompt."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.engine.capture import residuals
from excise.engine.decode import greedy
from excise.events import ignore
from excise.experiment.runner import Runner
from excise.experiment.train_statistics import TrainPrompts, measured
from excise.models.chat import Chat


@pytest.fixture
def source() -> TrainPrompts:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = list(range(0, 96, 6))
    runner = Runner(model, Chat(tokenizer), markers=("x",), max_new_tokens=4, slots=4, emit=ignore)
    return TrainPrompts(
        examine(model), runner, random_prompts(7, seed=1), random_prompts(9, seed=2)
    )


def heard(source: TrainPrompts, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Every output of the first writer, one sequence at a time, in float64."""
    found: list[torch.Tensor] = []
    writer = source.runner.model.get_submodule(source.anatomy.names[0])
    handle = writer.register_forward_hook(lambda *call: found.append(call[-1][0].double()))
    with torch.inference_mode():
        for tokens in sequences:
            source.runner.model(torch.tensor([tokens]))
    handle.remove()
    return found


def second_moment(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.T @ tokens / len(tokens)


@pytest.mark.parametrize("answered", [64, 4])
def test_half_of_the_second_moment_is_of_last_tokens(
    source: TrainPrompts, answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("excise.experiment.train_statistics._ANSWERED", answered)
    found = measured(source, 4, False)
    control = [list(prompt) for prompt in source.control]
    asked = control[:: max(1, 9 // answered)][:answered]
    answers = greedy(source.runner.model, asked, max_new_tokens=32, slots=4)
    assert max(map(len, answers)) > 1
    spoken = [[*prompt, *answer] for prompt, answer in zip(asked, answers, strict=True)]
    last = torch.stack([tokens[-1] for tokens in heard(source, control)])
    expected = (second_moment(last) + second_moment(torch.cat(heard(source, spoken)))) / 2
    weighted = found.moments
    torch.testing.assert_close(weighted.system(0).matrix(), expected, atol=1e-5, rtol=1e-4)
    assert weighted.token_counts[0] < weighted.counts[0]
    assert found.streams == ()


def test_the_residual_stream_is_heard_in_the_same_pass(source: TrainPrompts) -> None:
    streams = measured(source, 4, True).streams
    assert len(streams) == 2
    for prompts, stream in zip((source.target, source.control), streams, strict=True):
        expected = residuals(
            source.runner.model,
            source.anatomy.layers,
            prompts,
            4,
            dimension=source.anatomy.dimension,
        )
        torch.testing.assert_close(stream, expected, atol=1e-5, rtol=1e-4)


def test_what_memory_is_free_changes_nothing_of_how_control_prompts_are_answered(
    source: TrainPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rounding depends on the rows of a step, and everything that is found depends on these answers.
    asked: list[int] = []

    def noting(*given: object, slots: int, **named: object) -> list[list[int]]:
        asked.append(slots)
        return greedy(*given, slots=slots, **named)

    monkeypatch.setattr("excise.experiment.train_statistics.greedy", noting)
    measured(source, 4, False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    measured(source, 4, False)
    # Where a slot is large, the memory of a batch bounds them.
    monkeypatch.setattr("excise.experiment.train_statistics.slots_within", lambda *_: 2)
    measured(source, 4, False)
    assert asked == [4, 4, 2]
