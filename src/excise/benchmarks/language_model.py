"""A loaded model as lm-evaluation-harness's model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from excise.devices.memory import input_device
from excise.models.load import LoadedModel
from excise.models.template import Message, conversation_of

Progress = Callable[[int, int], None]
"""Called with the number of requests that are done, and of those known so far."""


class HarnessModel(HFLM):  # type: ignore[misc]
    """A model in memory, with hooks and all, as it is.

    progress: called after each request.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, progress: Progress) -> None:
        self._harness_sees_model = False
        super().__init__(
            pretrained=loaded.model,
            backend="causal",
            # A copy, because the harness gives a padding token to tokenizers without one.
            tokenizer=copy.deepcopy(loaded.tokenizer),
            batch_size=batch_size,
            chat_template_args={**loaded.call.arguments, **_named(loaded.call.name)},
        )
        self._harness_sees_model = True
        self._call = loaded.call
        self._done, self._known, self._progress = 0, 0, progress
        self.set_cache_hook(_Counter(self._count))

    @property
    def model(self) -> PreTrainedModel | None:
        """The model; None while the harness prepares, because it would tie weights, which are prepacked."""
        return self._model if self._harness_sees_model else None

    @property
    def device(self) -> torch.device:
        """Where inputs go. The weights of an offloaded model are on no device."""
        return input_device(self._model)

    def apply_chat_template(
        self, chat_history: Sequence[Message], add_generation_prompt: bool = True
    ) -> str:
        """The rendered messages, in the form that the template takes."""
        conversation = conversation_of(chat_history, self._call)
        return str(super().apply_chat_template(conversation, add_generation_prompt))

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """See HFLM; counts."""
        self._known += len(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """See HFLM; counts."""
        self._known += len(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        """See HFLM; counts."""
        self._known += len(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _count(self) -> None:
        self._done += 1
        self._progress(self._done, self._known)


class _Counter:
    """Takes the result of each request, as a cache of lm-evaluation-harness does, and counts it."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def add_partial(self, kind: str, request: object, result: object) -> None:
        """One request is done."""
        self._count()


def _named(template: str | None) -> dict[str, str]:
    return {} if template is None else {"chat_template": template}
