"""`llm:MODEL`: a chat model in memory that judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from excise.engine.answers import StoppingRule
from excise.engine.batch_size import with_halving
from excise.engine.decode import greedy
from excise.errors import JudgeError, TrialError, translated
from excise.events import Emit, Note
from excise.judges.options import JudgeOptions
from excise.judges.rubric import MAX_NEW_TOKENS, verdict_in
from excise.models.chat import Chat
from excise.models.load import LoadedModel, load
from excise.models.positions import within_positions
from excise.models.template import Message


@dataclass(frozen=True)
class LocalChatModel:
    """A loaded model that replies greedily. slots: replies that decode at a time."""

    loaded: LoadedModel
    slots: int
    emit: Emit

    def replies(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, str]]:
        """See `ChatModel`."""
        model, name = self.loaded.model, self.loaded.source.name
        chat = Chat(self.loaded.tokenizer, "", self.loaded.call)
        prompts = chat.tokens([chat.conversation(messages) for messages in conversations])
        most = within_positions(model, prompts, MAX_NEW_TOKENS)

        def decode(slots: int) -> list[list[int]]:
            return greedy(
                model,
                prompts,
                max_new_tokens=most,
                slots=slots,
                stopping_rule=_UntilVerdict(chat),
            )

        with translated(JudgeError, f"llm:{name}: the model cannot judge", TrialError):
            answers, _ = with_halving(self.slots, decode, self._halved)
        for index, tokens in enumerate(answers):
            yield index, chat.answer(tokens)

    def _halved(self, slots: int) -> None:
        self.emit(Note(f"memory ran out: the judge goes on with {slots} answers at a time"))


class _UntilVerdict(StoppingRule):
    """Stops a reply at its first verdict."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def should_stop(self, index: int, answer: list[int]) -> bool:
        return verdict_in(self._chat.answer(answer)) is not None


def load_chat_model(
    name: str, revision: str | None, options: JudgeOptions, emit: Emit
) -> LocalChatModel:
    """Load a chat model as a judge; code that comes with it never runs. Raises ModelError or HubError."""
    loading = replace(options.loading, trust_remote_code=False)
    return LocalChatModel(
        load(name, loading, revision=revision, emit=emit), options.batch_size, emit
    )
