"""Declares commands: a function, its own flags, and the settings that the command accepts as flags.

cyclopts parses the command line and writes the help texts. It leaves the values of settings as typed text,
because `gather` reads values from flags, variables and files in the same way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, TypeVar

from cyclopts import App, Group, Parameter
from cyclopts.help import DefaultFormatter, PanelSpec
from rich import box

from excise.config import Settings
from excise.config.flags import default_text, flag_name, is_list, is_switch, is_table, metavar
from excise.system.version import VERSION

Function = TypeVar("Function", bound=Callable[..., int])

MODEL = (
    *("revision", "dtypes", "device", "quantization", "max_memory", "offload_folder"),
    *("trust_remote_code", "chat_template", "template_arguments", "system_prompt"),
    *("writers", "config_only", "allow_partial", "allow_absent"),
)
PARTS = tuple(
    f"{kind}_{part}" for kind in ("target", "control") for part in ("train", "search", "held_out")
)
PROMPTS = ("target", "control", *PARTS, "column", "group_by", "prefix", "suffix")
DIRECTION = ("kinds", "directions", "direction_from", "winsorise", "orthogonalise")
SEARCH = (
    *("objectives", "report", "scorers"),
    *("trials", "startup_trials", "seed", "seeds", "search_seconds", "run_dir"),
)
SCORES = (
    *("max_new_tokens", "batch_size", "candidates", "exhaustive"),
    *("response_prefix", "markers"),
)
JUDGE = ("judge", "judge_labels", "judge_concurrency", "judge_timeout", "judge_key")
RESULT = ("select", "save", "adapter", "packed", "no_hardware")
OUTPUT = ("yes", "json_lines")
GROUPS = {
    "The model": MODEL,
    "Prompts (SET: a file, folder or hub data set; FILE[:400] is a part of it)": PROMPTS,
    "The direction": DIRECTION,
    "The search": SEARCH,
    "Scoring": (*SCORES, *JUDGE),
    "The result": RESULT,
    "Output": OUTPUT,
}
"""The headings of the help texts, and the settings under each."""

PLACES = (
    "Settings can also be in the environment or in excise.toml in the working directory. For example, "
    "--max-new-tokens 50 is the variable EXCISE_MAX_NEW_TOKENS=50 or the line max_new_tokens = 50. A flag "
    "overrides a variable, and a variable overrides the file. "
    '--trust-remote-code and what is listed under "Flags" work on the command line only.'
)
RESUMES = (
    "Ctrl+C ends the search after the running trial. The same command continues a run that was stopped or "
    "killed."
)

app = App(
    name="excise",
    version=f"excise {VERSION}",
    version_format="plaintext",
    help_format="plaintext",
    help_formatter=DefaultFormatter(panel_spec=PanelSpec(box=box.SIMPLE, padding=(0, 0, 0, 3))),
    group_parameters=Group("Flags", sort_key=0),
    group_commands=Group("Commands", sort_key=0),
    suppress_keyboard_interrupt=False,
)

Word = Annotated[str, Parameter(show=False)]
"""A positional argument; the usage line names it."""


def command(
    name: str, usage: str, settings: Collection[str], *notes: str
) -> Callable[[Function], Function]:
    """Declare the decorated function as `excise NAME`; its docstring is the help text.

    name: empty for the main command. usage: the arguments after the name. settings: fields of `Settings` that
    are flags of the command; the function gets the typed flags as keyword arguments. notes: the end of the
    help text.
    """

    def declare(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        fields = [
            _parameter(field, Group(title, sort_key=place))
            for place, (title, group) in enumerate(GROUPS.items(), 1)
            for field in group
            if field in settings
        ]

        @functools.wraps(function)
        def call(*words: str, **given: object) -> int:
            return function(*words, **joined(given))

        call.__signature__ = signature.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
        words = " ".join(word for word in ("Usage: excise", name, usage, "[FLAGS]") if word)
        if name:
            app.command(call, name=name, usage=words, help_epilogue=" ".join(notes))
        else:
            app.default(call)
            app.usage, app.help_epilogue = words, " ".join(notes)
        return function

    return declare


def joined(given: Mapping[str, object]) -> dict[str, object]:
    """The typed flags by name. The values of a flag that was typed several times are joined by commas."""
    return {
        name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()
    }


def flag(text: str, metavar: str = "", name: str | None = None) -> Parameter:
    """A flag that is not a setting. text: its help text. metavar: the placeholder of its value."""
    return Parameter(
        name=name,
        help=text,
        metavar=metavar or None,
        negative=(),
        show_choices=False,
        show_default=None if metavar else False,
        allow_repeating=True,
    )


def _parameter(field: str, group: Group) -> inspect.Parameter:
    several = is_list(field) or is_table(field)
    kind: Any = bool if is_switch(field) else list[str] | None if several else str | None
    about = Parameter(
        name=flag_name(field),
        help=Settings.model_fields[field].description,
        group=group,
        metavar=metavar(field) or None,
        show_default=default_text(field) or False,
        json_list=False,
        allow_repeating=True,
        negative=(),
    )
    default = False if kind is bool else None
    return inspect.Parameter(
        field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )
