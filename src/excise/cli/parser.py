"""The command line's words and flags, taken apart. What the values mean is for `gather` to say."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from excise.cli.commands import NAMED, RUN, Command, OwnFlag
from excise.config import flag_name, flags
from excise.config.explain import did_you_mean
from excise.errors import SettingsError

_EVERYWHERE = ("--help", "--version")


@dataclass(frozen=True)
class CommandLine:
    """What was typed.

    words: those after the command's name. flags: field to value, given ones only. own: the command's own
    flags, likewise; True for a switch.
    """

    command: Command
    words: tuple[str, ...]
    flags: Mapping[str, object]
    own: Mapping[str, str | bool]
    help: bool
    version: bool


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are the project's own."""

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError in place of printing usage and leaving."""
        raise SettingsError(message.removeprefix("argument ").replace(": expected", ": needs", 1))


def parse(arguments: Sequence[str]) -> CommandLine:
    """Take `arguments` apart. Raises SettingsError, with the nearest valid name where one is near."""
    namespace, unknown = _parser().parse_known_intermixed_args(list(arguments))
    words: list[str] = namespace.words
    command = NAMED.get(words[0], RUN) if words else RUN
    typed = {
        flag.field: value
        for flag in flags()
        if flag.field != "model" and (value := getattr(namespace, flag.field)) is not None
    }
    own = {
        one.name: value
        for one in _own_flags()
        if (value := getattr(namespace, one.name)) is not None
    }
    if not (namespace.help or namespace.version):
        if unknown:
            _reject_flag(unknown[0], command)
        for field in typed:
            if field not in command.fields:
                raise SettingsError(f"{flag_name(field)}: excise {command.name} takes no such flag")
        for name in own:
            if name not in {one.name for one in command.own}:
                takers = [one.name for one in NAMED.values() if name in {f.name for f in one.own}]
                raise SettingsError(f"--{name}: only excise {', '.join(takers)} takes it")
        _check_words(words, command)
    return CommandLine(
        command=command,
        words=tuple(words if command is RUN else words[1:]),
        flags=typed,
        own=own,
        help=namespace.help,
        version=namespace.version,
    )


def _parser() -> _Parser:
    parser = _Parser(prog="excise", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    for own in _own_flags():
        if own.metavar:
            parser.add_argument(f"--{own.name}", dest=own.name)
        else:
            parser.add_argument(f"--{own.name}", dest=own.name, action="store_true", default=None)
    for flag in flags():
        if flag.field == "model":
            continue
        if flag.is_switch:
            parser.add_argument(flag.name, dest=flag.field, action="store_true", default=None)
        else:
            parser.add_argument(flag.name, dest=flag.field)
    return parser


def _own_flags() -> Sequence[OwnFlag]:
    """The flags of all commands that are no settings, each name once."""
    return list({flag.name: flag for command in NAMED.values() for flag in command.own}.values())


def _reject_flag(typed: str, command: Command) -> NoReturn:
    name = typed.split("=", 1)[0]
    known = [flag_name(field) for field in command.fields]
    known += [f"--{one.name}" for one in command.own] + list(_EVERYWHERE)
    raise SettingsError(f"{name}: no such flag{did_you_mean(name, sorted(known))}")


def _check_words(words: Sequence[str], command: Command) -> None:
    after = list(words) if command is RUN else list(words[1:])
    if len(after) > command.most:
        # "excise inspct MODEL": the first word was meant to be a command.
        hint = did_you_mean(words[0], NAMED) if command is RUN else ""
        raise SettingsError(
            f"{words[0]}: no such command{hint}" if hint else f"{after[command.most]}: one too many"
        )
    if len(after) < command.least:
        raise SettingsError(f"{command.name}: needs {_words(command)}; see excise --help")


def _words(command: Command) -> str:
    """The words that a command cannot do without."""
    return " ".join(command.usage.split()[: command.least])
