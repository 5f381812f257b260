"""All lists of phrases."""

from __future__ import annotations

from excise.judges.phrases.arabic import ARABIC
from excise.judges.phrases.chinese import CHINESE
from excise.judges.phrases.english import ENGLISH
from excise.judges.phrases.french import FRENCH
from excise.judges.phrases.german import GERMAN
from excise.judges.phrases.italian import ITALIAN
from excise.judges.phrases.japanese import JAPANESE
from excise.judges.phrases.korean import KOREAN
from excise.judges.phrases.language import Language
from excise.judges.phrases.portuguese import PORTUGUESE
from excise.judges.phrases.russian import RUSSIAN
from excise.judges.phrases.spanish import SPANISH

LANGUAGES: tuple[Language, ...] = (
    ENGLISH,
    GERMAN,
    FRENCH,
    SPANISH,
    PORTUGUESE,
    ITALIAN,
    RUSSIAN,
    CHINESE,
    JAPANESE,
    KOREAN,
    ARABIC,
)
