"""Trials of random models through what a run uses, so that what is measured is what ships."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bench.timed import timed_score
from excise.anatomy.writers import Anatomy
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.prefill import Tokens
from excise.errors import TrialError
from excise.events import Event
from excise.experiment.baseline import Part
from excise.experiment.events import BatchReduced
from excise.experiment.evidence import Asked
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.operators.operator import orthogonal, unit
from excise.search.scoring import Bound, Scored

STRENGTH = 0.8
_LETTERS = "bcdfghjklmnpqrtvwxz"
"""No vowels: no answer may hold a marker, or it would end there."""


def tokenizer_of(vocabulary: int) -> PreTrainedTokenizerFast:
    """Made-up words, one a token, decoded from bytes as the tokenizers of these models do it."""

    def word(number: int) -> str:
        letters = ""
        while number or not letters:
            number, letter = divmod(number, len(_LETTERS))
            letters += _LETTERS[letter]
        return "Ġ" + letters  # how byte-level vocabularies write a space

    words = {word(number): number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.BPE(words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


def new_edit(anatomy: Anatomy, device: torch.device) -> Edit:
    """A random edit on all writers, made as a trial makes it: from directions and strengths."""
    directions = unit(torch.randn(len(anatomy.names), anatomy.dimension, device=device)).cpu()
    operator = orthogonal(directions)
    strengths = torch.full((len(anatomy.names),), STRENGTH)
    return Edit("orthogonal", anatomy.names, operator.u, operator.v, strengths)


class TimedEdits(VirtualEdits):
    """Edits, with the seconds that the host spent on putting them in force and assigning them to rows."""

    seconds = 0.0

    def use_several(self, edits: Sequence[Edit]) -> None:
        """See `VirtualEdits`."""
        started = time.perf_counter()
        super().use_several(edits)
        self.seconds += time.perf_counter() - started

    def assign(self, rows: Sequence[int]) -> None:
        """See `VirtualEdits`."""
        started = time.perf_counter()
        super().assign(rows)
        self.seconds += time.perf_counter() - started

    def take(self) -> float:
        """The seconds since they were last taken."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass(frozen=True)
class RandomTrial:
    """Prompts for trials of a model whose answers all are of full length."""

    runner: Runner
    part: Part

    def scores(
        self, edits: VirtualEdits, candidates: Sequence[Edit]
    ) -> tuple[list[Scored], dict[str, float]]:
        """A trial of all candidates side by side, every verdict waited for; and seconds by stage."""
        found: list[Scored] = []
        bound = Bound(exhaustive=True)
        scores, seconds = timed_score(self.runner, edits, candidates, self.part, bound)
        for one in scores:
            if isinstance(one, TrialError):
                raise one
            found.append(one)
        return found, seconds


def random_trial(
    model: PreTrainedModel, prompts: Sequence[Tokens], tokens: int, slots: int
) -> RandomTrial:
    """Trials in which the same prompts stand for target and control prompts.

    tokens: of an answer. slots: rows decoded at a time; `Runner.slots` says how many were left if memory
    ran out, which is told on standard output too.
    """

    def emit(event: Event) -> None:
        if isinstance(event, BatchReduced):
            print(f"out of memory: {event.slots} rows at a time from now on", flush=True)

    runner = Runner(
        model,
        Chat(tokenizer_of(model.config.vocab_size)),
        markers=None,
        max_new_tokens=tokens,
        slots=slots,
        emit=emit,
    )
    asked = tuple(prompts)
    both = Asked(("",) * len(asked), asked)
    part = Part(
        {"target": both, "control": both},
        runner.log_probabilities(asked),
        runner.refusals(asked),
    )
    return RandomTrial(runner, part)
