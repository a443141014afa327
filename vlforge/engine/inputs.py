"""The files of an input: what a path stands for, and how each file is read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vlforge.engine.config import InputPart, ProcessConfig
from vlforge.engine.files import Origin, Reader, TextFiles, fingerprint_of, json_file
from vlforge.engine.tables import ParquetFile, TextTable
from vlforge.types import DataError

_PACKED = (".gz", ".zst")
_DOCUMENTS = (".docx", ".pdf")
_KINDS: dict[str, frozenset[str]] = {
    "csv": frozenset({".csv", ".csv.gz", ".csv.zst"}),
    "json": frozenset(
        {".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst"}
    ),
    "parquet": frozenset({".parquet"}),
    "text": frozenset(
        """.txt .md .tex .asm .bat .cmd .c .h .cs .cpp .hpp .c++ .h++ .cc .hh .cmake .css
        .dockerfile .f90 .f .f03 .f08 .f77 .f95 .for .fpp .go .hs .html .java .js .jl .lua
        .markdown .php .php3 .php4 .php5 .phps .phpt .pl .pm .pod .perl .ps1 .psd1 .psm1 .py .rb
        .rs .sql .scala .sh .bash .command .zsh .ts .tsx .vb .xml .rst .m .smali""".split()
    ),
    "tsv": frozenset({".tsv", ".tsv.gz", ".tsv.zst"}),
}
"""File kinds and the ends of their names, those of Data-Juicer's readers."""


class Part(msgspec.Struct, frozen=True):
    """Rows in a fixed order, and the file they come from unless a chunk says otherwise."""

    origin: Origin
    reader: Reader


def suffix_of(path: Path) -> str:
    """How a file's name ends, packing included: `.jsonl.gz`."""
    ends = [end.lower() for end in path.suffixes]
    return "".join(ends[-2:]) if ends and ends[-1] in _PACKED else "".join(ends[-1:])


def named_parts(config: ProcessConfig) -> list[InputPart]:
    """The files and folders that a recipe names, with their weights.

    Raises:
        DataError: none is named, or the words do not pair up.
    """
    if config.dataset_path:
        return _weighted(config.dataset_path)
    if config.dataset is not None and config.dataset.configs:
        return list(config.dataset.configs)
    raise DataError("no dataset is named; give dataset_path, e.g. dataset_path=rows.jsonl")


def _weighted(words: str) -> list[InputPart]:
    """`"0.5 a.jsonl 2 b.jsonl"`: a number is the weight of the path after it."""
    if Path(words).exists():
        return [InputPart(words)]
    try:
        tokens = shlex.split(words)
    except ValueError as error:
        raise DataError(f"dataset_path {words!r} cannot be split into words: {error}") from None
    parts: list[InputPart] = []
    weight: float | None = None
    for token in tokens:
        number = _number(token)
        if number is None:
            parts.append(InputPart(token, 1.0 if weight is None else weight))
            weight = None
        elif weight is None:
            weight = number
        else:
            raise DataError(f"dataset_path {words!r} has two weights and no path between them")
    if weight is not None or not parts:
        raise DataError(f"dataset_path {words!r} names no path; write `WEIGHT PATH WEIGHT PATH`")
    return parts


def _number(token: str) -> float | None:
    try:
        return max(float(token), 0.0)
    except ValueError:
        return None


def parts_of(path: Path, config: ProcessConfig, note: Callable[[str], None]) -> list[Part]:
    """A file, or all files of the commonest kind below a folder, sorted by path.

    Raises:
        DataError: nothing is there, or nothing that can be read.
    """
    if not path.exists():
        raise DataError(f"dataset {path} does not exist: check the path")
    if path.is_file():
        if path.suffix.lower() in _DOCUMENTS:
            raise DataError(f"dataset {path} is no text; convert it to .txt first")
        return _readers([path], path.absolute().parent, _kind(path) or "json", config)
    files = _below(path, config.suffixes)
    kinds = Counter(kind for file in files if (kind := _kind(file)))
    if not kinds:
        wanted = f" that ends in {', '.join(config.suffixes)}" if config.suffixes else ""
        raise DataError(f"dataset {path} holds no file{wanted} that can be read; name one")
    kind = max(sorted(kinds), key=lambda name: kinds[name])
    chosen = [file for file in files if _kind(file) == kind]
    if len(chosen) < len(files):
        note(
            f"{path}: {len(chosen)} {kind} files are read, {len(files) - len(chosen)} of other "
            "kinds are not; choose with `suffixes`"
        )
    return _readers(chosen, path, kind, config)


def _below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    wanted = {s.lower() if s.startswith(".") else f".{s.lower()}" for s in suffixes}
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (not wanted or suffix_of(file) in wanted)
    )


def _kind(path: Path) -> str | None:
    end = suffix_of(path)
    return next((name for name, ends in _KINDS.items() if end in ends), None)


def _readers(files: Sequence[Path], root: Path, kind: str, config: ProcessConfig) -> list[Part]:
    if kind == "text":
        texts = TextFiles(files, root)
        return [Part(Origin(str(root), str(root.absolute()), texts.fingerprint(), ".txt"), texts)]
    keys = (config.text_key, *config.text_keys, config.image_key)
    options = config.load_dataset_kwargs
    found = []
    for file in files:
        if kind == "parquet":
            reader: Reader = ParquetFile(file, options.get("columns"))
        elif kind == "json":
            reader = json_file(file)
        else:
            delimiter = options.get("delimiter") or options.get("sep")
            delimiter = delimiter or ("," if kind == "csv" else "\t")
            by_pandas = config.compat == "data_juicer"
            reader = TextTable(file, delimiter, keys, by_pandas=by_pandas)
        origin = Origin(str(file), str(root.absolute()), fingerprint_of(file), suffix_of(file))
        found.append(Part(origin, reader))
    return found
