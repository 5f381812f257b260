"""Train the over-refusing demonstration adapter.

Run `python scripts/demo_model/train.py [--output DIR]` from the repository root. The adapter is a
low-rank one on the base model's projections, taught half on refusals of alarming-sounding prompts
and half on the base model's own short answers to ordinary ones. At the end it is rounded to
float16, loaded again, merged, and measured on prompts that it was not trained on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from data import ROOT, checked_refusals, control_pairs, read_prompts
from measure import measure
from model import chat_form, load_base, load_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from excise.engine.prefill import common_prefix_length

SEED = 7
RANK = 8
WARM_UP = 15
PROJECTIONS = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DECISION, DECISION_WEIGHT = 3, 4.0
"""The first tokens of an answer decide whether it is a refusal: they weigh more."""
OPENING = 8
"""Tokens of a control answer that are trained on where it is not taken whole."""
ADAPTER = ROOT / "src" / "excise" / "demo" / "adapter"
WORK = ROOT / "build" / "demo_model"


@dataclass(frozen=True)
class Phase:
    """A stretch of training whose learning rate falls from `rate` to 0."""

    steps: int
    rate: float
    target: int
    control: int
    whole_every: int
    """Every so many batches have the control answers whole; the others only their openings."""


PHASES = (
    # Openings teach the decision at half the cost of whole answers.
    Phase(steps=180, rate=8e-4, target=6, control=6, whole_every=4),
    # Whole answers, and more of them: a half-given answer must not slide into a refusal.
    Phase(steps=40, rate=3e-4, target=4, control=8, whole_every=1),
)

Example = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""


class Batches:
    """The training examples, and endless batches of them for a phase."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cache: Path) -> None:
        """Tokenise every prompt and answer once; `cache` keeps the base model's answers."""
        self.eos = tokenizer.eos_token_id

        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        self.refusals = [ids(text) for text in checked_refusals()]
        # The answer of a target prompt is drawn anew each time, so that no wording is memorised.
        self.target: list[Example] = [
            (ids(chat_form(tokenizer, prompt)), []) for prompt in read_prompts("target_train")
        ]
        self.control: list[Example] = [
            (ids(chat_form(tokenizer, prompt)), ids(reply))
            for prompt, reply in control_pairs(tokenizer, cache)
        ]
        starts = [prompt for prompt, _ in self.target + self.control]
        self.prefix = starts[0][: common_prefix_length(starts)]
        """The system prompt: the same tokens open every example, and are computed once a batch."""

    def draw(self, phase: Phase, generator: random.Random) -> Iterator[list[Example]]:
        """Batches with the shared prefix taken off; the target examples come first."""
        groups = zip(
            similar_groups(self.target, phase.target, generator),
            similar_groups(self.control, phase.control, generator),
            strict=True,
        )
        for number, (target, control) in enumerate(groups):
            whole = number % phase.whole_every == 0
            batch = [
                (prompt, [*generator.choice(self.refusals), self.eos]) for prompt, _ in target
            ] + [
                (prompt, [*reply, self.eos] if whole else reply[:OPENING])
                for prompt, reply in control
            ]
            yield [(prompt[len(self.prefix) :], reply) for prompt, reply in batch]


def similar_groups(
    examples: list[Example], size: int, generator: random.Random
) -> Iterator[list[Example]]:
    """Endless groups of `size` examples of similar length, reshuffled on every pass."""
    while True:
        # Sorting with a random nudge keeps lengths close without fixing who shares a batch.
        nudged = sorted(examples, key=lambda example: len(example[0]) + generator.uniform(-3, 3))
        groups = [nudged[i : i + size] for i in range(0, len(nudged), size)]
        generator.shuffle(groups)
        yield from (group for group in groups if len(group) == size)


def batch_losses(
    inner: PreTrainedModel, prefix: list[int], batch: list[Example]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss to descend, and the mean loss on the first answer token: the decision itself."""
    width = max(len(prompt) + len(reply) for prompt, reply in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    present = torch.zeros_like(ids)
    weight = torch.zeros(len(batch), width)
    first = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, (prompt, reply) in enumerate(batch):
        start, end = len(prompt), len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        present[row, :end] = 1
        weight[row, start:end] = 1.0
        weight[row, start : start + DECISION] = DECISION_WEIGHT
        first[row, start] = True
    cache = inner.model(input_ids=torch.tensor([prefix]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(batch))
    seen = torch.ones(len(batch), len(prefix), dtype=torch.long)
    hidden = inner.model(
        input_ids=ids, attention_mask=torch.cat([seen, present], dim=1), past_key_values=cache
    ).last_hidden_state
    # The vocabulary is large: project only the positions that predict an answer token.
    answers = weight[:, 1:] > 0
    logits = inner.lm_head(hidden[:, :-1][answers])
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][answers], reduction="none")
    weights = weight[:, 1:][answers]
    return (losses * weights).sum() / weights.sum(), losses[first[:, 1:][answers]].detach().mean()


def train_phase(model: PreTrainedModel, data: Batches, phase: Phase, seed: int) -> None:
    """Train what of `model` can be trained, in place, with a fresh optimiser."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=phase.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 - step / phase.steps)
    )
    started = time.monotonic()
    recent: list[float] = []
    batches = data.draw(phase, random.Random(seed))
    for step, batch in zip(range(1, phase.steps + 1), batches, strict=False):
        loss, decision = batch_losses(model, data.prefix, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        recent = [*recent, decision.item()][-10:]
        if step % 5 == 0 or step == 1:
            print(
                f"step {step}/{phase.steps}: loss {loss.item():.3f}, first token "
                f"{sum(recent) / len(recent):.3f}, {time.monotonic() - started:.0f} s",
                flush=True,
            )


def fresh_adapter() -> PeftModel:
    """The base model with an adapter that does nothing yet."""
    torch.manual_seed(SEED)
    settings = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=PROJECTIONS, task_type="CAUSAL_LM"
    )
    return get_peft_model(load_base(), settings)


def save(model: PeftModel, folder: Path) -> None:
    """Write the adapter with float16 tensors and without the training machine's paths."""
    model.peft_config["default"].base_model_name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card; MODEL_CARD.md is ours
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ADAPTER, help="folder of the adapter")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of caches and transcripts")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer()
    data = Batches(tokenizer, options.work / "teacher_answers.json")
    print(f"{len(data.target)} target and {len(data.control)} control examples", flush=True)
    started = time.monotonic()
    model = fresh_adapter()
    model.train()
    for number, phase in enumerate(PHASES):
        train_phase(model.get_base_model(), data, phase, SEED + number)
    save(model, options.output)
    print(f"trained and saved in {time.monotonic() - started:.0f} s", flush=True)
    figures = measure(options.output, tokenizer, options.work / "answers.json")
    for part, counts in figures.items():
        print(
            f"{part}: {counts['refused']} of {counts['prompts']} refused, "
            f"{counts['ended']} ended on their own"
        )


if __name__ == "__main__":
    main()
