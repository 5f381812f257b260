"""Finds the response prefix and the batch size of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from excise.devices.environment import devices_digest
from excise.devices.memory import devices_of
from excise.engine.batch_size import concurrent_candidates, find_batch_size, slots_fit
from excise.engine.decode import greedy
from excise.engine.generation import settings_not_followed, settings_text
from excise.events import Emit, Note
from excise.experiment.events import BatchReduced, BatchSizeFound, ResponsePrefixFound
from excise.experiment.options import Options
from excise.experiment.response_prefix import with_common_beginning
from excise.experiment.runner import Runner
from excise.judges.keywords import KeywordJudge
from excise.models.chat import Chat
from excise.models.positions import require_known, require_positions, within_positions
from excise.models.weights import stored_bytes
from excise.prompts.splits import Prompts

_PREFIX_PROMPTS = 8
_PREFIX_TOKENS = 24


@dataclass(frozen=True)
class Settled:
    """Values that an experiment measured, which a resumed experiment uses again.

    batch_size: prompts in a decoding batch. rows: in a forward pass. candidates: scored side by side. device:
    `devices_digest` of the measurement, None if unknown. response_prefix: common beginning of answers.
    template_arguments: arguments that switch thinking off.
    """

    batch_size: int
    rows: int
    candidates: int
    device: str | None
    response_prefix: str
    template_arguments: Mapping[str, Any] = field(default_factory=dict)


def settle(
    runner: Runner, options: Options, prompts: Prompts, emit: Emit, known: Settled | None = None
) -> Runner:
    """`runner` with batch size and response prefix, which are measured unless the options set them.

    known: values of an earlier experiment. Raises ModelError if the model lacks tokens of a prompt, or
    positions for the longest prompt and its answer.
    """
    kept = known is not None and _is_sound(known, runner, options, prompts, emit)
    if known is not None and kept:
        runner = runner.with_batch(options.batch_size or known.batch_size, known.rows)
    if unfollowed := settings_not_followed(runner.model.generation_config):
        text = f"the model's generation configuration asks for {settings_text(unfollowed)}"
        emit(Note(f"{text}: generate and servers follow it, scores do not"))
    _require_positions(runner, prompts, options)
    if options.response_prefix is None:
        runner = runner.with_chat(_beginning(runner, options, prompts, known))
        _require_positions(runner, prompts, options)
        found = found_arguments(runner.chat, options.template_arguments)
        emit(ResponsePrefixFound(runner.chat.response_prefix, found))
    if not kept and options.batch_size == 0:
        slots = find_batch_size(
            runner.model,
            runner.chat.encode(prompts.target.search.prompts),
            options.max_new_tokens,
            stored_bytes(runner.model),
            lambda slots: emit(BatchReduced(slots)),
            candidates=options.candidates,
        )
        runner = runner.with_batch(slots, runner.rows)
    emit(BatchSizeFound(runner.slots))
    return runner


def candidates_for(
    runner: Runner, options: Options, prompts: Prompts, known: Settled | None
) -> int:
    """The number of edits scored side by side: from the options, an earlier experiment, or memory."""
    if options.candidates:
        return options.candidates
    if known is not None:
        return known.candidates
    return concurrent_candidates(runner.slots, len(prompts.target.search), runner.model)


def found_arguments(chat: Chat, given: Mapping[str, object]) -> dict[str, Any]:
    """The template's arguments that excise added to switch thinking off."""
    return {name: value for name, value in chat.call.arguments.items() if name not in given}


def unfinished_note(chat: Chat, answers: Sequence[Sequence[int]]) -> str | None:
    """A note about answers that end inside a chain of thought; None without such answers."""
    count = sum(map(chat.unfinished, answers))
    if not count:
        return None
    return (
        f"{count} of {len(answers)} answers end inside a chain of thought and count as refusals, because "
        "the answer is empty; give a larger max_new_tokens (--max-new-tokens), or switch thinking off with "
        "template_arguments (--template-arguments)"
    )


def _is_sound(
    known: Settled, runner: Runner, options: Options, prompts: Prompts, emit: Emit
) -> bool:
    """Whether the earlier batch size is used again; otherwise a note gives the reason.

    It is used on the same devices if it fits, because rounding, and with it a verdict, may depend on it.
    Other devices round differently anyway and may need another size.
    """
    model, asked = runner.model, runner.chat.encode(prompts.target.search.prompts)
    if known.device is not None and known.device != devices_digest(devices_of(model)):
        reason = "this run was on another device before"
    elif not slots_fit(model, asked, options.max_new_tokens, known.batch_size):
        reason = f"{known.batch_size} prompts at a time, as this run had before, do not fit into memory now"
    else:
        return True
    emit(Note(f"{reason}; a new batch size is measured, and figures may differ by rounding"))
    return False


def _beginning(runner: Runner, options: Options, prompts: Prompts, known: Settled | None) -> Chat:
    """The chat with the response prefix: of the earlier experiment, or found with a few prompts."""
    if known is not None:
        call = runner.chat.call.with_arguments(known.template_arguments)
        return replace(runner.chat, call=call, response_prefix=known.response_prefix)
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

    return with_common_beginning(runner.chat, few, ask, KeywordJudge(options.markers).cues)


def _require_positions(runner: Runner, prompts: Prompts, options: Options) -> None:
    """Raise ModelError if the model lacks a prompt's tokens, or positions for the longest and its answer."""
    sets = (
        one
        for parts in (prompts.target, prompts.control)
        for one in (parts.train, parts.search, parts.held_out)
    )
    encoded = [tokens for one in sets for tokens in runner.chat.encode(one.prompts)]
    require_known(runner.model, chain.from_iterable(encoded))
    require_positions(runner.model, max(map(len, encoded)), options.max_new_tokens)
