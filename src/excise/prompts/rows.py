"""Rows of a table of prompts: texts or conversations, each with the group that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from excise.errors import PromptError
from excise.prompts.columns import CHAT_COLUMNS, Columns, check_column
from excise.prompts.conversation import Turn, is_message, prompt_of_turns, turns_of
from excise.prompts.sets import Prompt
from excise.system.json_files import parse_json


@dataclass(frozen=True)
class Rows:
    """Rows of a source, not yet sliced.

    column: of the prompts; values: its cells. groups: the cells of the column to group by; None without such
    a column. columns: the names of all columns.
    """

    column: str
    values: Sequence[object]
    groups: Sequence[object] | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[Mapping[str, object]], columns: Columns, places: Sequence[str]
    ) -> Rows:
        """Rows given as mappings, which may lack the group. places: of each row, for messages."""
        column = columns.of_prompts(list(rows[0]), places[0])
        for row, place in zip(rows, places, strict=True):
            check_column(column, row, place)
        there = tuple(dict.fromkeys(chain.from_iterable(rows)))
        group = columns.of_groups(there)
        groups = None if group is None else [row.get(group) for row in rows]
        return cls(column, [row[column] for row in rows], groups, there)

    def prompts(
        self, numbers: Iterable[int], where: str, system_prompt: str | None
    ) -> tuple[list[Prompt], list[str]]:
        """The prompts of the rows with these numbers (from 1), and notes. Rows without text are left out.

        Raises PromptError, with the number of the row, for a row that holds neither text nor a conversation.
        """
        prompts: list[Prompt] = []
        answered = 0
        for number in numbers:
            place = f"{where}: row {number}: column {self.column}"
            turns = _turns(self._value(number, place), place)
            if len(turns) > 1 and turns[-1][0] == "assistant":
                turns, answered = turns[:-1], answered + 1
            if turns and (turns[-1][1].strip() or turns[-1][0] != "user"):
                prompt = prompt_of_turns(turns, place, system_prompt)
                text, group = prompt.text.strip(), self._group(number)
                prompts.append(replace(prompt, text=text, group=group))
        return prompts, _notes(answered)

    def _value(self, number: int, place: str) -> object:
        value = self.values[number - 1]
        # Tables without lists, such as CSV, hold conversations as JSON.
        if (
            self.column in CHAT_COLUMNS
            and isinstance(value, str)
            and value.lstrip().startswith("[")
        ):
            try:
                return parse_json(value)
            except ValueError as error:
                raise PromptError(f"{place}: not JSON: {error}") from None
        return value

    def _group(self, number: int) -> str | None:
        return None if self.groups is None else group_of(self.groups[number - 1])


def group_of(cell: object) -> str | None:
    """The name of a group, in one line; None if the cell is empty or holds neither text nor a number."""
    if not isinstance(cell, str | int | float):
        return None
    return " ".join(str(cell).split()) or None


def _turns(cell: object, place: str) -> list[Turn]:
    if cell is None:
        return []
    if isinstance(cell, str):
        return [("user", cell)]
    if isinstance(cell, Mapping) and is_message(cell):
        return turns_of(cell, place)
    if isinstance(cell, list | tuple) and all(isinstance(each, Mapping) for each in cell):
        return turns_of(cell, place)
    raise PromptError(
        f"{place} holds {cell!r:.40}, neither text nor a list of chat messages; choose another "
        "with column (--column NAME)"
    )


def _notes(answered: int) -> list[str]:
    if not answered:
        return []
    many = "1 conversation ends" if answered == 1 else f"{answered} conversations end"
    return [f"{many} with an answer of the assistant, which is left out."]
