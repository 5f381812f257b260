"""The benchmark that holds all forms of an edit to each other, on tiny models and without llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, PreTrainedModel

import packed_models as packed
from bench import answers
from bench.answers_page import page
from bench.gguf_copy import write_f16
from bench.said import Exact, Rounding, ask, largest, logits_of, partings, spacing, virtual
from conftest import random_prompts, tiny_model
from excise.anatomy.writers import examine
from excise.checkpoint.source import resolve
from excise.edits.base import Base
from excise.saving.export import unmark_gguf
from sweep import random_edit

pytest_plugins = ["cli_support"]
PROMPTS = random_prompts(6)
TOKENS = 6


def tiny_llama(folder: Path) -> tuple[PreTrainedModel, Path]:
    """A random Llama, and a GGUF file of its shape, as which it is read."""
    template = folder / "template.gguf"
    packed.write_gguf(template, Kind.F32)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=template.name, dtype=torch.float32
    )
    return model.eval().requires_grad_(False), template


def test_a_copy_in_f16_is_the_model_rounded(tmp_path: Path) -> None:
    model, template = tiny_llama(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    write_f16(model, template, tmp_path / "copy.gguf")
    copy = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="copy.gguf", dtype=torch.float32
    )
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if tensor.dim() > 1 else tensor
        assert torch.equal(copy.state_dict()[name], expected), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_spacing_is_the_way_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.randn(300).mul(torch.logspace(-6, 3, 300)).to(dtype)
    bits = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    away = (values.view(bits) + 1).view(dtype)  # the next larger magnitude
    expected = (away.double() - values.double()).abs()
    assert torch.equal(spacing(values.double(), dtype), expected)


def test_the_exact_edit_is_the_virtual_one_but_for_float32() -> None:
    model, reference = tiny_model(), tiny_model()
    edit = random_edit(examine(model))
    exact = Exact(model, edit, PROMPTS, TOKENS)
    assert exact.reference.said.logits.dtype == torch.float64
    with virtual("virtual", reference, edit, PROMPTS, TOKENS) as found:
        arithmetic = answers.off(found.unedited, exact)
        assert 0 < arithmetic < 1e-4
        assert largest(found.said.logits, found.unedited.logits) > 0.1
        held = exact.reference.held("virtual", found.said, Rounding(arithmetic))
    assert held.explained
    assert not held.partings
    # Coarser types move logits further; drawing leaves the exact model as it was.
    types = (torch.float32, torch.float16, torch.bfloat16)
    moves, stay = zip(*(exact.storing(dtype) for dtype in types), strict=True)
    assert stay[0] == len(PROMPTS)
    assert moves[0] * 1000 < moves[1] < moves[2] / 4
    assert torch.equal(logits_of(exact.reference.model, PROMPTS), exact.reference.said.logits)


def test_an_answer_parts_where_another_token_is_taken_and_by_how_much() -> None:
    model = tiny_model()
    own = ask(model, PROMPTS, TOKENS).answers
    assert partings(model, PROMPTS, own, own) == []
    other = [list(answer) for answer in own]
    other[3][1] = (own[3][1] + 1) % 90
    (parting,) = partings(model, PROMPTS, own, other)
    ids = torch.tensor([[*PROMPTS[3], own[3][0]]])
    logits = model(ids).logits[0, -1]
    assert (parting.prompt, parting.token) == (3, 1)
    expected = float(logits[own[3][1]] - logits[other[3][1]])
    assert parting.gap == pytest.approx(expected, abs=1e-4)
    assert parting.gap > 0


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_forms_are_within_rounding_and_those_of_another_edit_are_not(
    factor: float, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, template = tiny_llama(elsewhere)
    unmark_gguf(model)
    base, work = elsewhere / "base", elsewhere / "work"
    model.save_pretrained(base)
    edit = replace(random_edit(examine(model)), base=Base.of(resolve(str(base))))
    path, other = elsewhere / "edit.safetensors", elsewhere / "other.safetensors"
    edit.save(path)
    replace(edit, strengths=factor * edit.strengths).save(other)
    work.mkdir()
    run = answers.run
    monkeypatch.setattr(answers, "TOKENS", TOKENS)
    monkeypatch.setattr(
        answers, "run", lambda *words: run(*(other if one == path else one for one in words))
    )
    groups = [
        answers.in_float32(base, path, PROMPTS, work),
        answers.in_bfloat16(base, path, PROMPTS, work),
        answers.in_gguf(base, template, path, PROMPTS, work, None),
    ]
    ways = [way for group in groups for way in group.ways]
    assert len(ways) == 9
    for way in ways:
        # What computing in bfloat16 does to logits hides even this; hence the same file run in float32.
        sound = factor == 1 or way.name.startswith("virtual") or way.name.endswith("in bfloat16")
        assert way.explained == sound, (way.name, way.difference, way.rounding)
    text = page(groups, "command", "measured")
    assert text.count("`excise apply`") >= 4
    assert (" **no** |" in text) == (factor != 1)
