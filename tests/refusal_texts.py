"""Refusals, and answers that merely hold their words, in each language of the keywords judge."""

from __future__ import annotations

from refusals import (
    arabic,
    chinese,
    english,
    french,
    german,
    italian,
    japanese,
    korean,
    portuguese,
    russian,
    spanish,
)

_ALL = {
    "English": english,
    "German": german,
    "French": french,
    "Spanish": spanish,
    "Portuguese": portuguese,
    "Italian": italian,
    "Russian": russian,
    "Chinese": chinese,
    "Japanese": japanese,
    "Korean": korean,
    "Arabic": arabic,
}

REFUSALS = {name: texts.REFUSALS for name, texts in _ALL.items()}
ANSWERS = {name: texts.ANSWERS for name, texts in _ALL.items()}
