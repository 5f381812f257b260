"""The rules of vLLM's adapter loader.

Read in vllm-project/vllm: vllm/lora/peft_helper.py (`PEFTHelper.validate_legal`: no bias, no
modules_to_save, no DoRA, rank at most max_lora_rank), vllm/lora/utils.py (`parse_fine_tuned_lora_name`:
tensor names end in lora_A.weight or lora_B.weight) and vllm/lora/lora_model.py (`from_local_checkpoint`:
file names; the model has a LoRA layer for each module's last name). Some versions of vLLM ignore peft's form
for parameters of experts (vllm-project/vllm, pull request 41384); others need all three projections of an
expert.
"""

from __future__ import annotations

from collections.abc import Sequence

from excise.anatomy.writers import WriterTensor

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for --max-lora-rank (vllm/config/lora.py); its default is 16."""


def unservable(tensors: Sequence[WriterTensor]) -> str | None:
    """Why vLLM cannot load an adapter that changes these parameters, None if it can."""
    experts = [tensor for tensor in tensors if len(tensor.shape) == 3]
    biases = [tensor for tensor in tensors if tensor.bias]
    if experts:
        return (
            f"it changes experts ({experts[0].name}) as peft's target_parameters, which vLLM drops or "
            "refuses, depending on its version"
        )
    if biases:
        return f"it changes biases ({biases[0].name}), which vLLM refuses"
    return None


def serving_note(tensors: Sequence[WriterTensor], rank: int) -> str:
    """How to serve the adapter, as a section of its card."""
    reason = unservable(tensors)
    lines = [
        "## Serving",
        "",
        "transformers: `PeftModel.from_pretrained(model, FOLDER)`; `merge_and_unload` merges it into the "
        "weights.",
        "",
    ]
    if reason is not None:
        lines.append(
            f"vLLM cannot load this adapter: {reason}. Serve the whole edited model instead."
        )
    else:
        most = next((rank_limit for rank_limit in MAX_RANKS if rank_limit >= rank), None)
        flag = "" if most is None or most <= 16 else f" --max-lora-rank {most}"
        lines.append(f"vLLM: `vllm serve BASE --enable-lora{flag} --lora-modules edited=FOLDER`.")
    return "\n".join(lines)
