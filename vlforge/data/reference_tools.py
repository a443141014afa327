"""Data-Juicer's format converters by its names: row by row, and for whole files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vlforge.data.convert import Converted, Drops
from vlforge.data.formats import dialog_tools, mmc4_tools
from vlforge.data.formats.llava import DjToLlava, LlavaToDj
from vlforge.data.json_lines import RowFile, as_row, read_values
from vlforge.data.json_rows import fault_of
from vlforge.data.records import Record
from vlforge.types import DataError, ProgressFn, Row, no_progress

Tool = Callable[[Row], Row | None]
TOOLS: dict[str, Callable[..., Tool]] = {
    "llava_to_dj": LlavaToDj,
    "dj_to_llava": DjToLlava,
    "mmc4_to_dj": mmc4_tools.Mmc4ToDj,
    "dj_to_mmc4": mmc4_tools.DjToMmc4,
    "alpaca_to_dj": dialog_tools.AlpacaToDj,
    "dj_to_alpaca": dialog_tools.DjToAlpaca,
    "llama_factory_sharegpt_to_dj": dialog_tools.LlamaFactorySharegptToDj,
    "dj_to_llama_factory_sharegpt": dialog_tools.DjToLlamaFactorySharegpt,
    "messages_to_dj": dialog_tools.MessagesToDj,
    "dj_to_messages": dialog_tools.DjToMessages,
    "ms_swift_sharegpt_to_dj": dialog_tools.MsSwiftSharegptToDj,
    "dj_to_ms_swift_sharegpt": dialog_tools.DjToMsSwiftSharegpt,
}
_LINES = frozenset(name for name in TOOLS if name.endswith("_to_dj")) | {"dj_to_mmc4"}
"""Tools that write JSON lines; the others write one array."""
_TOLD_EVERY = 1000


def make_tool(name: str, **options: Any) -> Tool:
    """A converter of rows; options have Data-Juicer's names and defaults.

    Raises:
        DataError: no such tool or option, or a value that it does not take.
    """
    make = TOOLS.get(name)
    if make is None:
        raise DataError(f"unknown converter {name!r}: there are {', '.join(TOOLS)}")
    known = {field.name for field in fields(make)}  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise DataError(f"{name} has no option {option!r}; it has {', '.join(sorted(known))}")
    return make(**options)


def run_tool(
    name: str,
    source: Path,
    target: Path,
    *,
    original: Path | None = None,
    progress: ProgressFn = no_progress,
    **options: Any,
) -> Converted:
    """Convert a whole file, streamed; JSON lines or one array as Data-Juicer writes them.

    A row that cannot be turned is listed with its reason in `<target>.dropped.jsonl`.

    Args:
        name: Data-Juicer's name of the converter.
        source: JSON lines or one array.
        target: the new file.
        original: what the rows were once made from, for `restore_questions`.
        progress: told the rows so far.
        options: the converter's.

    Raises:
        DataError: a file cannot be read or written, or a wrong option.
    """
    if target.absolute() == source.absolute():
        raise DataError(f"{target}: source and target are the same; name another target")
    if original is not None:
        options["original"] = first_questions(original)
    tool = make_tool(name, **options)
    done = Converted()
    drops = Drops(target.with_name(f"{target.name}.dropped.jsonl"))
    with drops, RowFile(target, as_array=name not in _LINES) as file:
        for line, value in read_values(source):
            done.read += 1
            try:
                file.write(_turned(tool, value))
                done.written += 1
            except _BadRow as error:
                number = value.get("id") if isinstance(value, dict) else None
                fault = fault_of(line, DataError(_unnamed(str(error), number)))
                done.dropped[fault.reason] += 1
                drops.add(fault, Record(number, line=line))
            if done.read % _TOLD_EVERY == 0:
                progress(done.read, None, f"{done.written} written")
    done.paths.append(target)
    done.drops = drops.path if done.dropped else None
    return done


class _BadRow(DataError):
    """A row that a converter cannot turn, told from a file that cannot be written."""


def _unnamed(error: str, number: Any) -> str:
    """The error without the row's name, so that equal faults are counted as one."""
    return error.removeprefix(f"row {number!r}").lstrip(": ")


def _turned(tool: Tool, value: Any) -> Row:
    try:
        if isinstance(value, DataError):
            raise value
        row = tool(as_row(value))
    except DataError as error:
        raise _BadRow(str(error)) from None
    if row is None:
        raise _BadRow("an empty text")
    return row


def first_questions(path: Path) -> Mapping[str, Row]:
    """Of each conversation of a LLaVA file its id and first turn, by the id as a string.

    Raises:
        DataError: the file cannot be read, or an entry is no conversation.
    """
    found: dict[str, Row] = {}
    for line, value in read_values(path):
        if isinstance(value, DataError):
            raise DataError(f"{path}:{line}: {value}")
        row = as_row(value)
        turns = row.get("conversations")
        if isinstance(turns, list) and turns:
            found[str(row.get("id"))] = {"id": row.get("id"), "conversations": turns[:1]}
    return found
