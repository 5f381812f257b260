"""Prompt sets: where they are read from, and how they are split."""

from __future__ import annotations
