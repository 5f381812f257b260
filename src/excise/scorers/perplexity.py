"""The perplexity of a text, in overlapping windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.likelihoods import likelihoods
from excise.engine.prefill import Tokens
from excise.errors import PromptError


@dataclass(frozen=True)
class TextLikelihood:
    """A model on a text. nats: for each window, minus the log-likelihood of its new tokens. tokens: their
    numbers.
    """

    nats: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token."""
        return math.exp(sum(self.nats) / sum(self.tokens))


@dataclass(frozen=True)
class TextWindows:
    """A text in windows: the new tokens of each, and the tokens before them that the model sees."""

    contexts: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]

    @classmethod
    def of(cls, tokens: Tokens, window: int = 512, stride: int = 256) -> TextWindows:
        """Every token but the first is the new token of one window.

        window: tokens that the model sees at once. stride: new tokens of a window, so that each has at least
        `window − stride` tokens before it, but for those of the first window. Raises PromptError if the text
        has fewer than two tokens, ValueError unless 0 < stride < window.
        """
        if not 0 < stride < window:
            raise ValueError(f"stride {stride}: must be from 1 to {window - 1}, below the window")
        if len(tokens) < 2:
            raise PromptError("perplexity needs a text of at least two tokens")
        contexts, targets = [tokens[:1]], [tokens[1:window]]
        for start in range(window, len(tokens), stride):
            contexts.append(tokens[start - window + stride : start])
            targets.append(tokens[start : start + stride])
        return cls(tuple(map(tuple, contexts)), tuple(map(tuple, targets)))

    def likelihood(
        self, model: PreTrainedModel, rows: int, assignment: Assignment = ONE_CANDIDATE
    ) -> TextLikelihood:
        """The model's log-likelihood of each window. rows: windows in a forward pass.

        Raises TrialError if a logit is not finite.
        """
        found = likelihoods(model, self.contexts, self.targets, rows, assignment)
        return TextLikelihood(
            tuple(-float(each.sum()) for each in found), tuple(map(len, self.targets))
        )
