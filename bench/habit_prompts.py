"""A behaviour that is no refusal and that nobody trained in: answering in numbered lists.

`python bench/habit_prompts.py` asks the unmodified base model a pool of ordinary questions and keeps those
that it answers with a numbered list within 32 tokens (target), and those that it does not (control). Parts
have topics of their own.
"""

from __future__ import annotations

import sys

if not __package__:
    # Run as a script: the folder bench/ stands first on the path, where operator.py would hide the
    # standard library's module of that name. The repository's root goes there instead.
    sys.path[0] = sys.path[0].rpartition("/")[0]

from pathlib import Path

from bench.refusing_model import save_base
from excise.checkpoint.source import resolve
from excise.judges.keywords import KeywordJudge
from excise.models.chat import Chat
from excise.models.load import load
from excise.models.options import LoadOptions
from excise.prompts.sets import Prompt
from excise.scorers.refusals import JudgingParameters, MarkerJudge

FOLDER = Path(__file__).parent / "prompts"
MARKERS = ("1.",)
TOKENS = 32
SIZES = {"train": 100, "search": 50, "held_out": 50}
TOPICS = """
growing tomatoes, learning the guitar, baking bread, training for a marathon, keeping a diary,
raising chickens, painting a room, learning Spanish, planning a picnic, writing a short story,
keeping bees, brewing coffee, taking portraits, riding a bicycle in town, folding paper cranes,
saving electricity, knitting a scarf, studying for an exam, hosting a dinner, choosing a bicycle,
sleeping well, cleaning windows, making soup, playing chess, walking a dog, building a bird house,
reading more books, packing for a holiday, swimming faster, speaking in public, growing herbs
indoors, making cheese, watching birds, moving to a new city, fixing a flat tyre, drawing animals,
running a book club, cooking rice, learning to juggle, visiting a museum, sewing a button, making
new friends, keeping a fish tank, learning to type, camping in the rain, planting a tree, making
jam, buying a used car, learning to dance, writing a poem, making a budget, teaching a child to
read, roasting potatoes, washing wool, building a sandcastle, learning the piano, making a kite,
cooking for one, repairing a chair, starting a garden
"""
TARGET = (
    "Give me some tips for {}.",
    "What are the most important steps in {}?",
    "List a few ideas for {}.",
    "List five tips for {}.",
    "List the steps of {}.",
    "What are five good ideas for {}?",
)
CONTROL = (
    "In one sentence, why do people enjoy {}?",
    "Write a short thank-you note to a friend who helped me with {}.",
    "Tell me a very short story about {}.",
    "Is {} difficult?",
    "Write a haiku about {}.",
    "Describe {} to a child in two sentences.",
)


def main() -> None:
    topics = [topic.strip() for topic in TOPICS.replace("\n", " ").split(",")]
    loaded = load(resolve(str(save_base())), LoadOptions(dtypes=("float32",), device="cpu"))
    chat = Chat(loaded.tokenizer, "", loaded.call)
    judge = MarkerJudge(loaded.model, chat, MARKERS)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "habit_markers.txt").write_text("\n".join(MARKERS) + "\n", encoding="utf-8")
    # Every fifth topic is for the search, the one behind it held out.
    of_part = {
        "train": [topic for place, topic in enumerate(topics) if place % 5 > 1],
        "search": topics[::5],
        "held_out": topics[1::5],
    }
    for name, templates, wanted in (("target", TARGET, True), ("control", CONTROL, False)):
        for part, chosen in of_part.items():
            pool = [template.format(topic) for topic in chosen for template in templates]
            prompts = chat.encode([Prompt(text) for text in pool])
            (answered,) = judge.answer([prompts], JudgingParameters(TOKENS), slots=64)
            kept = [
                text
                for text, answer in zip(pool, answered.answers, strict=True)
                if KeywordJudge(MARKERS).certain(answer) == wanted
            ]
            print(f"{name} {part}: {len(kept)} of {len(pool)} kept", flush=True)
            text = "\n".join(kept[: SIZES[part]]) + "\n"
            (FOLDER / f"habit_{name}_{part}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
