"""Judges by name: `keywords`, `hf:NAME`, `llm:MODEL`, `openai:URL#MODEL`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from excise.errors import SettingsError
from excise.events import Emit, ignore
from excise.judges.options import JudgeOptions
from excise.judges.text import normalise
from excise.judges.verdict import Judge
from excise.system.paths import expanded

Kind = Literal["keywords", "hf", "llm", "openai"]
FORMS = "keywords, hf:NAME[@REVISION], llm:MODEL[@REVISION] or openai:URL#MODEL"
"""What a judge's name may be."""


@dataclass(frozen=True)
class JudgeName:
    """A judge's name, taken apart.

    kind: the part before the colon. model: a hub id, a path, or the server's name of the model; empty for
    judges without a model. revision: of a model on the hub. url: of the server, without a slash at its end.
    """

    kind: Kind
    model: str = ""
    revision: str | None = None
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> JudgeName:
        """Raises ValueError, with the valid forms, for other text."""
        kind, colon, rest = text.partition(":")
        if kind not in get_args(Kind) or bool(colon) == (kind == "keywords"):
            raise ValueError(f"not a judge; give {FORMS}")
        if kind == "openai":
            url, _, model = rest.partition("#")
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or not model:
                raise ValueError(
                    "not openai:URL#MODEL, such as openai:http://localhost:8000/v1#my-model"
                )
            if parts.username is not None or parts.query:
                raise ValueError(
                    "the URL of a judge holds no password and no query; set its key in the environment"
                )
            return cls("openai", model, url=url.rstrip("/"))
        if colon and not rest:
            raise ValueError(f"names no model; give {FORMS}")
        model, at, revision = rest.rpartition("@")
        # A folder's name may contain the sign too.
        if not at or expanded(rest).exists():
            model, revision = rest, ""
        return cls(kind, model, revision or None)  # type: ignore[arg-type]  # checked above


def judge_of(name: str, options: JudgeOptions = JudgeOptions(), emit: Emit = ignore) -> Judge:
    """The judge of this name, ready to judge: models are loaded, servers are not asked yet.

    Raises SettingsError for another name or unknown labels of a classifier, ModelError or HubError for a
    model that cannot be loaded, and JudgeError for a missing key.
    """
    try:
        parsed = JudgeName.parse(name)
    except ValueError as error:
        raise SettingsError(f"judge {name!r}: {error}") from None
    # Each kind is imported when it is chosen: some need PyTorch, and one an HTTP client.
    match parsed.kind:
        case "keywords":
            from excise.judges.keywords import KeywordJudge

            own = options.markers
            return KeywordJudge(None if own is None else tuple(map(normalise, own)))
        case "hf":
            from excise.judges.classifier import load_classifier

            return load_classifier(parsed.model, parsed.revision, options, emit)
        case "llm":
            from excise.judges.chat_model import load_chat_model
            from excise.judges.rubric_judge import RubricJudge

            chat_model = load_chat_model(parsed.model, parsed.revision, options, emit)
            return RubricJudge(name, chat_model, options.cache, emit)
        case "openai":
            from excise.judges.rubric_judge import RubricJudge
            from excise.judges.server import ChatServer

            server = ChatServer.of(parsed.url, parsed.model, options)
            return RubricJudge(name, server, options.cache, emit)
