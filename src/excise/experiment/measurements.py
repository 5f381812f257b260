"""Measurements of a model in memory with prompts, made on first use."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Self

from optuna.trial import BaseTrial
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excise.anatomy.writers import Anatomy, examine
from excise.edits.base import Base
from excise.edits.edit import Edit
from excise.edits.virtual import VirtualEdits
from excise.errors import ModelError, ScorerError
from excise.events import Emit, Note, StageStarted, ignore
from excise.experiment.bank import Bank, edit_of, per_matrix
from excise.experiment.baseline import Part, measure_original
from excise.experiment.build_bank import build_bank
from excise.experiment.cached_prefix import room_for_cached_layers
from excise.experiment.coverage import Coverage, measure
from excise.experiment.events import BaselineMeasured, DirectionsFound, Examined
from excise.experiment.evidence import OriginalAnswers, needs_of, prompts_of_part
from excise.experiment.figures import Original, measure_unedited
from excise.experiment.options import Options
from excise.experiment.plan import Plan
from excise.experiment.runner import Runner
from excise.experiment.settle import Settled, candidates_for, settle, unfinished_note
from excise.experiment.trial import Scoring
from excise.judges.judge import as_judge
from excise.judges.keywords import KeywordJudge, WholeAnswerKeywords
from excise.judges.options import JudgeOptions
from excise.judges.verdict import Judge
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.models.template import choose_template
from excise.prompts.splits import Prompts
from excise.scorers.builtin import REPORTED
from excise.scorers.named import scorers_of
from excise.scorers.scorer import Scorer
from excise.search.objective import Objective
from excise.search.space import propose
from excise.search.start import start_points
from excise.search.study import Proposals


class Measurements:
    """A model and prompts, with the measurements that `Experiment` is built on."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Prompts,
        options: Options = Options(),
        *,
        chat: Chat | None = None,
        base: Base | None = None,
        known: Settled | None = None,
        emit: Emit = ignore,
    ) -> None:
        """chat: renders prompts; by default with the tokenizer's chat template. base: the files of the model,
        which edits record. known: values that an earlier experiment measured. emit: called with each event.

        Raises ModelError if the tokenizer has no chat template, if the template leaves out prompts, or if the
        model is in training mode, in which dropout makes its answers random.
        """
        if model.training:
            raise ModelError("the model is in training mode; call model.eval() first")
        self.model, self.prompts, self.options, self.base = model, prompts, options, base
        self.chat = chat if chat is not None else _chat(tokenizer, options)
        self.seconds: dict[str, float] = {}
        self._known, self.emit = known, emit

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        prompts: Prompts,
        options: Options = Options(),
        *,
        known: Settled | None = None,
        emit: Emit = ignore,
    ) -> Self:
        """An experiment with a model from `excise.load`; its edits record the model's files."""
        return cls(
            loaded.model,
            loaded.tokenizer,
            prompts,
            options,
            chat=Chat(loaded.tokenizer, options.response_prefix or "", loaded.call),
            base=Base.of(loaded.source),
            known=known,
            emit=emit,
        )

    def with_seed(self, seed: int) -> Self:
        """A copy of the experiment, with its measurements and another seed."""
        other = copy.copy(self)
        other.options = replace(self.options, seed=seed)
        return other

    @cached_property
    def anatomy(self) -> Anatomy:
        """The model's layers and writers. Raises ModelError."""
        return examine(self.model, self.options.writers)

    @cached_property
    def coverage(self) -> Coverage:
        """The coverage of each layer."""
        hello = self.chat.test_prompt(self.options.system_prompt)
        coverage = measure(self.model, self.anatomy, hello)
        self.emit(Examined(len(self.anatomy.layers), self.anatomy.matrices(), coverage.per_layer))
        return coverage

    @cached_property
    def runner(self) -> Runner:
        """Runs the model in batches of a measured size, with the measured response prefix."""
        options = self.options
        runner = Runner(
            self.model,
            self.chat,
            markers=options.markers,
            max_new_tokens=options.max_new_tokens,
            slots=options.batch_size or 1,
            rows=options.rows,
            emit=self.emit,
        )
        return settle(runner, options, self.prompts, self.emit, self._known)

    @property
    def is_settled(self) -> bool:
        """True if response prefix and batch size have been measured."""
        return "runner" in self.__dict__

    @cached_property
    def candidates(self) -> int:
        """The number of edits that are scored side by side."""
        return candidates_for(self.runner, self.options, self.prompts, self._known)

    @cached_property
    def search_part(self) -> Part:
        """The original model on the prompts of the search."""
        with self._stage("baseline", "Asking the original model"):
            part = measure_original(
                self.runner,
                prompts_of_part(self.prompts, "search", self.runner.chat),
                partial(room_for_cached_layers, self.model, self.anatomy),
            )
            self.emit(BaselineMeasured("search", part.refusals, len(part.target)))
            note = unfinished_note(self.runner.chat, part.answered.tokens)
            if note is not None:
                self.emit(Note(note))
        return part

    @cached_property
    def bank(self) -> Bank:
        """The directions and operators of a search, from the train prompts.

        Raises ModelError for incomplete coverage, PromptError if the prompts cannot be distinguished.
        """
        if not self.options.allow_partial:
            self.coverage.require_complete()
        runner, kinds = self.runner, self.options.kinds
        with self._stage("directions", "Finding the direction of each layer"):
            bank = build_bank(self.options, self.anatomy, runner, self.prompts)
        self.emit(DirectionsFound(kinds, self.seconds["directions"]))
        blocks = [block for kind in kinds for block in per_matrix(kind, self.anatomy)]
        if blocks:
            text = (
                f"{len(blocks)} blocks of experts: during the search only the sum of their experts is "
                "edited, with the orthogonal kind; a saved model has the row-normalised kind in each expert"
            )
            self.emit(Note(text))
        return bank

    def prepare_directions(self) -> None:
        """Compute the directions now, so that no trial waits for them. Raises what `bank` raises."""
        _ = self.bank

    @cached_property
    def keywords(self) -> KeywordJudge:
        """The judge of the search, cheap enough for every answer."""
        return KeywordJudge(self.options.markers)

    @cached_property
    def judge(self) -> Judge:
        """The judge of reports. Raises what `judge_of` raises."""
        options = self.options
        setup = replace(options.judge_options or JudgeOptions(), markers=options.markers)
        judge = as_judge(options.judge, setup, self.emit)
        if not isinstance(judge, KeywordJudge):
            return judge
        return (
            self.keywords if judge.markers == self.keywords.markers else WholeAnswerKeywords(judge)
        )

    @cached_property
    def objectives(self) -> tuple[Scorer, ...]:
        """The scorers whose figures a search improves."""
        return scorers_of(self.options.objectives, self.keywords, self.options.scorers)

    @cached_property
    def reported(self) -> tuple[Scorer, ...]:
        """The scorers of reports on held-out prompts."""
        usual = scorers_of(REPORTED, self.judge, self.options.scorers)
        further = [
            *self.objectives,
            *scorers_of(self.options.report, self.judge, self.options.scorers),
        ]
        # The usual scorers come first; last again, so that the chosen judge judges one that is an objective.
        return tuple({each.name: each for each in (*usual, *further, *usual)}.values())

    @cached_property
    def held_out(self) -> Original:
        """The original model on held-out prompts."""
        runner = self.runner
        self.emit(StageStarted("held_out", "Asking held-out prompts that the search never saw"))
        prompts = prompts_of_part(self.prompts, "held_out", runner.chat)
        held_out = measure_unedited(
            runner, prompts, self.reported, self.options.seed, self.leave_out
        )
        refusals = round(held_out.scores["refusals"].value)
        self.emit(BaselineMeasured("held_out", refusals, len(held_out.prompts["target"])))
        return held_out

    def leave_out(self, error: ScorerError) -> None:
        """Note that a figure is missing, if it is none of those that every report has."""
        if error.scorer in REPORTED:
            raise error
        self.emit(Note(f"{error}; its figure is left out"))

    def edit_of_trial(self, trial: BaseTrial) -> Edit:
        """The edit of an Optuna trial, from the parameters that the trial suggests."""
        return edit_of(propose(trial, self.options.kinds, self.anatomy), self.bank, self.anatomy)

    @property
    def proposals(self) -> Proposals:
        """How a search proposes trials: seed, number of first trials, and their parameters."""
        options = self.options
        count, seed = options.startup_trials, options.seed
        start = tuple(start_points(options.kinds, self.anatomy, count, seed))
        return Proposals(seed, count, start, tuple(map(Objective.of, self.objectives)))

    @contextmanager
    def scoring(
        self,
        candidates: int,
        writers: Sequence[str] | None = None,
        scorers: Sequence[Scorer] | None = None,
    ) -> Iterator[Scoring]:
        """A context that scores this number of edits side by side on the search prompts.

        writers: of the edits, by default the experiment's. scorers: whose scores are wanted, with intervals;
        by default the values of the objectives.
        """
        names = self.anatomy.names * self.options.directions if writers is None else writers
        asked, part = tuple(self.objectives if scorers is None else scorers), self.search_part
        plan = Plan(
            self.runner,
            part.prompts,
            asked,
            self.search_answers.along(needs_of(asked)),
            self.options.seed,
            detailed=scorers is not None,
        )
        with VirtualEdits(self.model, names) as edits:
            yield Scoring(self.runner, edits, part, candidates, plan)

    @cached_property
    def search_answers(self) -> OriginalAnswers:
        """The original model's answers to search prompts, along which scorers compare."""
        return OriginalAnswers(self.runner, self.search_part.prompts)

    @contextmanager
    def _stage(self, name: str, text: str) -> Iterator[None]:
        self.emit(StageStarted(name, text))
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _chat(tokenizer: PreTrainedTokenizerBase, options: Options) -> Chat:
    """Renders prompts with the tokenizer's chat template."""
    call, _ = choose_template(tokenizer, None, options.template_arguments, options.system_prompt)
    return Chat(tokenizer, options.response_prefix or "", call)
