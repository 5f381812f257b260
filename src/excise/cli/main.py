"""The entry point: parse the command line, call the command, turn errors into a line and a status.

Statuses: 0 done, 2 a mistake that the user can mend, 130 interrupted; those of `excise reproduce` are in
docs/guides/reproduce.md. Each command is imported when it is called, so that `--help` never waits for
PyTorch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence

from excise import __version__
from excise.cli.commands import (
    APPLY,
    BENCH,
    CHAT,
    COMPARE,
    DEMO,
    DIFF,
    EVALUATE,
    EXPORT,
    INSPECT,
    REPRODUCE,
    RUN,
    RUNS,
    SHOW,
    UPLOAD,
)
from excise.cli.help import help_text
from excise.cli.parser import CommandLine, parse
from excise.cli.streams import take_any_text
from excise.config import Settings, gather
from excise.errors import ExciseError, first_line
from excise.system.platform import interrupt_signals, is_broken_pipe
from excise.system.quiet import quiet_libraries

MENDABLE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run `excise` with `argv` (by default that of the process); returns the exit status."""
    take_any_text()
    if argv is None:
        # The process is ours: whatever interrupts it is told below.
        for one in interrupt_signals():
            signal.signal(one, signal.default_int_handler)
    try:
        line = parse(sys.argv[1:] if argv is None else argv)
        if line.help:
            print(help_text(line.command))
            _flush()
            return 0
        if line.version:
            print(f"excise {__version__}")
            return 0
        # Notices of coming changes in libraries are for their callers, not for ours.
        warnings.simplefilter("ignore", FutureWarning)
        quiet_libraries()
        _show_what_libraries_log()
        status = _CALLS[line.command.name](line)
        _flush()
        return status
    except ExciseError as error:
        _say(str(error))
        return MENDABLE
    except OSError as error:
        if not is_broken_pipe(error):
            return _failed(error)
        # The reader of a pipe, such as `head`, has gone: nobody is left to tell. Python would try to
        # flush standard output once more at exit, so that has to lead nowhere.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        _say(str(interrupt) or "interrupted")
        return INTERRUPTED
    except Exception as error:
        return _failed(error)


def _run(line: CommandLine) -> int:
    settings = _settings(line)
    from excise.cli.run_command import run

    return run(settings)


def _demo(line: CommandLine) -> int:
    from excise.cli.demo_command import demo

    return demo(line.flags, os.environ)


def _inspect(line: CommandLine) -> int:
    settings = _settings(line)
    from excise.cli.inspect_command import inspect

    return inspect(settings)


def _bench(line: CommandLine) -> int:
    from excise.cli.bench_command import BUILT_IN, bench, bench_demo

    if line.words == (BUILT_IN,):
        return bench_demo(line.flags, os.environ)
    return bench(_settings(line))


def _evaluate(line: CommandLine) -> int:
    settings = _settings(line)
    from excise.cli.evaluate_command import evaluate

    return evaluate(settings, _text(line, "against"))


def _compare(line: CommandLine) -> int:
    from excise.cli.compare_command import compare

    return compare((line.words[0], line.words[1]), line.flags, os.environ)


def _diff(line: CommandLine) -> int:
    from excise.cli.diff_command import diff

    words = line.words[0], line.words[1]
    return diff(words, line.flags, os.environ, undo=_text(line, "undo"), edit=_text(line, "edit"))


def _chat(line: CommandLine) -> int:
    from excise.cli.chat_command import chat

    generation = _text(line, "generation-config")
    return chat(line.words[0], line.flags, os.environ, generation=generation)


def _export(line: CommandLine) -> int:
    from excise.cli.export_command import export

    return export(line.words, line.flags, os.environ, force="force" in line.own)


def _show(line: CommandLine) -> int:
    from excise.cli.show_command import show

    return show(line.words[0], line.flags, os.environ, plot=_text(line, "plot"))


def _upload(line: CommandLine) -> int:
    from excise.cli.upload_command import upload

    return upload(
        line.words[0],
        line.flags,
        os.environ,
        to=_text(line, "to"),
        form=_text(line, "as"),
        public="public" in line.own,
        force="force" in line.own,
    )


def _reproduce(line: CommandLine) -> int:
    from excise.cli.reproduce_command import reproduce

    return reproduce(
        line.words[0],
        line.words[1],
        line.flags,
        os.environ,
        original=_text(line, "from"),
        repeat_search="repeat-search" in line.own,
    )


def _apply(line: CommandLine) -> int:
    from excise.cli.apply_command import apply

    return apply(line.words, line.flags, os.environ, force="force" in line.own)


def _runs(line: CommandLine) -> int:
    from excise.cli.runs_command import runs

    return runs(line.words, line.flags, os.environ)


_CALLS: Mapping[str, Callable[[CommandLine], int]] = {
    RUN.name: _run,
    DEMO.name: _demo,
    INSPECT.name: _inspect,
    BENCH.name: _bench,
    EVALUATE.name: _evaluate,
    COMPARE.name: _compare,
    DIFF.name: _diff,
    CHAT.name: _chat,
    EXPORT.name: _export,
    SHOW.name: _show,
    APPLY.name: _apply,
    UPLOAD.name: _upload,
    REPRODUCE.name: _reproduce,
    RUNS.name: _runs,
}


def _settings(line: CommandLine) -> Settings:
    """The settings in force. The model may also stand in the environment or in excise.toml."""
    named: Mapping[str, object] = {"model": line.words[0]} if line.words else {}
    return gather({**line.flags, **named}, os.environ, None)


def _text(line: CommandLine, flag: str) -> str | None:
    """The value of a flag that is no setting and takes one; None if it was not given."""
    value = line.own.get(flag)
    return None if value is None else str(value)


def _failed(error: Exception) -> int:
    """Say that memory ran out, or what the system refused. Raises `error` if it is another one."""
    from excise.devices.out_of_memory import MEMORY_ADVICE, is_out_of_memory

    if is_out_of_memory(error):
        _say(f"memory ran out ({first_line(error)}); {MEMORY_ADVICE}")
    elif isinstance(error, OSError):
        # Of the disk or the system, at a place that has no better name for it than the system's.
        _say(f"{error.filename}: {first_line(error)}" if error.filename else first_line(error))
    else:
        raise error
    return MENDABLE


def _flush() -> None:
    """Write what standard output still holds, while its errors can be told from others."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _show_what_libraries_log() -> None:
    from excise.cli.printable import PrintableRecord

    logging.setLogRecordFactory(PrintableRecord)


def _say(message: str) -> None:
    """One line on standard error, whatever the message looks like."""
    from excise.cli.printable import printable

    print(f"excise: {printable(' '.join(message.split()))}", file=sys.stderr)
