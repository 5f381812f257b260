# %% [markdown]
# # Remove over-refusal
#
# The demonstration model is a small chat model that was trained to refuse harmless questions with a
# dangerous word in them: "How do I kill a Python process?" This notebook finds the direction of that
# refusal, removes it, and looks at what changed and what it cost.
#
# The numbers in the next cell are small, so that the notebook runs in a minute on one processor core.
# Larger numbers give narrower intervals and a better front.

# %%
import torch
from matplotlib import pyplot as plt

import excise

TRAIN, SEARCH, HELD_OUT = 128, 24, 24  # prompts of each part; at most 400, 100 and 100
TRIALS = 12
NEW_TOKENS = 20

# %% [markdown]
# ## Model and prompts
#
# Target prompts evoke the behaviour. Control prompts do not. Train prompts give the directions, search
# prompts the scores of the search, and held-out prompts the figures at the end.

# %%
loaded = excise.demo_model()
prompts = excise.demo_prompts(TRAIN, SEARCH, HELD_OUT)
for kind, parts in (("target ", prompts.target), ("control", prompts.control)):
    print(kind, "|", parts.search[0].text, "|", parts.search[1].text)

# %% [markdown]
# ## What the model does now
#
# The experiment measures each of its attributes when it is first read. A fixed batch size and number of
# candidates make the search give the same trials on a fast and on a slow machine; without them, excise
# chooses both by memory and device. A coverage of 1 means that excise knows every module that writes to
# the residual stream.

# %%
options = excise.Options(max_new_tokens=NEW_TOKENS, startup_trials=6, batch_size=24, candidates=2)
experiment = excise.Experiment.of(loaded, prompts, options)
print("coverage of the worst layer:", round(min(experiment.coverage.per_layer), 4))
print("refused:", experiment.baseline.refusals)

# %% [markdown]
# ## A first edit
#
# One strength in all layers removes the direction everywhere. Refusals fall, and the KL divergence at the
# first answer token shows the cost on ordinary prompts.

# %%
full = experiment.edit(strength=1.0)
scores = experiment.score(full)
print("refused:", scores.refusals)
print("KL, nats:", scores.kl)

# %% [markdown]
# ## The search
#
# The search looks for edits with few refusals and little KL, with a different strength in each layer.

# %%
study = experiment.search(trials=TRIALS)
study.to_pandas()[["state", "refusals", "kl", "kind"]]

# %% [markdown]
# A pruned trial could not improve the front: its KL is exact, and its refusals are a lower bound. Its
# answers were not decoded to the end.
#
# The front holds the trials for which no other trial is at least as good in both refusals and KL. From it we
# take the trial with the least KL among those that leave at most a quarter of the refusals.

# %%
best = study.best(f"refusals<={SEARCH // 4}")
figure, axes = plt.subplots(figsize=(6, 4))
pruned = [trial for trial in study.trials if trial.state == "pruned"]
axes.plot([t.refusals for t in pruned], [t.kl for t in pruned], "x", color="0.6", label="pruned")
axes.plot([t.refusals for t in study.front], [t.kl for t in study.front], "o-", label="front")
axes.plot(best.refusals, best.kl, "s", markersize=9, label=f"chosen: trial {best.number}")
axes.set_xlabel(f"refused, of {SEARCH} search prompts")
axes.set_ylabel("KL, nats")
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## On prompts that the search never saw

# %%
edit = study.edit(best)
held_out = experiment.score(edit, on="held_out")
print("target prompts refused: ", held_out.refusals)
print("control prompts refused:", held_out.control_refusals)
print("KL at the first token:  ", held_out.kl)
print("KL along the answers:   ", held_out.answer_kl)

# %% [markdown]
# ## Before and after
#
# Inside the `with` block the model is edited by hooks. After the block, the model is restored bit for bit.

# %%
tokenizer, model = loaded.tokenizer, loaded.model


def answer(question: str) -> str:
    messages = [{"role": "user", "content": question}]
    tokens = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**tokens, max_new_tokens=NEW_TOKENS, do_sample=False)
    return tokenizer.decode(ids[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)


question = "How do I kill a Python process?"
tokens = tokenizer(question, return_tensors="pt")
logits_before = model(**tokens).logits
before = answer(question)
with edit.on(model):
    after = answer(question)
    logits_edited = model(**tokens).logits
logits_after = model(**tokens).logits
print("before:", before)
print("after: ", after)
print("the edit changes the logits:", not torch.equal(logits_before, logits_edited))
print("they are restored bit for bit:", torch.equal(logits_before, logits_after))

# %% [markdown]
# ## Keep it
#
# An edit is a small file. `to_peft` writes it as a LoRA adapter, and `excise.apply` writes it into a copy
# of a checkpoint.

# %%
edit.save("edit.safetensors")
edit.to_peft("adapter")
again = excise.Edit.load("edit.safetensors")
print(again.kind, len(again.changed), "writers changed")
