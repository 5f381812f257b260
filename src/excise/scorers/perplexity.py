"""The perplexity of a text, in overlapping windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from transformers import PreTrainedModel

from excise.engine.assignment import ONE_CANDIDATE, Assignment
from excise.engine.likelihoods import likelihoods
from excise.engine.prefill import Tokens
from excise.errors import PromptError, translated
from excise.scorers.scorer import Better, EditedModel, Evidence, Score
from excise.scorers.statistics import RESAMPLES
from excise.system.paths import expanded


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

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """The 95 % percentile bootstrap interval of the perplexity, over windows."""
        nats, tokens = np.asarray(self.nats), np.asarray(self.tokens)
        picks = np.random.default_rng(seed).integers(0, len(nats), (RESAMPLES, len(nats)))
        drawn = np.exp(nats[picks].sum(1) / tokens[picks].sum(1))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)


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


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a text file, which the model reads as plain text, without the chat template.

    text: the file. tokens: number of first tokens that are read. window, stride: see `TextWindows.of`.
    """

    text: str = ""
    tokens: int = 4096
    window: int = 512
    stride: int = 256
    name: ClassVar[str] = "perplexity"
    unit: ClassVar[str] = "perplexity"
    better: ClassVar[Better] = "less"
    needs: ClassVar[tuple[EditedModel]] = (EditedModel(),)

    def __post_init__(self) -> None:
        """Raises ValueError for wrong numbers or without a file, PromptError for an unreadable file."""
        if not self.text:
            raise ValueError("name a text file: text = FILE under [scorers.perplexity]")
        if self.tokens < 2:
            raise ValueError(f"tokens {self.tokens}: must be at least 2")
        TextWindows.of((0, 0), self.window, self.stride)
        _ = self._content

    def score(self, evidence: Evidence) -> Score:
        """The perplexity, with a bootstrap interval over windows; the details are those of each window."""
        used = evidence[self.needs[0]]
        begin = used.chat.tokenizer.bos_token_id
        tokens = [*([] if begin is None else [begin]), *used.chat.tokens([self._content])[0]]
        windows = TextWindows.of(tokens[: self.tokens], self.window, self.stride)
        # The logits of a window take more memory than those of a prompt, of which one token counts.
        found = windows.likelihood(used.model, max(1, used.rows // 16))
        low, high = found.interval(evidence.seed)
        value = found.perplexity
        pairs = zip(found.nats, found.tokens, strict=True)
        details = tuple(math.exp(nats / count) for nats, count in pairs)
        return Score(
            value, min(low, value), max(high, value), len(details), self.unit, self.better, details,
            "perplexity of the text",
        )  # fmt: skip

    @cached_property
    def _content(self) -> str:
        path = expanded(self.text)
        with translated(PromptError, f"{path}: cannot be read", OSError, UnicodeDecodeError):
            return path.read_text(encoding="utf-8-sig")
