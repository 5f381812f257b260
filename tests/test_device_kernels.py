"""What a pass measures is worked out where the model's numbers lie, and comes to the host once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.devices import memory as device_memory
from excise.devices.transfers import on_host
from excise.edits.virtual import VirtualEdits
from excise.engine.capture import Accumulators, Residuals, writer_statistics
from excise.engine.distributions import distributions
from excise.engine.prefill import Prefill, first_token_logits
from excise.errors import TrialError
from excise.events import ignore
from excise.experiment.comparisons import Comparisons, owners_of
from excise.experiment.coverage import random_edit
from excise.experiment.evidence import Asked, PartPrompts
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.weights import post_norm_gains
from excise.operators.moments import ExactMoments, Moments, SketchedMoments
from excise.operators.operator import discriminants
from excise.scorers import divergence
from excise.scorers.damage import AnswerKL
from excise.scorers.divergence import kl_divergence
from excise.scorers.scorer import AlongAnswers
from virtual_devices import VirtualDevices
from zoo import tiny

PROMPTS = random_prompts(11)
ANSWERS = [[7, 8, 9, 10], [5], [6, 7], [9] * 6] * 2 + [[4, 5, 6]] * 3


def runner_of(model: PreTrainedModel, rows: int = 4) -> Runner:
    made = Runner(
        model, Chat(tiny_tokenizer()), markers=("x",), max_new_tokens=4, slots=3, emit=ignore
    )
    made.rows = rows
    return made


def edits_of(model: PreTrainedModel) -> tuple[VirtualEdits, Callable[[bool], None]]:
    """A scope of edits, and what puts a random one in force or takes it off."""
    anatomy = examine(model)
    r = torch.nn.functional.normalize(torch.ones(anatomy.dimension), dim=0)
    edit = random_edit(anatomy, post_norm_gains(model, anatomy.writers, anatomy.dimension), r)
    scope = VirtualEdits(model, anatomy.names)
    return scope, lambda on: scope.use(edit if on else None)


def along(runner: Runner, switch: Callable[[bool], None]) -> list[Tensor]:
    """KL at each token of the answers."""
    scorer, texts = AnswerKL(), tuple(map(str, PROMPTS))
    prompts: PartPrompts = {"control": Asked(texts, tuple(PROMPTS))}
    owners = owners_of([scorer], AlongAnswers)
    found = Comparisons(runner, switch, prompts, {"control": ANSWERS}, owners).measure()
    return [torch.tensor(each, dtype=torch.float64) for each in found[scorer.needs[0]]]


def groups_of(model: PreTrainedModel, sequences: Sequence[Sequence[int]], limit: int) -> int:
    with torch.inference_mode():
        return len(Prefill.start(model, sequences, beginnings=PROMPTS).groups(limit))


def slow_divergences(before: Tensor, after: Tensor) -> list[float]:
    """From logits on the host, both softmaxes anew, row by row in float64."""
    found = []
    for p, q in zip(before, after, strict=True):
        p, q = (one.float().log_softmax(-1).double() for one in (p, q))
        found.append(float((p.exp() * (p - q)).sum()))
    return found


@pytest.mark.parametrize("build", [tiny_model, partial(tiny, "mamba")], ids=["slots", "plain"])
def test_divergences_are_to_the_bit_those_of_logits_on_the_host(
    build: Callable[[], PreTrainedModel],
) -> None:
    model = build()
    runner, (scope, switch) = runner_of(model), edits_of(model)
    with scope:
        original = runner.log_probabilities(PROMPTS)
        before = first_token_logits(model, PROMPTS, 4)
        switch(True)
        found = runner.divergences(PROMPTS, original)
        after = first_token_logits(model, PROMPTS, 4)
    assert found == slow_divergences(before, after)
    assert min(found) > 0


@pytest.mark.parametrize("fits", [True, False])
def test_a_pass_over_all_prompts_brings_one_tensor_to_the_host(
    fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    (scope, switch), runner = edits_of(model), runner_of(model)
    with scope:
        original = runner.log_probabilities(PROMPTS)
        switch(True)
        expected = runner.divergences(PROMPTS, original)
    if not fits:
        monkeypatch.setattr(device_memory, "_KEPT_SHARE", 0.0)
    with VirtualDevices() as devices:
        there = tiny_model().to("cuda")
        (scope, switch), runner = edits_of(there), runner_of(there)
        with scope:
            original = runner.log_probabilities(PROMPTS)
            assert original.device.type == ("cuda" if fits else "cpu")
            switch(True)
            with devices.watched() as seen:
                found = runner.divergences(PROMPTS, original)
    assert groups_of(model, PROMPTS, 4) > 2
    assert len(seen.to_host) == 1
    assert seen.waits == []
    # Several rows are added up at a time there: another order of the same numbers.
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_pass_along_answers_brings_one_tensor_to_the_host() -> None:
    model = tiny_model()
    (scope, switch), runner = edits_of(model), runner_of(model, rows=32)
    with scope:
        expected = along(runner, switch)
        switch(False)
        with torch.no_grad():
            before = list(distributions(model, PROMPTS, 1, answers=ANSWERS))
            switch(True)
            after = list(distributions(model, PROMPTS, 1, answers=ANSWERS))
    for one, other in zip(before, after, strict=True):
        (row,), (length,) = one.rows, one.lengths
        slow = kl_divergence(
            one.log_probabilities[0, -length:], other.log_probabilities[0, -length:]
        )
        assert len(slow) == len(ANSWERS[row])
        torch.testing.assert_close(expected[row], slow, atol=1e-6, rtol=1e-4)
    with VirtualDevices() as devices:
        there = tiny_model().to("cuda")
        (scope, switch), runner = edits_of(there), runner_of(there, rows=32)
        with scope:
            switch(True)
            with devices.watched() as seen:
                found = along(runner, switch)
    assert len(seen.to_host) == 1
    assert seen.waits == []
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("make", [ExactMoments, partial(SketchedMoments, rows=16)])
def test_statistics_come_to_the_host_when_all_prompts_have_run(
    make: Callable[..., Moments],
) -> None:
    found: list[tuple[Tensor, ...]] = []
    for on in ("cpu", "cuda"):
        with VirtualDevices() as devices:
            model = tiny_model().to(on)
            anatomy = examine(model)
            moments = make(len(anatomy.names), anatomy.dimension, devices=on)
            ends = make(len(anatomy.names), anatomy.dimension, devices=on)
            with devices.watched() as seen:
                statistics = writer_statistics(
                    model,
                    anatomy.names,
                    PROMPTS,
                    4,
                    dimension=anatomy.dimension,
                    accumulators=Accumulators(moments, ends),
                )
            # Sums, and the word that all logits are numbers.
            assert len(seen.to_host) == (on == "cuda")
            assert seen.waits == []
            stream = Residuals(anatomy.layers, len(PROMPTS), anatomy.dimension)
            with devices.watched() as seen:
                writer_statistics(
                    model,
                    anatomy.names,
                    PROMPTS,
                    4,
                    dimension=anatomy.dimension,
                    accumulators=Accumulators(residual=stream),
                )
            groups = groups_of(model, PROMPTS, 4)
            assert len(seen.to_host) == (1 + groups if on == "cuda" else 0)
            delta = statistics.means
            with devices.watched() as seen:
                (made,) = discriminants({0.01: delta}, moments).values()
            # A number of each writer says what its ridges are; all solutions come together.
            assert len(seen.to_host) == (len(anatomy.names) + 1 if on == "cuda" else 0)
            found.append(
                (
                    statistics.means,
                    statistics.spreads,
                    stream.values,
                    made.v,
                    moments._powers[0].cpu(),
                )
            )
            assert {one.device.type for one in moments._powers} == {on}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_logits_that_are_no_numbers_are_still_found(device: str) -> None:
    with VirtualDevices():
        model = tiny_model().to(device)
        runner = runner_of(model)
        original = runner.log_probabilities(PROMPTS)
        with torch.no_grad():
            model.model.norm.weight[3] = float("nan")
        for work in (
            lambda: runner.divergences(PROMPTS, original),
            lambda: along(runner, lambda on: None),
            lambda: writer_statistics(model, examine(model).names, PROMPTS, 4, dimension=32),
        ):
            with pytest.raises(TrialError, match="not numbers"):
                work()


def test_rows_of_a_distribution_together_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 9, 500, generator=generator).log_softmax(-1).unbind()
    p[2, 7] = -torch.inf
    alone = kl_divergence(p, q)
    monkeypatch.setattr(divergence, "_AT_ONCE", 4 * 500)
    with VirtualDevices():
        together = kl_divergence(p.to("cuda"), q.to("cuda"))
        torch.testing.assert_close(together.cpu(), alone, atol=1e-15, rtol=1e-13)


def test_what_lies_on_several_devices_comes_by_one_copy_from_each() -> None:
    parts = [torch.arange(6.0).view(2, 3), torch.tensor(5.0), torch.arange(4), torch.ones(2)]
    with VirtualDevices(2) as devices:
        there = [parts[0].to("cuda:0"), parts[1].to("cuda:1"), parts[2], parts[3].to("cuda:0")]
        with devices.watched() as seen:
            found = on_host(there)
    assert len(seen.to_host) == 2
    assert all(map(torch.equal, found, parts))
