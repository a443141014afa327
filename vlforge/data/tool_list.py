"""The converters of other systems under their own names: what `vlforge tool` can run."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from vlforge.data import kit_tools
from vlforge.data.formats import cc_sbu_tsv, paddle_labels
from vlforge.data.reference_tools import TOOLS, run_tool
from vlforge.types import DataError, ProgressFn, no_progress

_DIALOG = ("src_ds_path", "tgt_ds_path")
_FILES = {
    "llava_to_dj": ("llava_ds_path", "target_ds_path"),
    "dj_to_llava": ("dj_ds_path", "target_llava_ds_path"),
    "mmc4_to_dj": ("mmc4_ds_path", "target_ds_path"),
    "dj_to_mmc4": ("dj_ds_path", "target_mmc4_ds_path"),
    "convert_gqa_for_eval": ("src", "dst"),
    "convert_mmvet_for_eval": ("src", "dst"),
}
"""What tools call their source and their target."""
_PLACES = {
    "check_sample_number": ("max_sample_num",),
    "check_global_batch_size": ("batch", "accumulation", "target"),
}
"""Options that are also words without a name, behind the files."""
_OTHERS: dict[str, tuple[str, Callable[..., Any], tuple[str, str]]] = {
    "convert_cc_sbu": ("MiniGPT-4", cc_sbu_tsv.convert_cc_sbu, cc_sbu_tsv.CC_SBU),
    "convert_laion": ("MiniGPT-4", cc_sbu_tsv.convert_laion, cc_sbu_tsv.LAION),
    "convert_labels": ("PaddleMIX", paddle_labels.convert_labels, ("", "")),
    "check_sample_number": ("Better Synth", kit_tools.check_sample_number, ("", "")),
    "convert_gqa_for_eval": ("LLaVA", kit_tools.convert_gqa_for_eval, ("", "")),
    "convert_mmvet_for_eval": ("LLaVA", kit_tools.convert_mmvet_for_eval, ("", "")),
}
_CHECKS: dict[str, tuple[str, Callable[..., bool]]] = {
    "check_global_batch_size": ("Better Synth", kit_tools.check_global_batch_size),
}
"""Tools that read no file and answer True or False."""
_DOES = {
    "llava_to_dj": "LLaVA's conversations become rows of `text` and `images`",
    "dj_to_llava": "rows of `text` and `images` become LLaVA's conversations",
    "mmc4_to_dj": "MMC4's documents become rows of `text` and `images`",
    "dj_to_mmc4": "rows of `text` and `images` become MMC4's documents",
    "alpaca_to_dj": "Alpaca's `input` and `output` become `query` and `response`",
    "dj_to_alpaca": "`query` and `response` become Alpaca's `input` and `output`",
    "llama_factory_sharegpt_to_dj": "LLaMA-Factory's turns become `query`, `response`, `history`",
    "dj_to_llama_factory_sharegpt": "`query`, `response`, `history` become LLaMA-Factory's turns",
    "messages_to_dj": "`messages` of role and content become `query`, `response`, `history`",
    "dj_to_messages": "`query`, `response`, `history` become `messages` of role and content",
    "ms_swift_sharegpt_to_dj": "ms-swift's rounds become `query`, `response`, `history`",
    "dj_to_ms_swift_sharegpt": "`query`, `response`, `history` become ms-swift's rounds",
    "convert_cc_sbu": "a JSON list of links and captions becomes a table to download",
    "convert_laion": "the same for LAION's list",
    "convert_labels": "a TSV of pictures and captions becomes train.json and val.json",
    "check_sample_number": "a dataset is cut down to so many rows, those that the kit draws",
    "convert_gqa_for_eval": "an answer file becomes GQA's predictions",
    "convert_mmvet_for_eval": "an answer file becomes what MM-Vet's evaluator takes",
    "check_global_batch_size": "whether batch x accumulation x GPUs is the global batch",
}
ORIGINAL = "original_llava_ds_path"


class Option(NamedTuple):
    """One option of a tool: its name, its type and its default."""

    name: str
    hint: Any
    default: Any


@dataclass(frozen=True)
class ToolInfo:
    """A tool: whose it is, what it does, its options, and how it names its two files.

    `more` is what there is to know besides; `usual` are the files that it takes
    where none are given, "" for none. `places` are options that may stand behind the files
    without their names; `takes_files` is false of a question that reads none.
    """

    name: str
    system: str
    does: str
    more: str
    options: tuple[Option, ...]
    files: tuple[str, str] = ("", "")
    usual: tuple[str, str] = ("", "")
    places: tuple[str, ...] = ()
    takes_files: bool = True


@dataclass
class ToolRun:
    """What a tool did: `read` is `written` and the sum of `dropped`; rows per file in `files`."""

    read: int
    written: int
    dropped: Counter[str]
    files: dict[Path, int] = field(default_factory=dict)
    drops: Path | None = None


def tools() -> list[ToolInfo]:
    """Every tool, Data-Juicer's first."""
    found = []
    for name, make in TOOLS.items():
        hints = get_type_hints(make)
        options = [
            Option(f.name, hints[f.name], None if f.default is MISSING else f.default)
            for f in fields(make)  # type: ignore[arg-type]
            if f.name != "original"
        ]
        if name == "dj_to_llava":
            options.append(Option(ORIGINAL, str, None))
        files = _FILES.get(name, _DIALOG)
        says = (_DOES[name], _more(make))
        found.append(ToolInfo(name, "Data-Juicer", *says, tuple(options), files))
    for name, (system, function, usual) in _OTHERS.items():
        says = (_DOES[name], _more(function))
        named, places = _FILES.get(name, ("", "")), _PLACES.get(name, ())
        options_of = _options(function, 2)
        found.append(ToolInfo(name, system, *says, options_of, named, usual, places))
    for name, (system, check) in _CHECKS.items():
        says, options_of = (_DOES[name], _more(check)), _options(check, 0)
        found.append(
            ToolInfo(name, system, *says, options_of, places=_PLACES[name], takes_files=False)
        )
    return found


def _options(function: Callable[..., Any], behind: int) -> tuple[Option, ...]:
    """A function's parameters but for its files."""
    hints = get_type_hints(function)
    given = list(inspect.signature(function).parameters.values())[behind:]
    return tuple(
        Option(p.name, hints[p.name], None if p.default is p.empty else p.default)
        for p in given
        if p.name != "progress"
    )


def _more(documented: Any) -> str:
    """A docstring without its first paragraph and its sections."""
    paragraphs = (inspect.getdoc(documented) or "").split("\n\n")[1:]
    return "\n\n".join(p for p in paragraphs if not p.startswith(("Args:", "Raises:")))


def find_tool(name: str) -> ToolInfo:
    """The tool of that name, `-` for `_` and with or without `.py`.

    Raises:
        DataError: there is none; names the nearest.
    """
    from difflib import get_close_matches

    wanted = Path(name).name.removesuffix(".py").replace("-", "_")
    known = {tool.name: tool for tool in tools()}
    if wanted in known:
        return known[wanted]
    near = get_close_matches(wanted, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "vlforge list tools has them all"
    raise DataError(f"unknown tool {name!r}: {hint}")


def answer(tool: ToolInfo, options: Mapping[str, Any]) -> bool:
    """What a tool that reads no file answers.

    Raises:
        DataError: an option is missing.
    """
    _check_given(tool, options)
    return _CHECKS[tool.name][1](**options)


def _check_given(tool: ToolInfo, options: Mapping[str, Any]) -> None:
    missing = [place for place in tool.places if place not in options]
    if missing:
        words = " ".join(place.upper() for place in tool.places)
        files = "SRC DST " if tool.takes_files else ""
        raise DataError(
            f"{tool.name}: no {missing[0]} given: vlforge tool {tool.name} {files}{words}"
        )


def run_named(
    tool: ToolInfo,
    source: Path,
    target: Path,
    options: Mapping[str, Any],
    progress: ProgressFn = no_progress,
) -> ToolRun:
    """Run a tool on files; nothing stands under the target's name until it is complete.

    Raises:
        DataError: a file cannot be read or written, or an option is wrong.
    """
    if not tool.takes_files:
        raise DataError(f"{tool.name} makes no file; it is run by `vlforge tool {tool.name}`")
    _check_given(tool, options)
    if target.absolute() == source.absolute():
        raise DataError(f"{target}: source and target are the same; name another target")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from None
    if tool.name == "convert_labels":
        return _labels(source, target, options, progress)
    if tool.name in _OTHERS:
        table = _OTHERS[tool.name][1](source, target, **options, progress=progress)
        counts = {target: table.written}
        return ToolRun(table.read, table.written, table.dropped, counts, table.drops)
    own = dict(options)
    original = own.pop(ORIGINAL, None)
    done = run_tool(
        tool.name,
        source,
        target,
        original=None if original is None else Path(original),
        progress=progress,
        **own,
    )
    return ToolRun(done.read, done.written, done.dropped, {target: done.written}, done.drops)


def _labels(
    source: Path, folder: Path, options: Mapping[str, Any], progress: ProgressFn
) -> ToolRun:
    done = paddle_labels.convert_labels(source, folder, **options, progress=progress)
    counts = {folder / "train.json": done.train, folder / "val.json": done.val}
    return ToolRun(done.read, done.rows, done.dropped, counts, done.drops)
