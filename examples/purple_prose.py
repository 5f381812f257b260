# %% [markdown]
# # A behaviour and a score of your own
#
# Refusals are only the default behaviour. Small chat models like purple prose: ask for a sentence about a
# garden, and it is "a vibrant tapestry". This notebook removes that habit. It brings its own prompts, its
# own markers, and a score of its own, written in Python.

# %%
import re

import pandas as pd
from matplotlib import pyplot as plt

import excise

TRIALS = 10
NEW_TOKENS = 24

# %% [markdown]
# ## Prompts
#
# Target prompts evoke purple prose, control prompts do not. A list of strings is enough. Excise shuffles
# it and splits it into train, search and held-out prompts.

# %%
places = """a market at dawn, the sea in winter, an old library, a garden after rain, a mountain lake, a busy
harbour, a forest in autumn, a desert at night, a village in spring, a river at sunset, a castle
ruin, a city at night, a snowy field, a lighthouse, a waterfall, a meadow in June, a cathedral, an
empty beach, a vineyard, a foggy bridge, an island at noon, a cave, a train station, a rose
garden, a starry sky, a thunderstorm, a quiet street, a theatre, a canyon, a frozen pond, an
orchard, a windmill, a coral reef, a rainforest, a valley, a fishing boat"""
things = """a kettle, a window, a bicycle, a carpet, a keyboard, a frying pan, a fridge, a sofa, a mirror, a
drain, a phone screen, a wool jumper, a teapot, an oven, a car seat, a wooden table, a lamp, a
printer, a sink, a shower, a blanket, a pair of shoes, a knife, a paint brush, a bucket, a
curtain, a vase, a grill, a helmet, a backpack, a clock, a chair, a fan, a ladder, a broom, a
toaster"""


def names(text: str) -> list[str]:
    return [one.strip() for one in text.replace("\n", " ").split(",")]


target = [f"Describe {one}." for one in names(places)]
target += [f"Write one sentence about {one}." for one in names(places)]
control = [f"How do I clean {one}?" for one in names(things)]
control += [f"What is {one} made of?" for one in names(things)]
prompts = excise.Prompts.of(target, control)
print(len(prompts.target.train), len(prompts.target.search), len(prompts.target.held_out))

# %% [markdown]
# ## Markers
#
# An answer with one of these phrases shows the behaviour. Excise calls such an answer a refusal, whatever
# the behaviour is.

# %%
stock = """vibrant, tapestry, testament, breathtaking, bustling, whisper, mysterious, mystery, bygone,
beautiful, beauty, treasure, timeless, serene, tranquil, majestic, enchant, captivat, symphony,
realm, canvas, radiant, golden, ethereal, awe, magical, stunning, picturesque, nestled, rich"""
markers = tuple(names(stock))
options = excise.Options(
    markers=markers, max_new_tokens=NEW_TOKENS, startup_trials=4, batch_size=12, candidates=2
)
loaded = excise.demo_model()
model, tokenizer = loaded.model, loaded.tokenizer
experiment = excise.Experiment.of(loaded, prompts, options)
print("answers with a marker:", experiment.baseline.refusals)
print(experiment.baseline.answers[0])

# %% [markdown]
# ## Search

# %%
study = experiment.search(trials=TRIALS)
for trial in study.front:
    print(f"trial {trial.number}: {trial.refusals} with a marker, KL {trial.kl:.3f}")

# %% [markdown]
# ## A score of your own
#
# Markers only show whether an answer contains a stock word. A score can be any function of answers. Here
# are three: stock words per 100 words, words in an answer, and answers that are an apology instead of a
# description. The last two show whether the edit replaced one habit by a worse habit. `generate` makes
# the answers while the edit is applied.

# %%
tokenizer.padding_side = "left"


def answers(texts: list[str]) -> list[str]:
    conversations = [[{"role": "user", "content": text}] for text in texts]
    tokens = tokenizer.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**tokens, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.batch_decode(ids[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


def stock_words(texts: list[str]) -> float:
    """Stock words per 100 words."""
    words = re.findall(r"[a-z']+", " ".join(texts).lower())
    return 100 * sum(word.startswith(markers) for word in words) / len(words)


def length(texts: list[str]) -> float:
    """Words in an answer."""
    return sum(len(text.split()) for text in texts) / len(texts)


def apologies(texts: list[str]) -> int:
    """Answers that apologise."""
    return sum("sorry" in text.lower() for text in texts)


def scores(texts: list[str]) -> dict[str, float]:
    return {"stock": stock_words(texts), "length": length(texts), "apologies": apologies(texts)}


# %% [markdown]
# ## The score over the front

# %%
held_out = [prompt.text for prompt in prompts.target.held_out]
original = answers(held_out)
rows = [{"trial": "original", "kl": 0.0, **scores(original)}]
edited = {}
for trial in study.front:
    with study.edit(trial).on(model):
        edited[trial.number] = answers(held_out)
    rows.append({"trial": trial.number, "kl": trial.kl, **scores(edited[trial.number])})
table = pd.DataFrame(rows).set_index("trial").sort_values("kl")
table.round(3)

# %%
figure, axes = plt.subplots(figsize=(6, 4))
axes.plot(1000 * table["kl"], table["stock"], "o-")
for name, row in table.iterrows():
    axes.annotate(
        str(name), (1000 * row["kl"], row["stock"]), xytext=(5, 5), textcoords="offset points"
    )
axes.set_xlabel("KL of the first answer token, thousandths of a nat (control prompts)")
axes.set_ylabel("stock words per 100 words")
figure.tight_layout()

# %% [markdown]
# ## Read the answers
#
# Always read some answers as well. The stock words are gone. But this model was trained to apologise, and
# without the stock words it does so in most answers. Neither the markers nor the KL divergence on control
# prompts shows this; our own score does. A better edit needs "sorry" among the markers, or
# more trials.

# %%
fewest = study.best("fewest").number
for text, before, after in list(zip(held_out, original, edited[fewest], strict=True))[:4]:
    print(text, "\n  before:", before, "\n  after: ", after)
