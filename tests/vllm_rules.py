"""What vLLM's loader asks of a LoRA folder, for machines that have no vLLM.

Rules as they stand in vllm-project/vllm, each with its place. Read in vllm/lora in a stored copy of the
repository, which has each file at another commit: lora_model.py at 0306474e9d1f, utils.py at 0fd157078c53,
peft_helper.py at e745bafffc44. Of peft_helper.py there is a newer copy, whose commit is not on record;
where it asks for more (named below), so do we.

1. `adapter_config.json` has r, lora_alpha and target_modules (peft_helper.py, PEFTHelper.from_dict)
2. modules_to_save is None, use_dora is off (peft_helper.py, PEFTHelper._validate_features); the newer copy
   also refuses lora_bias, activated, block-diagonal and QA LoRA, replicated layers, and initialisations
   that change the base model
3. r is at least 1 (the newer copy) and at most max_lora_rank, 16 if nothing is said; bias is "none"
   (peft_helper.py, validate_legal; the older copy takes others where the server was started so)
4. the weights are adapter_model.safetensors (lora_model.py, from_local_checkpoint; .bin and .pt would do)
5. each tensor is called base_model.model.MODULE.lora_A.weight or lora_B.weight (utils.py,
   parse_fine_tuned_lora_name)
6. the last part of MODULE is a linear layer of the model (lora_model.py, check_unexpected_modules; utils.py,
   get_supported_lora_modules)
7. A is [r, in] and B [out, r] (vllm/lora/layers, set_lora copies them into buffers of these shapes)
8. parameters of experts (target_parameters) are dropped in silence by some versions (pull request 41384)
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

_PREFIX = "base_model.model."
_REFUSED = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
)
_HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations by name that leave the base model as it is."""


def complaints(folder: Path, model: nn.Module, max_lora_rank: int = 16) -> list[str]:
    """Why vLLM would not serve the adapter on `model`: one text for each rule that is broken."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    found = [f"1: no {key}" for key in ("r", "lora_alpha", "target_modules") if key not in config]
    rank = config.get("r", 0)
    found += [f"2: {key}" for key in _REFUSED if config.get(key)]
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start not in _HARMLESS_STARTS:
        found.append(f"2: init_lora_weights {start}")
    if not 1 <= rank <= max_lora_rank:
        found.append(f"3: rank {rank}")
    if config.get("bias", "none") != "none":
        found.append(f"3: bias {config['bias']}")
    if config.get("target_parameters"):
        found.append(f"8: {config['target_parameters'][0]}")
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return [*found, "4: no adapter_model.safetensors"]
    linear = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    last_names = {name.rpartition(".")[2] for name in linear}
    for name, tensor in load_file(path).items():
        parts = name.removeprefix(_PREFIX).split(".")
        if not name.startswith(_PREFIX) or parts[-2:] not in (
            ["lora_A", "weight"],
            ["lora_B", "weight"],
        ):
            found.append(f"5: {name}")
            continue
        module = ".".join(parts[:-2])
        if parts[-3] not in last_names:
            found.append(f"6: {module}")
        elif module in linear:
            inputs, outputs = linear[module].in_features, linear[module].out_features
            wanted = (rank, inputs) if parts[-2] == "lora_A" else (outputs, rank)
            if tuple(tensor.shape) != wanted:
                found.append(f"7: {name} {tuple(tensor.shape)}, not {wanted}")
    return found
