"""A device without float64, played by tensors that raise wherever one would come to lie on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from conftest import random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.devices import transfers as module
from excise.devices.transfers import as_float64, float64_device
from excise.edits.virtual import VirtualEdits
from excise.engine.capture import Accumulators, writer_statistics
from excise.engine.distributions import distributions
from excise.events import ignore
from excise.experiment.coverage import measure, random_edit
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.weights import post_norm_gains
from excise.operators.moments import ExactMoments, Moments, SketchedMoments
from excise.scorers.divergence import along_answers, kl_divergence


class Elsewhere(Tensor):
    """Numbers on a device without float64: what is computed from them lies there too, until it is moved."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        results = result if isinstance(result, tuple) else (result,)
        if any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in results):
            raise TypeError("this device has no float64")
        places = (*args[1:], *(kwargs or {}).values())
        moved = any(isinstance(place, (str, torch.device)) for place in places)
        if func is Tensor.cpu or (func is Tensor.to and moved):
            return result.as_subclass(Tensor)
        return result


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that is there knows no float64; the host, which is the same one, does."""
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", frozenset({"cpu"}))


@pytest.fixture
def elsewhere(lacking: None) -> Iterator[PreTrainedModel]:
    """A model that computes elsewhere from its embeddings to its logits."""
    model = tiny_model()
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output.as_subclass(Elsewhere)
    )
    seen: list[object] = []
    model.register_forward_hook(lambda *call: seen.append(type(call[-1].logits)))
    yield model
    assert set(seen) == {Elsewhere}


def test_where_doubles_lie() -> None:
    assert float64_device("mps") == float64_device(torch.device("mps", 0)) == torch.device("cpu")
    assert float64_device("cuda:1") == torch.device("cuda", 1)
    assert as_float64(torch.ones(2)).dtype == torch.float64


def test_the_stand_in_raises_as_the_device_would(lacking: None) -> None:
    tensor = torch.ones(2).as_subclass(Elsewhere)
    for convert in (
        lambda: tensor.double(),
        lambda: tensor.to("cpu", torch.float64),
        lambda: torch.add(tensor, torch.ones(2, dtype=torch.float64)),
        lambda: torch.ones(2, dtype=torch.float64).add_(tensor),
    ):
        with pytest.raises(TypeError, match="no float64"):
            convert()
    assert type(as_float64(tensor)) is Tensor
    assert as_float64(tensor).dtype == torch.float64


@pytest.mark.parametrize(
    "make", [lambda: ExactMoments(1, 6), lambda: SketchedMoments(1, 6, 4)], ids=["exact", "sketch"]
)
def test_moments_are_the_same_to_the_bit(lacking: None, make: Callable[[], Moments]) -> None:
    tokens = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    here, there = make(), make()
    here.add(0, tokens, 2.0)
    there.add(0, tokens.as_subclass(Elsewhere), 2.0)
    assert torch.equal(here.system(0).matrix(), there.system(0).matrix())
    assert here.system(0).variance == there.system(0).variance
    right = torch.ones(6)
    assert torch.equal(here.system(0).solve(right, 0.1), there.system(0).solve(right, 0.1))


def test_sums_of_products_are_kept_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", frozenset({"meta"}))
    moments = ExactMoments(1, 3, "meta")
    moments.add(0, torch.ones(2, 3))
    assert moments.system(0).matrix().tolist() == [[1.0] * 3] * 3


def test_everything_that_is_measured_is_what_it_is_elsewhere(elsewhere: PreTrainedModel) -> None:
    plain = tiny_model()
    anatomy = examine(plain)
    prompts, tokens = random_prompts(6), random_prompts(1)[0]
    answers = [[7, 8, 9], [5]] * 3
    r = torch.nn.functional.normalize(torch.ones(anatomy.dimension), dim=0)
    edit = random_edit(anatomy, post_norm_gains(plain, anatomy.writers, anatomy.dimension), r)
    found: list[tuple[object, ...]] = []
    for model in (plain, elsewhere):
        moments = ExactMoments(len(anatomy.names), anatomy.dimension)
        ends = writer_statistics(
            model,
            anatomy.names,
            prompts,
            4,
            dimension=anatomy.dimension,
            accumulators=Accumulators(moments),
        )
        runner = Runner(
            model, Chat(tiny_tokenizer()), markers=("x",), max_new_tokens=2, slots=3, emit=ignore
        )
        original = runner.log_probabilities(prompts)
        with VirtualEdits(model, anatomy.names) as edits, torch.no_grad():
            before = list(distributions(model, prompts, 2, answers=answers))
            edits.use(edit)
            after = list(distributions(model, prompts, 2, answers=answers))
            first = runner.divergences(prompts, original)
        along = [
            each.tolist()
            for one, two in zip(before, after, strict=True)
            for each in along_answers(
                one.log_probabilities, two.log_probabilities, one.lengths, kl_divergence
            )
        ]
        found.append(
            (
                measure(model, anatomy, tokens),
                ends.means.tolist(),
                ends.spreads.tolist(),
                moments.system(0).matrix().tolist(),
                first,
                along,
            )
        )
    assert found[0] == found[1]
    assert all(value > 0 for values in (first, *along) for value in values)
