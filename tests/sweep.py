"""What holds of one model type, checked on a tiny random model: a row of docs/reference/architectures.md.

Run over all types by scripts/sweep.py, over a representative forty by test_sweep.py.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from conftest import write_edited
from excise.anatomy.writers import Anatomy, examine
from excise.edits.edit import Edit
from excise.edits.peft_folder import AdapterFolder, save_adapter
from excise.edits.stored import FittedEdit
from excise.edits.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.errors import ModelError, SaveError
from excise.experiment.coverage import THRESHOLD, Coverage, measure
from excise.operators.moments import ExactMoments
from excise.operators.operator import discriminant, unit
from zoo import CannotBuild, tiny

COVERED, NOTED, NOT_COVERED, CANNOT_BUILD = (
    "covered",
    "covered, see note",
    "not covered",
    "not built",
)
WHY = {
    "blt": "several transformers, over bytes and over patches of them; there is no one residual stream",
    "doge": "scales the residual stream itself, component by component, behind attention and MLP",
    "hrm_text": "two stacks run in turn, and each is added to the other through norms between them",
    "muse_spark": "weighs the residual stream against what comes, component by component",
    **dict.fromkeys(
        ("qwen4_exp", "qwen4_exp_text"),
        "in layers with an embedding of n-grams (ple) that writes through a gate and a convolution",
    ),
    "reformer": "reversible layers on two streams",
    "xlm": "attentions and feed-forwards in separate lists, with no module for a layer",
    "xlnet": "attention writes through a parameter that no module of its own applies (rel_attn.o)",
    "zaya": "its scaling of the residual stream adds biases of its own",
}
"""Types that are not covered, and why not."""
_TOKENS = [5, 9, 12, 40, 7, 33, 21, 52]
_NEW_TOKENS = 6
_TOLERANCE = 2e-4
"""Largest difference of logits, relative to the largest logit or 1: float32 through a few layers."""


@dataclass(frozen=True)
class Row:
    """One model type. verdict: one of the four above. writers: kinds of module that write."""

    model_type: str
    verdict: str
    coverage: float
    layers: int
    writers: str
    notes: tuple[str, ...]


class MismatchError(AssertionError):
    """Two things that have to be equal are not."""


def check(model_type: str, folder: Path) -> Row:
    """Check one type, with `folder` for files. Raises MismatchError if two things differ that may not."""
    try:
        model = tiny(model_type)
    except CannotBuild as error:
        return Row(model_type, CANNOT_BUILD, 0.0, 0, "", (str(error),))
    try:
        anatomy = examine(model)
    except ModelError as error:
        return Row(model_type, NOT_COVERED, 0.0, 0, "", (WHY[model_type], str(error)))
    coverage = measure(model, anatomy, _TOKENS)
    notes: list[str] = []
    if coverage.complete:
        notes += _needless_writers(model, anatomy)
        notes += require_realisations(model, anatomy, folder)
        notes += _decoding(model)
        verdict = NOTED if notes else COVERED
    else:
        layer, modules = coverage.suspects[0]
        notes += [WHY[model_type], f"named in layer {layer}: {modules}"]
        verdict = NOT_COVERED
    return Row(
        model_type=model_type,
        verdict=verdict,
        coverage=min(coverage.per_layer),
        layers=len(anatomy.layers),
        writers=_kinds(anatomy),
        notes=tuple(notes),
    )


def _kinds(anatomy: Anatomy) -> str:
    """Names of the writers inside their layers, each once, with how many matrices they hold."""
    kinds: Counter[str] = Counter()
    for writer in anatomy.writers:
        name = writer.name.removeprefix(f"{anatomy.layers[writer.layer]}.")
        many = f" ({writer.matrices})" if writer.matrices > 1 else ""
        norm = " → norm" if writer.post_norms else ""
        kinds[f"{name}{many}{norm}"] += 1
    return ", ".join(kinds)


def _needless_writers(model: PreTrainedModel, anatomy: Anatomy) -> list[str]:
    """Every writer on the list has to write: without it, its layer is no longer covered.

    Raises MismatchError for one that does not, because editing it would harm the model for nothing. One that
    did not run, because it waits for an image or an encoder's output, is a note.
    """
    idle: list[str] = []
    for index, writer in enumerate(anatomy.writers):
        if not _runs(model, writer.name):
            idle.append(writer.name)
            continue
        others = anatomy.writers[:index] + anatomy.writers[index + 1 :]
        without: Coverage = measure(model, dataclasses.replace(anatomy, writers=others), _TOKENS)
        if without.complete:
            raise MismatchError(f"{writer.name} is on the list, but writes nothing")
    return [f"did not run on text alone: {', '.join(idle)}"] if idle else []


def _runs(model: PreTrainedModel, name: str) -> bool:
    calls: list[bool] = []
    module = model.get_submodule(name)
    with torch.inference_mode():
        handle = module.register_forward_hook(lambda *_: calls.append(True))
        model(input_ids=torch.tensor([_TOKENS]))
        handle.remove()
    return bool(calls)


def random_edit(anatomy: Anatomy, seed: int = 0) -> Edit:
    """Random oblique operators of random strengths up to 1.5; the first writer is left alone."""
    generator = torch.Generator().manual_seed(seed)
    count, d = len(anatomy.names), anatomy.dimension
    directions = unit(torch.randn(count, d, generator=generator))
    outputs = torch.randn(count, 2 * d, d, generator=generator, dtype=torch.float64)
    moments = ExactMoments(count, d)
    for index, tokens in enumerate(outputs):
        moments.add(index, tokens)
    operator = discriminant(directions, moments, 0.1)
    strengths = torch.rand(count, generator=generator) * 1.5
    if count > 2:
        strengths[0] = 0
    return Edit("discriminant", anatomy.names, operator.u, operator.v, strengths)


def _logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([_TOKENS, _TOKENS[::-1]])).logits.clone()


def require_equal(what: str, actual: Tensor, expected: Tensor) -> None:
    difference = float((actual - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise MismatchError(f"{what}: logits differ by {difference:.2e}")


def require_realisations(model: PreTrainedModel, anatomy: Anatomy, folder: Path) -> list[str]:
    """virtual ≡ baked ≡ adapter; strength 0 and leaving are the original; what cannot be is noted."""
    edit = random_edit(anatomy)
    original = _logits(model)
    with VirtualEdits(model, anatomy.names) as edits:
        edits.use(dataclasses.replace(edit, strengths=torch.zeros_like(edit.strengths)))
        if not torch.equal(_logits(model), original):
            raise MismatchError("strength 0 is not the original model")
        edits.use(edit)
        virtual = _logits(model)
    if not torch.equal(_logits(model), original):
        raise MismatchError("leaving the scope does not restore the model")
    if torch.allclose(virtual, original, atol=1e-3):
        raise MismatchError("the edit changes nothing")

    kind = type(model)
    base, baked, adapter = folder / "original", folder / "baked", folder / "adapter"
    _quietly(lambda: model.save_pretrained(base))
    loaded = _load(kind, base)
    notes: list[str] = []
    if not torch.allclose(_logits(loaded), original, atol=_TOLERANCE):
        notes.append("transformers itself does not load what it saved of this form")
        original = _logits(loaded)
        with VirtualEdits(loaded, anatomy.names) as edits:
            edits.use(edit)
            virtual = _logits(loaded)
    try:
        write_edited(edit, base, baked)
    except (SaveError, ModelError) as error:
        return [*notes, f"the search works, saving does not: {error}"]
    require_equal("baked", _logits(_load(kind, baked)), virtual)
    try:
        save_adapter(FittedEdit.of(edit, model), AdapterFolder(adapter, str(base)))
    except SaveError as error:
        return [*notes, f"no adapter: {error}"]
    adapted = _quietly(lambda: PeftModel.from_pretrained(_load(kind, base), str(adapter)).eval())
    require_equal("adapter", _logits(adapted), virtual)
    return notes


def _load(kind: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    # What a checkpoint lacks is drawn at random: the same each time.
    torch.manual_seed(0)
    return _quietly(lambda: kind.from_pretrained(folder, dtype=torch.float32).eval())


def _quietly(work):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        return work()


def _decoding(model: PreTrainedModel) -> list[str]:
    """Own decoding ≡ `generate`, of each prompt alone, and in a batch with padding."""
    prompts = [_TOKENS[:4], _TOKENS, _TOKENS[:3] + _TOKENS[5:], _TOKENS[:6]]
    own = greedy(model, prompts, max_new_tokens=_NEW_TOKENS, slots=3)
    try:
        alone = [_generate(model, [prompt])[0] for prompt in prompts]
    except Exception as error:
        if own != [_chain(model, prompt) for prompt in prompts]:
            raise
        lines = str(error).strip().splitlines() or [""]
        return [
            f"transformers' own generate fails on this form ({type(error).__name__}: {lines[0]})"
        ]
    if own != alone:
        if own != [_chain(model, prompt) for prompt in prompts]:
            raise MismatchError(f"own decoding {own} is not generate's {alone}")
        return ["transformers' own generate does not follow the model's forward pass; excise does"]
    if _generate(model, prompts) != alone:
        return [
            "transformers' own generate answers otherwise in a padded batch; excise does not pad"
        ]
    return []


def _chain(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """The greedy answer by the forward pass alone, the whole sequence run again for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + _NEW_TOKENS and (len(ids) == len(prompt) or ids[-1] != 1):
            ids.append(
                int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            )
    return ids[len(prompt) :]


def _generate(model: PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    """The greedy answers of `generate` to a left-padded batch, cut after the end token."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[1] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = _quietly(
        lambda: model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            pad_token_id=1,
            eos_token_id=1,
        )
    )
    answers = output[:, longest:].tolist()
    return [answer[: answer.index(1) + 1] if 1 in answer else answer for answer in answers]


__all__ = [
    "CANNOT_BUILD",
    "COVERED",
    "NOTED",
    "NOT_COVERED",
    "THRESHOLD",
    "MismatchError",
    "Row",
    "check",
]
