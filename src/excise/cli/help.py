"""The help text, made from the declared commands and settings."""

from __future__ import annotations

import shutil
import textwrap

from excise.cli.commands import DEMO, GROUPS, NAMED, REPRODUCE, RUN, RUNS, SHOW, Command
from excise.config import Flag, flags

_COLUMN = 30
_WIDEST = 110

_DESCRIPTION = (
    "Find the direction that a behaviour, such as refusing, takes inside a language model, and remove "
    "it from the weights with the least damage to everything else."
)
_SETTINGS = (
    "Every flag under a heading is also an environment variable (EXCISE_MAX_NEW_TOKENS) and a key of "
    "excise.toml in the working directory (max_new_tokens)."
)
_ONLY_TYPED = (REPRODUCE, SHOW, RUNS)
"""Commands that read neither the environment nor an excise.toml."""
_SEARCHING = (
    "Ctrl+C ends the search after the trial in hand; a run that was stopped or killed goes on when the same "
    "command is given again."
)


def help_text(command: Command) -> str:
    """The help text of the program, or of one of its commands."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    by_field = {flag.field: flag for flag in flags()}
    if command is RUN:
        parts = [textwrap.fill(_DESCRIPTION, width), _usages(width)]
    else:
        parts = [
            f"Usage: excise {command.name} {command.usage} [flags]".replace("  ", " "),
            f"{command.summary[0].upper()}{command.summary[1:]}.",
        ]
    if command.own:
        entries = ((f"--{one.name} {one.metavar}", one.description) for one in command.own)
        parts.append("\n".join(_entry(left.rstrip(), right, width) for left, right in entries))
    for group in GROUPS:
        shown = [by_field[field] for field in group.fields if field in command.fields]
        if shown:
            title = textwrap.fill(f"{group.title}:", width)
            parts.append("\n".join([title, *(_flag(flag, width) for flag in shown)]))
    notes = [] if command in _ONLY_TYPED else [_SETTINGS]
    notes += [_SEARCHING] if command in (RUN, DEMO) else []
    if notes:
        parts.append(textwrap.fill(" ".join(notes), width))
    if command.note:
        parts.append(textwrap.fill(command.note, width))
    return "\n\n".join(parts)


def _usages(width: int) -> str:
    lines = ["Usage:"]
    for command in (RUN, *NAMED.values()):
        usage = " ".join(word for word in ("excise", command.name, command.usage) if word)
        lines.append(_entry(usage, f"{command.summary[0].upper()}{command.summary[1:]}.", width))
    lines.append(_entry("excise COMMAND --help", "The flags of one command.", width))
    lines.append(_entry("excise --version", "The version.", width))
    return "\n".join(lines)


def _flag(flag: Flag, width: int) -> str:
    default = f" Default: {flag.default}." if flag.default else ""
    return _entry(f"{flag.name} {flag.metavar}".rstrip(), flag.description + default, width)


def _entry(left: str, right: str, width: int) -> str:
    """Two columns; a left side that is too long has the right one below it."""
    margin = " " * (_COLUMN + 2)
    lines = textwrap.wrap(right, max(20, width - len(margin)))
    if len(left) > _COLUMN - 1:
        return "\n".join([f"  {left}", *(margin + line for line in lines)])
    first, *rest = lines or [""]
    return "\n".join([f"  {left:<{_COLUMN}}{first}", *(margin + line for line in rest)])
