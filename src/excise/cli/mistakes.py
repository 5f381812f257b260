"""One line for each mistake on a command line, with what to type instead."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownOptionError
from cyclopts.exceptions import CoercionError, UnusedCliTokensError

from excise.cli.command import app
from excise.validation import did_you_mean


def command_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the command's name first, where cyclopts expects it; flags may precede it.

    A lone hyphen, which stands for standard input, moves to the end: cyclopts takes it for a flag elsewhere.
    """
    if "-" in arguments and "--" not in arguments:
        words = list(arguments)
        words.remove("-")
        arguments = [*words, "--", "-"]
    for index, word in enumerate(arguments):
        if word == "--":
            break
        if word.startswith("-") or (index and _takes_value(arguments[index - 1])):
            continue
        if word in _commands():
            return [word, *arguments[:index], *arguments[index + 1 :]]
        break
    return list(arguments)


def explained(error: CycloptsError) -> str:
    """One line for cyclopts' error: the place, the mistake, the allowed values."""
    chain = list(error.command_chain or ())
    known = _flags(app[chain[0]] if chain else app)
    match error:
        case UnknownOptionError():
            name = (error.token.keyword or error.token.value).partition("=")[0]
            takers = [command for command, one in _commands().items() if name in _flags(one)]
            if name in _flags(app) and chain:
                return f"{name}: excise {chain[0]} takes no such flag"
            if takers:
                return f"{name}: only excise {', '.join(takers)} takes it"
            lists = f"{' '.join(('excise', *chain))} --help lists the flags"
            return f"{name}: no such flag{did_you_mean(name, known, lists)}"
        case MissingArgumentError(argument=argument) if argument is not None:
            if argument.name not in known:
                words = str(app[chain[0]].usage).removeprefix(f"Usage: excise {chain[0]} ")
                return f"{chain[0]}: needs {words.removesuffix(' [FLAGS]')}; see excise {chain[0]} --help"
            if not argument.tokens and argument.required and error.keyword is None:
                return f"{chain[0]}: needs {argument.name} {argument.parameter.metavar}"
            return f"{error.keyword or argument.name}: needs one argument"
        case CoercionError(token=token, argument=argument) if token and argument:
            allowed = argument.get_choices(force=True) or ("true", "false")
            near = did_you_mean(token.value, allowed)
            return f"{token.keyword}={token.value}: must be one of {', '.join(allowed)}{near}"
        case UnusedCliTokensError():
            # "excise inspct MODEL": the first word is probably a misspelt command.
            typed = [word for word in error.root_input_tokens or () if not word.startswith("-")]
            hint = did_you_mean(typed[0], _commands()) if typed and not chain else ""
            if hint:
                return f"{typed[0]}: no such command{hint}"
            return f"{(error.unused_tokens or ['?'])[0]}: unexpected argument"
    return str(error)


def _commands() -> dict[str, App]:
    return {name: app[name] for name in app if not name.startswith("-")}


def _flags(command: App) -> list[str]:
    names = (name for argument in command.assemble_argument_collection() for name in argument.names)
    return ["--help", "--version", *(name for name in names if name.startswith("--"))]


def _takes_value(flag: str) -> bool:
    """True if some command takes the word after `flag` as its value."""
    found = [
        argument
        for command in (app, *_commands().values())
        for argument in command.assemble_argument_collection()
        if flag in argument.names
    ]
    return any(argument.token_count()[0] > 0 for argument in found)
