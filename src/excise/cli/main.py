"""The entry point: call the command, turn errors into a line and a status.

Statuses: 0 done, 2 a mistake that the user can mend, 130 interrupted; those of `excise reproduce` are in
docs/guides/reproduce.md.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence

from cyclopts import CycloptsError

import excise.cli.commands  # declares the commands of `app`  # noqa: F401
from excise.cli.command import app
from excise.cli.mistakes import command_first, explained
from excise.cli.screen import make_console
from excise.cli.streams import take_any_text
from excise.errors import ExciseError, first_line
from excise.system.platform import interrupt_signals, is_broken_pipe
from excise.system.quiet import quiet_libraries

MENDABLE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
_WIDEST_HELP = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run `excise` with `argv` (by default that of the process); returns the exit status."""
    take_any_text()
    if argv is None:
        # The process is ours: whatever interrupts it is told below.
        for one in interrupt_signals():
            signal.signal(one, signal.default_int_handler)
    # Notices of coming changes in libraries are for their callers, not for ours.
    warnings.simplefilter("ignore", FutureWarning)
    quiet_libraries()
    _show_what_libraries_log()
    try:
        console = make_console()
        console.width = min(shutil.get_terminal_size().columns, _WIDEST_HELP)
        status = app(
            command_first(sys.argv[1:] if argv is None else argv),
            console=console,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        _flush()
        # Of --help and --version, cyclopts returns nothing.
        return status or 0
    except CycloptsError as error:
        _say(explained(error))
        return MENDABLE
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
