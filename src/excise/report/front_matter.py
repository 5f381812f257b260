"""The original's model card: the part of its front matter that is true of an edited copy, and its text."""

from __future__ import annotations

from dataclasses import dataclass

import yaml
from huggingface_hub import CardData, ModelCard, ModelCardData

from excise.checkpoint.folder import require_inside
from excise.checkpoint.source import ModelSource

_TAGS = ("excise", "directional-ablation")
_DEEPEST = 20
"""Highest depth of nested tables and lists; usual cards have three or four levels."""
_NOT_OF_THE_COPY = ("base_model_relation", "new_version")
"""Keys about the original itself. Terms of access (`extra_gated_…`) are about the original too."""


@dataclass(frozen=True)
class OriginalCard:
    """The original's card. data: its front matter. text: the rest. unreadable: why data are empty."""

    data: CardData
    text: str
    unreadable: str | None = None

    @property
    def licence(self) -> str | None:
        """The licence of the card, with name and link of a custom licence."""
        found = self.data.get("license")
        if found is None:
            return None
        custom = [
            str(self.data[key]) for key in ("license_name", "license_link") if self.data.get(key)
        ]
        return f"{found} ({', '.join(custom)})" if custom else str(found)


def original_card(source: ModelSource) -> OriginalCard | None:
    """The card in the model's folder; None without a card and for a GGUF file.

    Raises SaveError if it is a link out of the folder, because its text would be published.
    """
    path = source.folder / "README.md"
    if source.gguf is not None or not path.is_file():
        return None
    require_inside(source.folder, path)
    content = path.read_text(encoding="utf-8-sig", errors="replace")
    if not content.lstrip().startswith("---"):
        return OriginalCard(ModelCardData(), content.strip())
    try:
        _require_plain(content)
        card = ModelCard(content, ignore_metadata_errors=True)
        # Data that YAML cannot write raise here.
        card.data.to_yaml()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return OriginalCard(ModelCardData(), content.strip(), reason)
    return OriginalCard(card.data, card.text.strip())


def _require_plain(content: str) -> None:
    """Raise ValueError for deeply nested YAML and for aliases, which can expand ten lines to gigabytes."""
    block = content.lstrip().removeprefix("---").split("\n---", 1)[0]
    depth = 0
    for event in yaml.parse(block, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it uses YAML aliases")
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")


def front_matter(original: OriginalCard | None, source: ModelSource, *, adapter: bool) -> str:
    """The YAML block of an edited copy's card: the keys of the original that are true of the copy.

    Evaluation results are of the original and are left out. Only a base model on the hub is named, because
    the hub refuses local paths.
    """
    kept = original.data.to_dict() if original else {}  # type: ignore[no-untyped-call]
    data = ModelCardData(**kept)
    data.eval_results = data.model_name = data.base_model = None
    for key in [key for key in data.__dict__ if key.startswith("extra_gated_")]:
        data.pop(key)
    for key in _NOT_OF_THE_COPY:
        data.pop(key)
    data.library_name = "peft" if adapter else "transformers"
    tags = [tag for tag in data.tags or () if isinstance(tag, str)]
    data.tags = list(dict.fromkeys([*tags, *_TAGS, *(("lora",) if adapter else ())]))
    if source.origin is not None:
        data.base_model = source.origin.name
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---"
