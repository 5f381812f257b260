"""`hf:NAME`: a text classifier from the hub or a folder that judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from excise.checkpoint.source import ModelSource, resolve
from excise.checkpoint.trust import require_sound_files, require_trust
from excise.devices.memory import devices_for, input_device
from excise.engine.batch_size import with_halving
from excise.errors import JudgeError, ModelError, SettingsError, listed, translated
from excise.events import Emit, Note, StageStarted
from excise.judges.options import JudgeOptions
from excise.judges.verdict import OUTCOMES, Exchange, Outcome, Verdict
from excise.models.positions import position_limit
from excise.system.quiet import quiet_libraries

_KNOWN_LABELS: Mapping[str, Outcome] = {
    # ProtectAI/distilroberta-base-rejection-v1
    "rejection": "refusal",
    "normal": "compliance",
    # NousResearch/Minos-v1
    "refusal": "refusal",
    "non-refusal": "compliance",
    # Classifiers with the labels of XSTest.
    "partial": "partial",
    "compliance": "compliance",
}
"""Labels, in lower case, that need no setting."""
_WITH_PROMPT: Mapping[str, str] = {"minos-v1": "<|user|>\n{prompt}\n<|assistant|>\n"}
"""The last part of a name, in lower case → the text before the answer. Other classifiers see answers only."""
_LONGEST = 8192
"""Most tokens that a classifier reads, if neither model nor tokenizer has a limit."""


@dataclass(frozen=True)
class Classifier:
    """A text classifier as a judge.

    outcomes: of the model's labels, in their order. before: the text before the answer, with the place of the
    prompt; empty if the classifier sees only answers. limit: tokens that the model reads.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    outcomes: tuple[Outcome, ...]
    before: str
    limit: int
    batch_size: int
    emit: Emit

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `Judge`. Long texts lose their end; a long prompt leaves half of the tokens to the answer."""
        texts = [self._text(exchange) for exchange in exchanges]
        # Texts of similar lengths run together, so that little of a batch is padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]), reverse=True)
        ordered = [texts[index] for index in order]
        if not ordered:
            return []
        shares, _ = with_halving(
            self.batch_size, lambda rows: self._shares(ordered, rows), self._halved
        )
        if not torch.isfinite(shares).all():
            raise JudgeError(
                f"judge {self.name}: its scores are not numbers; take another data type"
            )
        found = dict(zip(order, map(self._verdict, shares), strict=True))
        return [found[index] for index in range(len(exchanges))]

    def _text(self, exchange: Exchange) -> str:
        if not self.before:
            return exchange.answer
        most = self.limit // 2
        prompt = exchange.prompt
        tokens = self._tokens(prompt)
        if len(tokens) > most:
            prompt = str(self.tokenizer.decode(tokens[:most], skip_special_tokens=True))
        return self.before.replace("{prompt}", prompt) + exchange.answer

    def _tokens(self, text: str) -> list[int]:
        # Tokenizers written in Rust raise plain Exception.
        with translated(
            JudgeError, f"judge {self.name}: its tokenizer fails on a prompt", Exception
        ):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _shares(self, texts: Sequence[str], rows: int) -> Tensor:
        """Probabilities of the labels [text, label], float32."""
        device, shares = input_device(self.model), []
        for start in range(0, len(texts), rows):
            with translated(
                JudgeError, f"judge {self.name}: its tokenizer fails on an answer", Exception
            ):
                batch = self.tokenizer(
                    list(texts[start : start + rows]),
                    truncation=True,
                    max_length=self.limit,
                    padding=True,
                    return_tensors="pt",
                )
            logits = self.model(**batch.to(device)).logits
            shares.append(logits.float().softmax(-1).cpu())
        return torch.cat(shares)

    def _verdict(self, shares: Tensor) -> Verdict:
        """The outcome with the largest sum of its labels' probabilities [label]."""
        sums = dict.fromkeys(OUTCOMES, 0.0)
        for outcome, share in zip(self.outcomes, shares.tolist(), strict=True):
            sums[outcome] += share
        best = max(OUTCOMES, key=lambda outcome: sums[outcome])
        label = self.model.config.id2label[int(shares.argmax())]
        return Verdict(best, min(1.0, sums[best]), f"label {label}")

    def _halved(self, rows: int) -> None:
        self.emit(Note(f"memory ran out: the judge goes on with {rows} answers at a time"))


def load_classifier(
    name: str, revision: str | None, options: JudgeOptions, emit: Emit
) -> Classifier:
    """Load a text classifier in float32; code that comes with it never runs.

    Raises ModelError or HubError if it cannot be loaded, SettingsError for labels without an outcome.
    """
    quiet_libraries()
    source = resolve(name, revision)
    require_trust(name, source.folder, trust_remote_code=False)
    require_sound_files(source)
    outcomes = outcomes_of(_labels(source), options.labels, name)
    emit(StageStarted("load", f"Loading {name}"))
    model, tokenizer = _loaded(source, options.loading.device)
    limits = (tokenizer.model_max_length, position_limit(model) or _LONGEST, _LONGEST)
    return Classifier(
        f"hf:{name}",
        model,
        tokenizer,
        outcomes,
        _WITH_PROMPT.get(name.rstrip("/").rpartition("/")[2].lower(), ""),
        int(min(limits)),
        options.batch_size,
        emit,
    )


def outcomes_of(
    labels: Sequence[str], given: Mapping[str, Outcome], name: str
) -> tuple[Outcome, ...]:
    """The outcome of each label, from the settings or the known labels.

    Raises SettingsError, with all labels, for a label without an outcome and a given label that the model
    lacks.
    """
    table = {label.lower(): outcome for label, outcome in given.items()} or _KNOWN_LABELS
    all_labels = ", ".join(labels)
    if wrong := [label for label in given if label.lower() not in map(str.lower, labels)]:
        raise SettingsError(
            f"judge hf:{name}: has no label {listed(wrong)}; its labels are {all_labels}"
        )
    if unknown := [label for label in labels if label.lower() not in table]:
        example = ",".join(f"{label}=OUTCOME" for label in labels)
        raise SettingsError(
            f"judge hf:{name}: no outcome is known for {listed(unknown)} (its labels are {all_labels}); say "
            f"which mean refusal, partial or compliance with labels (--judge-labels {example})"
        )
    return tuple(table[label.lower()] for label in labels)


def _labels(source: ModelSource) -> list[str]:
    with translated(ModelError, f"{source.name}: its configuration cannot be read", Exception):
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    classes = config.architectures or []
    if not any("ForSequenceClassification" in name for name in classes):
        raise ModelError(
            f"{source.name}: is no text classifier, but {', '.join(classes) or 'of an unknown class'}; a "
            "chat model judges as llm:MODEL"
        )
    if len(labels) < 2:
        raise ModelError(f"{source.name}: has a single label; a judge needs at least two")
    return labels


def _loaded(source: ModelSource, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # excise shows progress itself.
    transformers_logging.disable_progress_bar()
    # The libraries raise many kinds of exceptions for damaged files, plain Exception among them.
    with translated(ModelError, f"{source.name}: cannot be loaded as a text classifier", Exception):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    if report["missing_keys"]:
        missing = listed(sorted(report["missing_keys"]))
        raise ModelError(f"{source.name}: is no text classifier: the checkpoint lacks {missing}")
    if tokenizer.pad_token is None:
        raise ModelError(f"{source.name}: its tokenizer has no padding token")
    tokenizer.truncation_side = tokenizer.padding_side = "right"
    model.to(devices_for(device, {})[0]).eval()
    return model, tokenizer
