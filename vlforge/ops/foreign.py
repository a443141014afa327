"""A user's own operators, from files and folders that the recipe names.

Loading a file runs it, with all that Python can do, because the user asked for
it by `custom_operator_paths`: there is no sandbox, so name only files that you
trust. Data never names a file to load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.ops.base import Operator
from vlforge.ops.custom.stand_in import base_classes, lent
from vlforge.ops.index import is_operator_name, name_of, places, use_custom
from vlforge.ops.rows.python_code import run_module
from vlforge.ops.rows.user_code import line_of
from vlforge.types import RecipeError

WINS = "replaces_builtin"
"""Attribute of a class that may take the name of one of our operators."""


@dataclass(frozen=True)
class _Found:
    """One operator of a file; `wins` allows it the name of one that is there already."""

    name: str
    cls: type[Any]
    file: str
    wins: bool


def load_custom(paths: str | Sequence[str] | None) -> dict[str, type[Any]]:
    """Load operators from Python files and folders; `find` sees these from now on.

    A file holds operators in our style (a class `FooBarFilter` on one of
    `vlforge.ops.base`'s is `foo_bar_filter`), or in that of Data-Juicer 1.x
    (registered by `@OPERATORS.register_module`), which need no change: they
    meet the real `data_juicer` where it is installed and a small stand-in where
    it is not. A folder with an `__init__.py` is imported as the package of its
    name, of another folder every .py file is loaded.

    A name that one of our operators has, or that was given twice, is refused,
    unless the class says `replaces_builtin = True` (or is registered with
    `force=True`): then it wins.

    Each call replaces what an earlier one made known; files are run again only
    when they have changed. Forked workers inherit what is loaded; a process that
    is started afresh has to call this itself.

    Returns:
        The operators by name.

    Raises:
        RecipeError: a path that is not there, a file that cannot be run or holds no
            operator, a name that is taken; names file and line.
    """
    found: dict[str, _Found] = {}
    for path in [paths] if isinstance(paths, str) else paths or ():
        for one in _load(os.path.abspath(path)):
            taken = found[one.name].file if one.name in found else ""
            if one.name in places() and not taken:
                taken = "VLForge itself"
            if taken and not one.wins:
                raise RecipeError(
                    f"custom operator {one.name!r} of {one.file} has a name that {taken} uses: "
                    f"rename it, or say `{WINS} = True` in the class"
                )
            found[one.name] = one
    operators = {name: one.cls for name, one in found.items()}
    use_custom(operators)
    return operators


def _load(path: str) -> tuple[_Found, ...]:
    if not os.path.exists(path):
        raise RecipeError(f"custom_operator_paths: {path} does not exist: check the path")
    files = [Path(path)]
    if os.path.isdir(path):
        is_package = os.path.isfile(os.path.join(path, "__init__.py"))
        files = sorted(Path(path).rglob("*.py") if is_package else Path(path).glob("*.py"))
    if not files or files[0].suffix != ".py":
        raise RecipeError(f"custom_operator_paths: {path} is no Python file, nor a folder of some")
    stamps = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return _load_once(path, tuple(stamps))


@functools.cache
def _load_once(path: str, stamps: tuple[tuple[str, int, int], ...]) -> tuple[_Found, ...]:
    where = f"custom_operator_paths: {path}"
    files = [file for file, _, _ in stamps]
    with _hinting(), lent(), _registering(files) as registered:
        if os.path.isfile(path):
            modules = [run_module(path, where)]
        elif os.path.isfile(os.path.join(path, "__init__.py")):
            modules = _package(path, where)
        else:
            modules = [run_module(file, f"custom_operator_paths: {file}") for file in files]
    found = [one for module in modules for one in _in_our_style(module)]
    found += _in_their_style(registered)
    if not found:
        raise RecipeError(f"{where} holds no operator: write a class such as FooBarFilter in it")
    return tuple(found)


@contextlib.contextmanager
def _hinting() -> Iterator[None]:
    """Says what helps where a file wants more of Data-Juicer than is lent to it."""
    try:
        yield
    except RecipeError as error:
        if isinstance(error.__cause__, ImportError) and "data_juicer" in str(error.__cause__):
            hint = "VLForge lends only a part of data_juicer: pip install py-data-juicer"
            raise RecipeError(f"{error}; {hint}") from error.__cause__
        raise


def _package(path: str, where: str) -> list[types.ModuleType]:
    """The modules of a folder that is a package, imported under its own name."""
    name = os.path.basename(path)
    loaded = sys.modules.get(name)
    if loaded is not None and path not in map(os.path.abspath, getattr(loaded, "__path__", ())):
        raise RecipeError(f"{where} has the name of the module {name!r}: rename the folder")
    _forget(name)
    importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, os.path.dirname(path))
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the files do
        _forget(name)
        raise RecipeError(
            f"{where}{_place(error, path)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(os.path.dirname(path))
        sys.dont_write_bytecode = writes
    return [
        m for key, m in sorted(sys.modules.items()) if key == name or key.startswith(f"{name}.")
    ]


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]


def _place(error: BaseException, folder: str) -> str:
    """`, file, line n` of the last place in the folder that an error passed through."""
    file, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(folder + os.sep):
            file = trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename:
        file = error.filename
    return f", {os.path.relpath(file, folder)}, line {line_of(error, file)}" if file else ""


def _in_our_style(module: types.ModuleType) -> Iterator[_Found]:
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Operator)]
    for cls in classes:
        if cls.__module__ != module.__name__ or not is_operator_name(cls.__name__):
            continue
        file = str(module.__file__)
        if not dataclasses.is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
            raise RecipeError(
                f"{file}: {cls.__name__} is no dataclass: "
                "put @dataclass(frozen=True, kw_only=True) above it"
            )
        yield _Found(name_of(cls.__name__), cls, file, bool(getattr(cls, WINS, False)))


def _in_their_style(registered: _Registered) -> Iterator[_Found]:
    from vlforge.ops.custom.adapters import adapted

    for name, cls in registered.operators.items():
        file = str(getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__)
        has_tags = name in registered.tagging
        made = adapted(cls, name, file, registered.bases, has_tags=has_tags)
        wins = name in registered.forced or bool(getattr(cls, WINS, False))
        yield _Found(name, made, file, wins)


@dataclass
class _Registered:
    """What files registered while they were loaded, and the module of their base classes."""

    bases: Any = None
    operators: dict[str, type[Any]] = dataclasses.field(default_factory=dict)
    tagging: set[str] = dataclasses.field(default_factory=set)
    forced: set[str] = dataclasses.field(default_factory=set)


@contextlib.contextmanager
def _registering(files: Sequence[str]) -> Iterator[_Registered]:
    """Note what is registered with Data-Juicer's registries, real or ours, and take it out again.

    The real package takes seconds to import, so only files that name it get it.
    """
    found = _Registered()
    if not any(b"data_juicer" in Path(file).read_bytes() for file in files):
        yield found
        return
    try:
        bases = found.bases = base_classes()
    except Exception as error:  # its own imports may lack anything
        raise RecipeError(
            f"data_juicer is installed but cannot be imported: {type(error).__name__}: {error}"
        ) from error
    registries = (bases.OPERATORS, bases.TAGGING_OPS)
    before = [dict(registry.modules) for registry in registries]
    try:
        yield found
        new = bases.OPERATORS.modules.items() - before[0].items()
        found.operators = dict(sorted(new))
        found.tagging = {name for name, _ in new if name in bases.TAGGING_OPS.modules}
        found.forced = {name for name, _ in new if name in before[0]}
        found.forced |= getattr(bases.OPERATORS, "forced", set())
    finally:
        for registry, content in zip(registries, before, strict=True):
            registry.modules.clear()
            registry.modules.update(content)
