"""All lists of phrases."""

from __future__ import annotations

from excise.judges.phrases.english import ENGLISH
from excise.judges.phrases.language import Language

LANGUAGES: tuple[Language, ...] = (ENGLISH,)
