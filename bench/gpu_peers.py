"""What excise's trials are measured against: heretic's adapters, and weights changed by the dense projector.

Both write weights for every trial and answer all prompts in one padded batch, as heretic does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from bench.gpu_clock import Clock, Row
from bench.random_trials import STRENGTH
from excise.anatomy.writers import Anatomy
from excise.operators.operator import unit

RANK = 3


@dataclass(frozen=True)
class Request:
    """What every trial is asked. prompts: [row, token] on the device; tokens: of an answer."""

    prompts: Tensor
    tokens: int


@torch.inference_mode()
def ask(model: PreTrainedModel, request: Request) -> Tensor:
    """KL's forward pass, and answers of full length: [row, token]."""
    ids = request.prompts
    model(ids, logits_to_keep=1).logits[:, -1].to(torch.float32).log_softmax(-1)
    cache = DynamicCache(config=model.config)
    newest, said = ids, []
    for _ in range(request.tokens):
        output = model(newest, past_key_values=cache, use_cache=True, logits_to_keep=1)
        newest = output.logits[:, -1:].argmax(-1)
        said.append(newest)
    return torch.cat(said, 1).cpu()


def linear_writers(model: PreTrainedModel, anatomy: Anatomy) -> list[str]:
    """Writers that an adapter can be put on."""
    return [name for name in anatomy.names if isinstance(model.get_submodule(name), nn.Linear)]


def fitted(weight: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of the rank-3 fit to the ablation of the row-normalised matrix, norms of rows restored."""
    matrix = weight.to(torch.float32)
    norms = matrix.norm(dim=1, keepdim=True)
    plain = matrix / norms
    ablated = torch.addr(plain, r, r @ plain, alpha=-STRENGTH)
    change = torch.nn.functional.normalize(ablated, dim=1) * norms - matrix
    u, s, v = torch.svd_lowrank(change, q=2 * RANK + 4, niter=6)
    root = s[:RANK].sqrt()
    return root.unsqueeze(1) * v[:, :RANK].T, u[:, :RANK] * root


def lora(model: PreTrainedModel, anatomy: Anatomy, request: Request, clock: Clock) -> Row | None:
    names = linear_writers(model, anatomy)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names))
    modules = [model.get_submodule(name) for name in names]

    @torch.no_grad()
    def put() -> None:
        r = unit(torch.randn(anatomy.dimension, device=request.prompts.device))
        for module in modules:
            down, up = fitted(module.base_layer.weight, r)
            module.lora_A["default"].weight.copy_(down)
            module.lora_B["default"].weight.copy_(up)

    row = clock.attempt("LoRA", 1, put, partial(ask, model, request))
    adapted.unload()
    return row


def dense(model: PreTrainedModel, anatomy: Anatomy, request: Request, clock: Clock) -> Row | None:
    weights = [
        model.get_parameter(tensor.name)
        for writer in anatomy.writers
        for tensor in writer.tensors
        if not tensor.bias
    ]
    originals = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def put() -> None:
        r = unit(torch.randn(anatomy.dimension, device=request.prompts.device))
        projector = (STRENGTH * torch.outer(r, r)).to(weights[0].dtype)
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original)
            for matrix in weight.unbind() if weight.dim() == 3 else (weight,):
                matrix.sub_(projector @ matrix)

    row = clock.attempt("dense", 1, put, partial(ask, model, request))
    with torch.no_grad():
        for weight, original in zip(weights, originals, strict=True):
            weight.copy_(original)
    copies = sum(original.nbytes for original in originals)
    return None if row is None else replace(row, memory=row.memory + copies)
