"""The identity of a model in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields

import torch
from transformers import PreTrainedModel

from excise.devices.prepacked import is_prepacked
from excise.edits.base import Base
from excise.experiment.options import Options
from excise.models.chat import Chat
from excise.prompts.splits import Prompts
from excise.scorers.builtin import SEARCHED
from excise.store.directory import prompts_digest
from excise.store.identity import Identity

_FREE = (
    "batch_size",
    "candidates",
    "rows",
    "exhaustive",
    "allow_partial",
    "allow_absent",
    "judge",
    "judge_options",
    "objectives",
    "report",
    "scorers",
)
_SAMPLED = 64
"""Numbers of each tensor in the digest, spread over the whole tensor."""


NEWER = ("template_text", "quantization")
"""Settings that stored studies of earlier versions lack."""


def identity_of_memory(
    model: PreTrainedModel, chat: Chat, prompts: Prompts, options: Options, base: Base | None
) -> Identity:
    """The identity of a study with these prompts, options, model and chat template."""
    name = base.model if base is not None else model.name_or_path or type(model).__name__
    settings: dict[str, object] = {
        each.name: list(value) if isinstance(value, tuple) else value
        for each in fields(options)
        if each.name not in _FREE
        for value in (getattr(options, each.name),)
    }
    # Studies with the usual objectives are those of versions without other objectives.
    if options.objectives != SEARCHED:
        names = [each if isinstance(each, str) else each.name for each in options.objectives]
        settings["objectives"] = names
        settings["scorers"] = {
            name: dict(options.scorers[name]) for name in names if name in options.scorers
        }
    if base is not None:
        # The digest of files does not depend on the data type that they were loaded in.
        settings["dtypes"] = [str(model.dtype).removeprefix("torch.")]
    template = chat.tokenizer.get_chat_template(chat.call.name)
    settings["template_text"] = hashlib.sha256(template.encode()).hexdigest()[:16]
    settings["quantization"] = _quantization(model)
    weights = base.digest if base is not None else weights_digest(model)
    return Identity.of(
        name, {"model": name, **settings}, weights=weights, prompts=prompts_digest(prompts)
    )


def _quantization(model: PreTrainedModel) -> object:
    """How the weights are quantised, as a JSON value; None for plain weights."""
    found = getattr(model.config, "quantization_config", None)
    values = found if found is None or isinstance(found, Mapping) else found.to_dict()
    return json.loads(json.dumps(values, default=str))


@torch.no_grad()
def weights_digest(model: PreTrainedModel) -> str:
    """16 hexadecimal digits over names, shapes, types and samples of all tensors of a model in memory."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = (tensor.to_dense() if is_prepacked(tensor) else tensor).reshape(-1)
        step = max(1, len(flat) // _SAMPLED)
        digest.update(flat[::step][:_SAMPLED].to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
