"""A trial as one writes it at first: prompts padded to one width, `generate` for all, nobody leaves early."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from excise.app.run import Run
from excise.judges.keywords import KeywordJudge
from excise.scorers.divergence import kl_divergence


def padded(prompts: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def simple_way(run: Run, markers: Sequence[str]) -> tuple[list[bool], float]:
    model, part = run.loaded.model, run.experiment.search_part
    pad = run.loaded.tokenizer.pad_token_id
    edited = model(**padded(part.control, pad), logits_to_keep=1).logits[:, -1].log_softmax(-1)
    kl = float(kl_divergence(part.original.log_softmax(-1), edited).mean())
    batch = padded(part.target, pad)
    limit = run.settings.max_new_tokens
    output = model.generate(**batch, do_sample=False, max_new_tokens=limit, pad_token_id=pad)
    answers = output[:, batch["input_ids"].shape[1] :].tolist()
    chat = run.experiment.runner.chat
    return [KeywordJudge(markers).refused(chat.decode(answer)) for answer in answers], kl
