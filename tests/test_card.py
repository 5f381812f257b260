"""The model card: the original's front matter and text stay, what no longer holds goes, the edit is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from excise.checkpoint.source import ModelSource
from excise.edits.edit import Edit
from excise.report.card import figures_in, model_card
from excise.report.front_matter import original_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ORIGINAL = """---
language: [en, de]
license: other
license_name: own-terms
license_link: https://example.org/terms
pipeline_tag: text-generation
library_name: transformers
base_model: owner/pretrained
base_model_relation: merge
new_version: owner/next
extra_gated_prompt: Promise.
tags:
- chat
- excise
datasets:
- owner/data
own_key: kept
model-index:
- name: original
  results:
  - task: {type: text-generation}
    dataset: {name: Set, type: set}
    metrics: [{type: accuracy, value: 0.9}]
---

# Original

It is helpful.
"""


def edit() -> Edit:
    return Edit(
        kind="orthogonal",
        writers=("layers.0.o_proj", "layers.1.o_proj"),
        u=torch.eye(2, 4),
        v=torch.eye(2, 4),
        strengths=torch.tensor([1.0, 0.0]),
        parameters={"kind": "orthogonal"},
        facts={"refusals": 3, "prompts": 100, "kl": 0.05},
    )


def source(folder: Path, card: str | None, *, hub: bool = True) -> ModelSource:
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    name = "owner/model" if hub else "/home/somebody/models/mine"
    return ModelSource(name, folder, None, COMMIT if hub else None)


def card_of(source: ModelSource, *, adapter: bool = False, recorded: bool = False) -> ModelCard:
    figures = figures_in(edit(), [1.0, 0.98, 1.0])
    return ModelCard(model_card(source, edit(), figures, adapter=adapter, recorded=recorded))


def test_the_originals_front_matter_stays_as_far_as_it_holds(tmp_path: Path) -> None:
    card = card_of(source(tmp_path, ORIGINAL))
    assert card.data.to_dict() == {
        "language": ["en", "de"],
        "license": "other",
        "license_name": "own-terms",
        "license_link": "https://example.org/terms",
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "base_model": "owner/model",
        "base_model_relation": "finetune",
        "tags": ["chat", "excise", "directional-ablation"],
        "datasets": ["owner/data"],
        "own_key": "kept",
    }


def test_what_was_done_and_measured_is_told_before_the_originals_own_words(tmp_path: Path) -> None:
    text = " ".join(card_of(source(tmp_path, ORIGINAL), recorded=True).text.split())
    told = (
        "# owner/model, edited This is an edited copy of **owner/model** (revision `0123",
        "removed from 1 of 2 matrices",
        "Safety behaviour of the original may be weakened or gone",
        "licence of the original, other (own-terms, https://example.org/terms), and its terms apply",
        "3 of 100 target prompts refused, KL 0.05 nats",
        "0.980 in the worst of 3 layers (layer 1)",
        "excise reproduce reproduce.json DIR",
        "Its figures and claims are of the unedited model. # Original It is helpful.",
    )
    places = [text.index(part) for part in told]
    assert places == sorted(places)


def test_an_adapter_says_so(tmp_path: Path) -> None:
    data = card_of(source(tmp_path, ORIGINAL), adapter=True).data
    assert (data.library_name, data["base_model_relation"]) == ("peft", "adapter")
    assert data.tags == ["chat", "excise", "directional-ablation", "lora"]


def test_a_local_original_is_no_base_model_and_its_folder_stays_private(tmp_path: Path) -> None:
    card = card_of(source(tmp_path, ORIGINAL, hub=False))
    assert card.data.base_model is None
    assert "base_model_relation" not in card.data
    assert "somebody" not in str(card)
    assert "# mine, edited" in str(card)
    assert source(tmp_path, None, hub=False).public_name == "mine"
    assert ModelSource(".", tmp_path, None, None).public_name == Path.cwd().name


def test_a_record_is_promised_only_where_there_is_one(tmp_path: Path) -> None:
    for adapter in (False, True):
        assert "reproduce" not in str(card_of(source(tmp_path, ORIGINAL), adapter=adapter))


@pytest.mark.parametrize(
    "broken",
    ["---\nlicense: [mit\n---\n\nwords\n", "---\n- a\n- b\n---\nwords\n", "---\n1: 2\n---\nwords"],
)
def test_front_matter_that_cannot_be_read_is_said_and_the_words_stay(
    tmp_path: Path, broken: str
) -> None:
    card = card_of(source(tmp_path, broken))
    assert "Its front matter could not be read (" in str(card)
    assert "words" in card.text
    assert card.data.base_model == "owner/model"


def test_no_card_and_one_without_front_matter(tmp_path: Path) -> None:
    card = card_of(source(tmp_path, None))
    assert "# The original's card" not in card.text
    assert "The licence of the original and its terms apply." in card.text
    card = card_of(source(tmp_path, "Just words, with a mark of the byte order before.\n"))
    assert card.text.endswith("with a mark of the byte order before.\n")


def test_a_card_beside_a_gguf_file_is_not_taken_for_the_models(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(ORIGINAL, encoding="utf-8")
    assert original_card(ModelSource("x.gguf", tmp_path, "x.gguf", None)) is None
