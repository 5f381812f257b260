"""The entry point: calls the command and turns errors into one line and an exit status.

Exit statuses: 0 success, 2 an error that the user can fix, 130 interrupted, 141 a closed pipe. `excise
reproduce` has more, see docs/guides/reproduce.md.
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
from excise.cli.printable import PrintableRecord, printable
from excise.cli.screen import make_console
from excise.cli.streams import take_any_text
from excise.errors import ExciseError, first_line
from excise.system.platform import interrupt_signals, is_broken_pipe
from excise.system.quiet import quiet_libraries

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
_WIDEST_HELP = 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run `excise` with `argv`, by default the process's arguments. Returns the exit status."""
    take_any_text()
    if argv is None:
        # Only the process of the command line, not a caller of `main`, gets signal handlers.
        for number in interrupt_signals():
            signal.signal(number, signal.default_int_handler)
    # Users cannot act on warnings about future changes of libraries.
    warnings.simplefilter("ignore", FutureWarning)
    quiet_libraries()
    logging.setLogRecordFactory(PrintableRecord)
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
        if sys.stdout is not None:
            # The last write may fail too; here its error still becomes one line.
            sys.stdout.flush()
        # cyclopts returns None for --help and --version.
        return status or 0
    except CycloptsError as error:
        _print_error(explained(error))
        return USER_ERROR
    except ExciseError as error:
        _print_error(str(error))
        return USER_ERROR
    except OSError as error:
        if not is_broken_pipe(error):
            return _failed(error)
        # The reader of the pipe, such as `head`, has ended. Python flushes standard output once more at
        # exit, so it is redirected to the null device.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as interrupt:
        _print_error(str(interrupt) or "interrupted")
        return INTERRUPTED
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Report an error of memory or of the operating system. Raises any other error again."""
    from excise.devices.out_of_memory import MEMORY_ADVICE, is_out_of_memory

    if is_out_of_memory(error):
        _print_error(f"memory ran out ({first_line(error)}); {MEMORY_ADVICE}")
    elif isinstance(error, OSError):
        _print_error(
            f"{error.filename}: {first_line(error)}" if error.filename else first_line(error)
        )
    else:
        raise error
    return USER_ERROR


def _print_error(message: str) -> None:
    """Print the message as one line to standard error."""
    print(f"excise: {printable(' '.join(message.split()))}", file=sys.stderr)
