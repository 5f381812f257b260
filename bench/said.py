"""What a model says, how far two sayings are apart, and how far rounding alone takes them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.engine.decode import greedy
from excise.engine.prefill import Tokens, first_token_logits, last_logits

ROWS = 25
DRAWS = 3
FAULT = 1.01


@dataclass(frozen=True)
class Said:
    """answers: greedy, token ids. logits: [prompt, vocabulary] of the first answer token, float64."""

    answers: list[list[int]]
    logits: Tensor


@dataclass(frozen=True)
class Parting:
    """Where an answer leaves the reference's.

    prompt, token: indices. gap: by how much the reference prefers its own token to the other one there.
    """

    prompt: int
    token: int
    gap: float


@dataclass(frozen=True)
class Rounding:
    """What rounding does to logits: the largest move of any, over all prompts and tokens.

    arithmetic: the runner's own, measured on the unedited model. storing: one rounding of every edited
    number to the type it is stored in, carried through.
    """

    arithmetic: float
    storing: float = 0.0

    @property
    def bound(self) -> float:
        """What two runs may differ by: both err, and a few draws of storing do not show the largest."""
        return 2 * (self.arithmetic + self.storing)


@dataclass(frozen=True)
class Way:
    """One form of the edit, held to another.

    said: what it says. difference: largest |difference| of a logit. partings: of the answers.
    """

    name: str
    held_to: str
    said: Said
    difference: float
    rounding: Rounding
    partings: tuple[Parting, ...]

    @property
    def explained(self) -> bool:
        """True if rounding explains all: logits, and answers that part where two tokens are nearly equal."""
        near = all(one.gap <= 2 * self.rounding.bound for one in self.partings)
        return near and self.difference <= self.rounding.bound


@dataclass(frozen=True)
class Reference:
    """What ways are held to. model: as it says `said`. unedited: what it says without the edit."""

    name: str
    model: PreTrainedModel
    prompts: Sequence[Tokens]
    unedited: Said
    said: Said

    def held(self, name: str, said: Said, rounding: Rounding) -> Way:
        """`said` compared with this."""
        parted = partings(self.model, self.prompts, self.said.answers, said.answers)
        difference = largest(said.logits, self.said.logits)
        return Way(name, self.name, said, difference, rounding, tuple(parted))


@contextmanager
def virtual(
    name: str, model: PreTrainedModel, edit: Edit, prompts: Sequence[Tokens], tokens: int
) -> Iterator[Reference]:
    """The scope in which `model` carries the virtual edit, which has been asked."""
    with VirtualEdits(model, edit.writers) as edits:
        unedited = ask(model, prompts, tokens)
        edits.use(edit)
        yield Reference(name, model, prompts, unedited, ask(model, prompts, tokens))


def ask(model: PreTrainedModel, prompts: Sequence[Tokens], tokens: int) -> Said:
    """First logits and greedy answers of at most `tokens` tokens."""
    answers = greedy(model, prompts, max_new_tokens=tokens, slots=ROWS)
    return Said(answers, logits_of(model, prompts))


def logits_of(model: PreTrainedModel, prompts: Sequence[Tokens]) -> Tensor:
    """Of the first answer token: [prompt, vocabulary], float64."""
    return first_token_logits(model, prompts, ROWS).double()


def largest(one: Tensor, other: Tensor) -> float:
    """Largest |difference|."""
    return float((one - other).abs().max())


def same(one: Said, other: Said) -> int:
    """How many answers are the same."""
    return sum(a == b for a, b in zip(one.answers, other.answers, strict=True))


def partings(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    reference: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
) -> list[Parting]:
    """Where `others` leave the `reference` answers, which are those of `model` as it is now."""
    found: list[Parting] = []
    for row, (own, other) in enumerate(zip(reference, others, strict=True)):
        if list(own) == list(other):
            continue
        # One of them ends in a token that ends it, or both are as long as can be: they part before that.
        place = next(i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b)
        with torch.inference_mode():
            ids = torch.tensor([[*prompts[row], *own[:place]]])
            logits = last_logits(model, ids)[0, -1].double()
        found.append(Parting(row, place, float(logits[own[place]] - logits[other[place]])))
    return found


class Exact:
    """A Llama with an edit written into its matrices in float64, norms too: no rounding but double's.

    The slow reference: W' = W − α u (vᵀ W), by no code of excise's. It uses up `model`. fault: by how much a
    logit moves if every strength is one per cent higher, to show what a bound would let pass.
    """

    def __init__(
        self, model: PreTrainedModel, edit: Edit, prompts: Sequence[Tokens], tokens: int
    ) -> None:
        self._model, self._prompts, self._tokens = _in_float64(model), prompts, tokens
        self._weights = [model.get_submodule(name).weight for name in edit.changed]
        before = [weight.clone() for weight in self._weights]
        unedited = ask(model, prompts, tokens)
        self._edit(edit, FAULT)
        faulty = logits_of(model, prompts)
        self._restore(before)
        self._edit(edit, 1.0)
        said = ask(model, prompts, tokens)
        self.reference = Reference("exact, float64", model, prompts, unedited, said)
        self.fault = largest(faulty, said.logits)

    def storing(self, dtype: torch.dtype) -> tuple[float, int]:
        """What it does to round every edited number to `dtype`: a move by up to half a spacing, drawn.

        The largest move of a logit, of a few draws; and how many answers stay in the first of them.
        """
        exact = [weight.clone() for weight in self._weights]
        said, stay, moves = self.reference.said, 0, list[float]()
        for seed in range(DRAWS):
            generator = torch.Generator().manual_seed(seed)
            for weight in self._weights:
                draw = torch.rand(weight.shape, generator=generator, dtype=weight.dtype) - 0.5
                weight += draw * spacing(weight, dtype)
            if seed == 0:
                stay = same(ask(self._model, self._prompts, self._tokens), said)
            moves.append(largest(logits_of(self._model, self._prompts), said.logits))
            self._restore(exact)
        return max(moves), stay

    def _edit(self, edit: Edit, factor: float) -> None:
        rows = zip(edit.writers, edit.u, edit.v, edit.strengths, strict=True)
        for name, u, v, strength in rows:
            weight = self._model.get_submodule(name).weight
            weight -= torch.outer(factor * strength.double() * u.double(), v.double() @ weight)

    def _restore(self, weights: Sequence[Tensor]) -> None:
        for weight, kept in zip(self._weights, weights, strict=True):
            weight.copy_(kept)


def spacing(values: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of each number, stored in `dtype`."""
    kind = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp_min(kind.tiny)).exponent - 1
    return kind.eps * torch.ldexp(torch.ones_like(values), exponent)


def _in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """transformers' own norms compute in float32, whatever they are given; PyTorch's do as they are told."""
    model.double()
    for name, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            owner, _, own = name.rpartition(".")
            norm = nn.RMSNorm(len(module.weight), module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            setattr(model.get_submodule(owner), own, norm)
    return model
