"""How a loaded model is asked: what its answers begin with, what it has room for, how many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from excise.config import Settings
from excise.engine.batch_size import find_batch_size
from excise.engine.decode import greedy
from excise.engine.generation import settings_not_followed, settings_text
from excise.events import Emit, Note
from excise.experiment.events import BatchReduced, BatchSizeFound, ResponsePrefixFound
from excise.experiment.response_prefix import with_common_beginning
from excise.experiment.runner import Runner
from excise.models.chat import Chat
from excise.models.load import LoadedModel
from excise.models.positions import require_known, require_positions, within_positions
from excise.prompts.splits import PromptParts
from excise.store.directory import RunDirectory

_PREFIX_PROMPTS = 8
_PREFIX_TOKENS = 24


@dataclass(frozen=True)
class Beginning:
    """What a run found out about its answers' beginning: text, and arguments of the chat template."""

    response_prefix: str
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


def settle(
    runner: Runner,
    settings: Settings,
    loaded: LoadedModel,
    prompts: PromptParts,
    emit: Emit,
    *,
    probe: bool = True,
    known: Beginning | None = None,
) -> None:
    """Find the number of slots and the common beginning of all answers, unless they are given.

    known: the beginning that the run had before. Raises ModelError if prompts do not reach the model as they
    are, or it has no positions for the longest of them and its answer.
    """
    asked = settings_not_followed(loaded.model.generation_config)
    if asked:
        emit(
            Note(
                f"the model's generation configuration asks for {settings_text(asked)}: generate and servers "
                "follow that, scores do not"
            )
        )
    require_positions(runner.model, _longest(runner, prompts), settings.max_new_tokens)
    if settings.response_prefix is None:
        if known is None:
            runner.chat = _beginning_found(runner, settings, prompts)
        else:
            call = runner.chat.call.with_arguments(known.template_arguments)
            runner.chat = replace(runner.chat, call=call, response_prefix=known.response_prefix)
        require_positions(runner.model, _longest(runner, prompts), settings.max_new_tokens)
        emit(
            ResponsePrefixFound(runner.chat.response_prefix, found_arguments(runner.chat, settings))
        )
    if probe and settings.batch_size == 0:
        runner.slots = find_batch_size(
            loaded.model,
            runner.chat.encode(prompts.target.search.prompts),
            settings.max_new_tokens,
            loaded.bytes,
            lambda slots: emit(BatchReduced(slots)),
            candidates=settings.candidates,
        )
    emit(BatchSizeFound(runner.slots))


def beginning_of(directory: RunDirectory) -> Beginning | None:
    """The beginning that the run's trials were scored behind so far; None if it is not on record. Raises
    RunError.
    """
    if not directory.result.exists():
        return None
    record: dict[str, Any] = directory.record()
    found = record.get("circumstances")
    if found is None:
        # Of an excise that recorded less.
        return None
    return Beginning(str(found["response_prefix"]), dict(found.get("template_arguments", {})))


def found_arguments(chat: Chat, settings: Settings) -> dict[str, Any]:
    """The template's arguments that nobody gave: those that switch thinking off."""
    given = settings.template_arguments
    return {name: value for name, value in chat.call.arguments.items() if name not in given}


def unfinished_note(chat: Chat, answers: Sequence[Sequence[int]]) -> str | None:
    """What has to be known of answers that end inside a chain of thought; None if there are none."""
    count = sum(map(chat.unfinished, answers))
    if not count:
        return None
    return (
        f"{count} of {len(answers)} answers end inside a chain of thought and count as refusals, because "
        "nothing was answered; give a larger --max-new-tokens, or switch thinking off with "
        "--template-arguments"
    )


def _beginning_found(runner: Runner, settings: Settings, prompts: PromptParts) -> Chat:
    few = [
        *prompts.target.search.prompts[:_PREFIX_PROMPTS],
        *prompts.control.search.prompts[:_PREFIX_PROMPTS],
    ]

    def ask(chat: Chat) -> list[list[int]]:
        tokens = chat.encode(few)
        most = within_positions(runner.model, tokens, _PREFIX_TOKENS)
        return runner.in_rows(
            lambda rows: greedy(runner.model, tokens, max_new_tokens=most, slots=rows)
        )

    return with_common_beginning(runner.chat, few, ask, settings.markers)


def _longest(runner: Runner, prompts: PromptParts) -> int:
    """Tokens of the longest prompt of all parts. Raises ModelError if the model lacks one of them."""
    sets = (
        one
        for parts in (prompts.target, prompts.control)
        for one in (parts.train, parts.search, parts.held_out)
    )
    encoded = [tokens for one in sets for tokens in runner.chat.encode(one.prompts)]
    require_known(runner.model, chain.from_iterable(encoded))
    return max(map(len, encoded))
