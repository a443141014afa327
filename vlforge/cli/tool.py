"""`vlforge tool`: another system's converter, under its own name and with its own words."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlforge.cli.show import plain_line, progress, shown_path, table
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.data.tool_list import Option, ToolInfo, ToolRun

FREE_OPTIONS = {"ignore_unknown_options": True, "help_option_names": []}
HELP = {"--help", "-h"}
TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FILES = ("SRC", "DST")
EXAMPLES = """\b
Examples:
  vlforge list tools
  vlforge tool llava_to_dj --help                       one tool's options
  vlforge tool llava_to_dj llava.json rows.jsonl --split_chunk true
  vlforge tool dj_to_llava --dj_ds_path rows.jsonl --target_llava_ds_path llava.json
    --restore_questions True --original_llava_ds_path stage_1.json
  vlforge tool convert_cc_sbu                           the files it expects in this folder
  vlforge tool convert_labels TRAIN.txt OUTDIR --prompt 请描述图片内容。
  vlforge tool convert_labels TRAIN.txt OUTDIR --mode rank3
  vlforge tool check_global_batch_size 4 64 256
  vlforge tool check_sample_number rows.jsonl rows-200k.jsonl 200000
"""


def tool(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME [SRC DST] [--OPTION VALUE]...",
            help="The tool, its files and its options.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run another system's converter: same name, same options, same rows.

    Put `vlforge tool` where `python path/to/the_tool.py` stood. A row that the
    tool cannot turn is listed with its reason instead of stopping it; files are
    streamed and appear under their names when they are complete.
    """
    from vlforge.data.tool_list import answer, find_tool, run_named

    given = list(words or [])
    if not given or given[0] in HELP:
        plain_line(context.get_help())
        return
    wanted = find_tool(given[0])
    if HELP & set(given[1:]):
        plain_line(tool_help(wanted))
        return
    source, target, options = split_words(wanted, given[1:])
    if not wanted.takes_files:
        plain_line(str(answer(wanted, options)))
        return
    with progress(wanted.name) as shown:
        done = run_named(wanted, source, target, options, shown)
    _say(done)


def split_words(tool: ToolInfo, words: Sequence[str]) -> tuple[Path, Path, dict[str, Any]]:
    """The two files and the options that the words say.

    `--key value`, `--key=value` and `key=value` mean the same; `--key` before
    another option or at the end means true.

    Raises:
        RecipeError: an unknown option, a wrong value, or not two files.
    """
    known = {option.name: option for option in tool.options}
    files: dict[str, str] = {}
    options: dict[str, Any] = {}
    for key, value in _pairs(words):
        if not key:
            free = [place for place in _FILES if place not in files and tool.takes_files]
            unnamed = [place for place in tool.places if place not in options]
            if free:
                files[free[0]] = value
            elif unnamed:
                options[unnamed[0]] = _value(known[unnamed[0]], value)
            else:
                what = "word" if tool.places else "file"
                raise RecipeError(
                    f"{value!r} is one {what} too many: {tool.name} takes {_takes(tool)}"
                )
        elif key in tool.files:
            files[_FILES[tool.files.index(key)]] = value
        elif key in known:
            options[key] = _value(known[key], value)
        else:
            raise RecipeError(f"{tool.name} has no option {key!r}{_nearest(key, tool)}")
    for place, usual in zip(_FILES, tool.usual, strict=True):
        if not files.setdefault(place, usual) and tool.takes_files:
            raise RecipeError(f"{tool.name}: no {place} given: vlforge tool {tool.name} SRC DST")
    return Path(files["SRC"]), Path(files["DST"]), options


def _takes(tool: ToolInfo) -> str:
    """The words without a name, as a usage line has them."""
    files = _FILES if tool.takes_files else ()
    return " ".join((*files, *(place.upper() for place in tool.places)))


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value) for each option, ("", word) for each other word."""
    pairs: list[tuple[str, str]] = []
    waiting = ""
    for word in words:
        is_option = word.startswith("--") and len(word) > 2
        if waiting:
            pairs.append((waiting, "true" if is_option else word))
            waiting, was_value = "", not is_option
            if was_value:
                continue
        key, equals, value = word.removeprefix("--").partition("=")
        if is_option and not equals:
            waiting = key.replace("-", "_")
        elif equals and (is_option or key.isidentifier()):
            pairs.append((key.replace("-", "_"), value))
        else:
            pairs.append(("", word))
    return [*pairs, (waiting, "true")] if waiting else pairs


def _value(option: Option, text: str) -> Any:
    """The word as the option's type wants it."""
    choices = _choices(option.hint)
    if choices:
        if text not in choices:
            wanted = ", ".join(repr(one) for one in choices)
            raise RecipeError(f"--{option.name} is {text!r}: take one of {wanted}")
        return text
    if option.hint is bool:
        if text.lower() not in TRUTH:
            raise RecipeError(f"--{option.name} is {text!r}: take true or false")
        return TRUTH[text.lower()]
    if option.hint is int:
        if not text.removeprefix("-").isdecimal():
            raise RecipeError(f"--{option.name} is {text!r}: take a whole number")
        return int(text)
    if "Sequence" in str(option.hint):
        names = [name.strip(" '\"") for name in text.strip("[]()").split(",")]
        return [name for name in names if name]
    # A shell passes the two characters on.
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _choices(hint: Any) -> tuple[str, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _nearest(key: str, tool: ToolInfo) -> str:
    from difflib import get_close_matches

    names = [*(option.name for option in tool.options), *filter(None, tool.files)]
    near = get_close_matches(key, names, n=1, cutoff=0.6)
    return f": did you mean {near[0]!r}?" if near else f"; it has {', '.join(names) or 'none'}"


def tool_help(tool: ToolInfo) -> str:
    """One tool's page."""
    does = tool.does[0].upper() + tool.does[1:]
    says = f"{does}, as {tool.system} has it.\n\n{tool.more}".strip()
    lines = [f"Usage: vlforge tool {tool.name} {_takes(tool)} [--OPTION VALUE]...", ""]
    lines += [f"  {line}".rstrip() for line in says.splitlines()]
    if tool.options:
        lines += ["", "Options:"]
        width = max(len(_written(option)) for option in tool.options)
        for option in tool.options:
            choices = ", ".join(filter(None, _choices(option.hint)))
            lines.append(f"  {_written(option).ljust(width)}  {choices}".rstrip())
    if any(tool.files):
        source, target = tool.files
        lines += ["", f"--{source} and --{target} name the files, too."]
    if any(tool.usual):
        lines += ["", f"Without SRC and DST: {tool.usual[0]}, {tool.usual[1]}."]
    return "\n".join(lines)


def _written(option: Option) -> str:
    """`--name default` as a shell takes it."""
    default = option.default
    if default is None or default == "":
        return f"--{option.name} …"
    text = str(default).lower() if isinstance(default, bool) else str(default)
    text = text.replace("\n", "\\n")
    return f"--{option.name} {text if text.strip() and '<' not in text else repr(text)}"


def list_tools() -> None:
    """Other systems' converters that `vlforge tool` runs under their own names."""
    from vlforge.data.tool_list import tools

    rows = [(found.name, found.system, found.does) for found in tools()]
    table(("tool", "from", "what it does"), rows)
    plain_line("One tool's options: vlforge tool NAME --help")


def _say(done: ToolRun) -> None:
    if done.dropped:
        table(("why", "rows"), done.dropped.most_common(20), right=(1,))
    plain_line(f"Written {done.written:,} of {done.read:,} rows")
    for path, rows in done.files.items():
        count = f", {rows:,} rows" if len(done.files) > 1 else ""
        plain_line(f"Data    {shown_path(path)}{count}")
    if done.drops is not None:
        plain_line(f"Dropped {shown_path(done.drops)}, each row with its reason")
