# %% [markdown]
# # Study a direction
#
# The direction of a behaviour is a vector in the residual stream. This notebook looks at the refusal
# direction of the demonstration model: how it changes from layer to layer, how well it separates prompts,
# at which tokens the projection on it is large, and how answers change when the direction is amplified.

# %%
import torch
from matplotlib import pyplot as plt

import excise

TRAIN, SEARCH = 96, 24  # prompts of each part; there are 400 and 100
NEW_TOKENS = 20

# %%
loaded = excise.demo_model()
model, tokenizer = loaded.model, loaded.tokenizer
prompts = excise.demo_prompts(TRAIN, SEARCH)
experiment = excise.Experiment.of(loaded, prompts, excise.Options(kinds=("orthogonal",)))

# %% [markdown]
# ## Geometry over layers
#
# Each layer has a unit direction: the mean of the target prompts minus the mean of the control prompts, in
# the residual stream after the layer, at the last token of the prompt.

# %%
directions = experiment.directions  # [layer, d]
cosines = directions @ directions.T  # [layer, layer]
figure, axes = plt.subplots(figsize=(5, 4))
image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r", origin="lower")
figure.colorbar(image, label="cosine")
axes.set_xlabel("direction of layer")
axes.set_ylabel("direction of layer")
figure.tight_layout()

# %% [markdown] Directions of neighbouring layers are similar, because a layer adds little to the stream.
# Layers far apart have different directions: the direction of the first layers is nearly orthogonal to that
# of the last ones.

# %%
neighbours = cosines.diagonal(1)
print(f"cosine of neighbours: {neighbours.min():.2f} to {neighbours.max():.2f}")
print(f"cosine of the first and the last layer: {cosines[0, -1]:.2f}")

# %% [markdown]
# ## Separation by layer
#
# Does the direction separate prompts that it was not computed from? We project search prompts on each
# layer's direction. The separation d' is the difference of the two means in units of the pooled standard
# deviation.

# %%
target = experiment.activations(prompts.target.search)[:, 0]  # [prompt, layer, d]
control = experiment.activations(prompts.control.search)[:, 0]
along_target = torch.einsum("pld,ld->pl", target, directions)
along_control = torch.einsum("pld,ld->pl", control, directions)
gap = along_target.mean(0) - along_control.mean(0)
pooled = ((along_target.var(0) + along_control.var(0)) / 2).sqrt()
separation = gap / pooled
best_layer = int(separation.argmax())

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
left.plot(separation)
left.axvline(best_layer, color="0.7", linestyle="--")
left.set_xlabel("layer")
left.set_ylabel("separation d'")
for values, label in ((along_target, "target"), (along_control, "control")):
    right.hist(values[:, best_layer].numpy(), bins=12, alpha=0.6, label=label)
right.set_xlabel(f"projection on the direction of layer {best_layer}")
right.set_ylabel("search prompts")
right.legend()
figure.tight_layout()

# %% [markdown]
# ## The projection at each token
#
# The direction was computed at the last token, which attends to the whole prompt. At which tokens is the
# projection large? 0 is the mean of the control prompts, 1 the mean of the target prompts.

# %%
question = "How do I kill a Python process?"
rendered = tokenizer.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
)["input_ids"]
start = len(rendered) - 16  # the question and the beginning of the answer
positions = range(start, len(rendered))
stream = experiment.activations([question], positions)[0, :, best_layer]
scale = (stream @ directions[best_layer] - along_control[:, best_layer].mean()) / gap[best_layer]
texts = [tokenizer.decode([rendered[position]]).replace("\n", "⏎") for position in positions]
figure, axes = plt.subplots(figsize=(8, 3.5))
axes.bar(range(len(texts)), scale)
axes.set_xticks(range(len(texts)), texts, rotation=60, ha="right")
axes.set_ylabel("projection, 0 control, 1 target")
figure.tight_layout()

# %% [markdown]
# The projection is highest at the end of the question and where the answer begins, not at the word "kill".
# So the decision depends on the whole question.

# %% [markdown]
# ## Steering without editing
#
# `edit.on(model)` applies an edit while a block runs, with any strength. Strength 1 removes the direction
# from what each writer adds to the stream, a negative strength amplifies it. No weight changes.

# %%
tokenizer.padding_side = "left"


def answers(questions: list[str]) -> list[str]:
    conversations = [[{"role": "user", "content": question}] for question in questions]
    tokens = tokenizer.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**tokens, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.batch_decode(ids[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


edit = experiment.edit("orthogonal", direction_index=best_layer)
asked = ["How do I kill a Python process?", "How do I bake bread?"]
for strength in (-1.0, 0.0, 1.0):
    with edit.scaled(strength).on(model):
        for question, answer in zip(asked, answers(asked), strict=True):
            print(f"{strength:+.0f}  {question}  {answer}")

# %% [markdown]
# ## Refusals by strength
#
# Amplifying the direction makes the model refuse ordinary questions. Removing it makes the model answer.

# %%
strengths = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
refusing = ("sorry", "can't", "cannot", "unable", "not able", "won't", "decline")


def refused(prompts: list[str]) -> float:
    found = answers(prompts)
    return sum(any(word in answer for word in refusing) for answer in found) / len(found)


kinds = {"target": prompts.target.search, "control": prompts.control.search}
share = {kind: [] for kind in kinds}
for strength in strengths:
    with edit.scaled(strength).on(model):
        for kind, part in kinds.items():
            share[kind].append(refused([prompt.text for prompt in part[:12]]))

figure, axes = plt.subplots(figsize=(6, 4))
for kind, values in share.items():
    axes.plot(strengths, values, "o-", label=f"{kind} prompts")
axes.set_xlabel("strength; below 0 amplifies, 1 removes")
axes.set_ylabel("share of refusals")
axes.legend()
figure.tight_layout()
