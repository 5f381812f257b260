"""Models spread over devices, or offloaded: everything that the engine does gives what it gives on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from conftest import Thirds, random_prompts, tiny_model, tiny_tokenizer
from excise.anatomy.writers import examine
from excise.cli.conversation import Conversation
from excise.edits.virtual import VirtualEdits
from excise.engine.assignment import Assignment
from excise.engine.cached_layers import CachedLayers
from excise.engine.capture import residuals, writer_statistics
from excise.engine.decode import greedy
from excise.engine.distributions import distributions
from excise.engine.prefill import first_token_logits
from excise.experiment.coverage import measure
from excise.models.weights import post_norm_gains, row_norms
from spread import spread
from test_cached_layers import late_edits
from virtual_devices import VirtualDevices
from zoo import tiny

NAMES = (
    "llama",
    "gemma2, post-norms and sliding window",
    "mixtral",
    "gpt2",
    "mamba",
    "olmo2",
    "gemma3n_text",
)
PROMPTS = random_prompts(9)


def build(name: str) -> PreTrainedModel:
    return tiny_model(name) if name.startswith(("llama", "gemma2")) else tiny(name)


@contextmanager
def two_devices(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    with VirtualDevices(2):
        yield spread(build(name), 0, 1)


@contextmanager
def first_half_on_disk(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    yield spread(build(name), "disk", "cpu", folder)


@contextmanager
def second_half_on_the_host(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    with VirtualDevices():
        yield spread(build(name), 0, "cpu")


@contextmanager
def first_half_on_disk_beside_a_gpu(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    with VirtualDevices():
        yield spread(build(name), "disk", 0, folder)


@contextmanager
def two_real_gpus(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    yield spread(build(name), 0, 1)


@contextmanager
def second_half_beside_a_real_gpu(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    yield spread(build(name), 0, "cpu")


@contextmanager
def first_half_on_disk_beside_a_real_gpu(name: str, folder: Path) -> Iterator[PreTrainedModel]:
    yield spread(build(name), "disk", 0, folder)


Placed = Callable[[str, Path], AbstractContextManager[PreTrainedModel]]
PLACES: tuple[Placed, ...] = (
    two_devices,
    first_half_on_disk,
    second_half_on_the_host,
    first_half_on_disk_beside_a_gpu,
)
REAL: tuple[Placed, ...] = (
    two_real_gpus,
    second_half_beside_a_real_gpu,
    first_half_on_disk_beside_a_real_gpu,
)
real_ones = [pytest.param(place, marks=pytest.mark.gpu) for place in REAL]
spread_out = pytest.mark.parametrize("place", [*PLACES, *real_ones])


def cases() -> Iterator[object]:
    """Every model in every place; the fast tests have every model on two devices, and one in the others."""
    for place in (*PLACES, *REAL):
        for name in NAMES:
            marks = [pytest.mark.gpu] if place in REAL else []
            if place is not two_devices and name != "llama":
                marks += [] if place in REAL else [pytest.mark.slow]
            yield pytest.param(place, name, marks=marks)


def decoded(model: PreTrainedModel) -> object:
    """Answers of two candidates, some of which end with their first token; a second set beside them."""
    anatomy = examine(model)
    with VirtualEdits(model, anatomy.names) as scope:
        scope.use_several(late_edits(anatomy, 0, 2))
        return [
            greedy(
                model,
                PROMPTS,
                max_new_tokens=6,
                slots=4,
                stopping_rule=Thirds(),
                assignment=Assignment(candidate, scope.assign),
            )
            for candidate in range(2)
        ]


def looked_at(model: PreTrainedModel) -> object:
    anatomy = examine(model)
    names, size = anatomy.names, anatomy.dimension
    ends = writer_statistics(model, names, PROMPTS, 4, dimension=size)
    return [
        first_token_logits(model, PROMPTS, 4),
        residuals(model, anatomy.layers, PROMPTS, 4, dimension=size),
        ends.means,
        ends.spreads,
        measure(model, anatomy, PROMPTS[0]).per_layer,
        post_norm_gains(model, anatomy.writers, size),
        row_norms(model, anatomy.writers, size),
    ]


def taught(model: PreTrainedModel) -> object:
    answers = [[5, 6, 7][: 1 + index % 3] for index in range(len(PROMPTS))]
    with torch.no_grad():
        return [
            row[-length:].cpu()
            for part in distributions(model, PROMPTS, 4, answers=answers)
            for row, length in zip(part.log_probabilities, part.lengths, strict=True)
        ]


def same(found: object, expected: object) -> bool:
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        # Memory lies otherwise, which may move the last digit of a product; a GPU has digits of its own.
        return torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, tuple) and isinstance(expected, tuple):
        return found == pytest.approx(expected, abs=1e-4)
    return found == expected


@pytest.mark.parametrize("work", [decoded, looked_at, taught])
@pytest.mark.parametrize(("place", "name"), cases())
def test_a_spread_model_gives_what_one_on_the_cpu_gives(
    name: str, work: Callable[[PreTrainedModel], object], place: Placed, tmp_path: Path
) -> None:
    expected = work(build(name))
    with place(name, tmp_path) as model:
        assert len({parameter.device for parameter in model.parameters()}) == 2
        found = work(model)
    assert same(found, expected)


@spread_out
def test_passes_that_begin_at_a_cut_decode(place: Placed, tmp_path: Path) -> None:
    expected = greedy(build("llama"), PROMPTS, max_new_tokens=6, slots=4)
    with place("llama", tmp_path) as model:
        cached_layers = CachedLayers(model, examine(model).layers, (1, 2, 3), with_keys=True)
        recording = Assignment(cached_layers=cached_layers.recording())
        assert expected == greedy(model, PROMPTS, max_new_tokens=6, slots=4, assignment=recording)
        for start_layer in (1, 2, 3):
            replaying = Assignment(cached_layers=cached_layers.replaying(start_layer))
            assert cached_layers.is_exact(model, PROMPTS, start_layer)
            assert expected == greedy(
                model, PROMPTS, max_new_tokens=6, slots=4, assignment=replaying
            )


def test_the_proof_looks_at_keys_and_values_too() -> None:
    model = tiny_model()
    cached_layers = CachedLayers(model, examine(model).layers, (2,), with_keys=True)
    greedy(
        model,
        PROMPTS,
        max_new_tokens=1,
        slots=4,
        assignment=Assignment(cached_layers=cached_layers.recording()),
    )
    assert cached_layers.is_exact(model, PROMPTS, 2)
    for kept in cached_layers._rows.values():
        keys, values = kept.keys[0]
        kept.keys[0] = (keys, 1.5 * values)
    # The passes' own logits are those of whole passes all the same: only decoding looks at these.
    assert not cached_layers.is_exact(model, PROMPTS, 2)


@spread_out
def test_chat_with_a_spread_model(place: Placed, tmp_path: Path) -> None:
    def said(model: PreTrainedModel) -> list[str]:
        conversation = Conversation(model, tiny_tokenizer(), 6)
        return [conversation.answer(one, lambda text: None) for one in ("hello", "bake the cake")]

    expected = said(build("llama"))
    with place("llama", tmp_path) as model:
        assert said(model) == expected
