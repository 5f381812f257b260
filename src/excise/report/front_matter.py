"""The original's model card, taken apart: what of its front matter holds for an edited copy, and its text."""

from __future__ import annotations

from dataclasses import dataclass

import yaml
from huggingface_hub import CardData, ModelCard, ModelCardData

from excise.checkpoint.folder import require_inside
from excise.checkpoint.source import ModelSource

_TAGS = ("excise", "directional-ablation")
_DEEPEST = 20
"""Tables and lists within each other; cards have three or four."""
_NOT_OF_THE_COPY = ("base_model_relation", "new_version")
"""What the original says of its own place among models. Terms of access (`extra_gated_…`) are its too."""


@dataclass(frozen=True)
class OriginalCard:
    """The original's card. data: its front matter. text: what follows it. unreadable: why data are empty."""

    data: CardData
    text: str
    unreadable: str | None = None

    @property
    def licence(self) -> str | None:
        """The licence as the card names it, with its name and link where it is one of its own."""
        found = self.data.get("license")
        if found is None:
            return None
        own = [
            str(self.data[key]) for key in ("license_name", "license_link") if self.data.get(key)
        ]
        return f"{found} ({', '.join(own)})" if own else str(found)


def original_card(source: ModelSource) -> OriginalCard | None:
    """The card that lies in the model's folder; None if there is none, as beside a GGUF file.

    Raises SaveError if it is a link out of the folder: its text would go into a card that others read.
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
        # As text once, so that what cannot be written again is known here.
        card.data.to_yaml()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return OriginalCard(ModelCardData(), content.strip(), reason)
    return OriginalCard(card.data, card.text.strip())


def _require_plain(content: str) -> None:
    """Raise ValueError for YAML that stands for more than it says, or that takes long to read.

    A part that is repeated by its name (an alias) makes gigabytes of ten lines.
    """
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
    """The YAML block of an edited copy's card: the original's, as far as it holds for the copy.

    Evaluation results are left out: they are of the original. The base model is named only where it has
    a name on the hub: a path on somebody's disk is no model id, and the hub refuses cards that name one.
    """
    kept = original.data.to_dict() if original else {}  # type: ignore[no-untyped-call]
    data = ModelCardData(**kept)
    data.eval_results = data.model_name = data.base_model = None
    for key in [key for key in data.__dict__ if key.startswith("extra_gated_")]:
        data.pop(key)
    for key in _NOT_OF_THE_COPY:
        data.pop(key)
    data.library_name = "peft" if adapter else "transformers"
    theirs = [one for one in data.tags or () if isinstance(one, str)]
    data.tags = list(dict.fromkeys([*theirs, *_TAGS, *(("lora",) if adapter else ())]))
    if source.origin is not None:
        data.base_model = source.origin.name
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---"
