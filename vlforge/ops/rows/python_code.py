"""Mappers that run the user's own Python: a lambda in the recipe, or a function in a file."""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib.util
import inspect
import os
import symtable
import sys
import types
from dataclasses import dataclass
from typing import Any

from vlforge.ops.base import Grown, RowMapper
from vlforge.ops.batch import Batch
from vlforge.ops.rows.user_code import Function, UserCode, line_of
from vlforge.types import Drop, RecipeError, Row

_LAMBDA = "lambda_str"
"""What tracebacks call the text of a lambda."""


@dataclass(frozen=True, kw_only=True)
class PythonLambdaMapper(RowMapper):
    """Rewrite rows by a lambda that is written in the recipe.

    `lambda_str` takes a row (a dict) and gives a dict, which is laid over the row:
    fields that it leaves out stay. With `batched` it takes and gives a dict of
    lists for up to `batch_size` rows. It may use Python's built-in names and
    nothing else; an unknown name is refused before the run starts. Without
    `lambda_str` rows stay as they are.

    The lambda may change what it is given and give that back; with
    `compat: data_juicer` a batched one may not, and its rows are dropped. An error
    costs the row alone, with the error and its line as the reason: a batched
    lambda that fails is tried again row by row.

    This runs code of the recipe with all that Python can do: run only recipes
    that you trust.
    """

    lambda_str: str = ""
    batched: bool = False
    batch_size: int = 1000

    def __post_init__(self) -> None:
        _check_batch_size("python_lambda_mapper", self.batch_size)
        if self.lambda_str:
            compiled_lambda(self.lambda_str)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        function = compiled_lambda(self.lambda_str) if self.lambda_str else _itself
        return _applied(self, function, _LAMBDA, batch)


@dataclass(frozen=True, kw_only=True)
class PythonFileMapper(RowMapper):
    """Rewrite rows by a function in a Python file.

    The function `function_name` of `file_path` takes a row (a dict) and gives a
    dict, which is laid over the row: fields that it leaves out stay. With
    `batched` it takes and gives a dict of lists for up to `batch_size` rows. The
    file is run once per process, before the first row. Without `file_path` rows
    stay as they are.

    The function may change what it is given and give that back; with
    `compat: data_juicer` a batched one may not, and its rows are dropped. An error
    costs the row alone, with the error, the file and its line as the reason: a
    batched function that fails, or gives another number of rows than it got, is
    called again row by row.

    This runs the file with all that Python can do: name only files that you trust.
    """

    file_path: str = ""
    function_name: str = "process_single"
    batched: bool = False
    batch_size: int = 1000

    def __post_init__(self) -> None:
        _check_batch_size("python_file_mapper", self.batch_size)
        if self.file_path:
            object.__setattr__(self, "file_path", os.path.abspath(self.file_path))
            loaded_function(self.file_path, self.function_name)

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        function: Function = _itself
        if self.file_path:
            function = loaded_function(self.file_path, self.function_name)
        return _applied(self, function, self.file_path, batch)


def _applied(
    op: PythonLambdaMapper | PythonFileMapper, function: Function, file: str, batch: Batch
) -> list[Grown | Row | Drop]:
    code = UserCode(file, refuses_own=op.batched and op.compat == "data_juicer")
    if op.batched:
        return code.call_batched(function, batch.items, op.batch_size)
    return code.call_each(function, batch.items)


def _itself(rows: Any) -> Any:
    return rows


def _check_batch_size(name: str, size: int) -> None:
    if size < 1:
        raise RecipeError(f"{name}.batch_size is {size}, not 1 or more")


@functools.cache
def compiled_lambda(text: str) -> Function:
    """The function that the text of a lambda stands for.

    Raises:
        RecipeError: it is no lambda of one argument, or names what does not exist.
    """
    where = f"python_lambda_mapper.lambda_str {text!r}"
    try:
        tree = ast.parse(text.strip(), _LAMBDA, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RecipeError(f"{where} is no Python: {said}") from None
    found = tree.body
    if not isinstance(found, ast.Lambda):
        raise RecipeError(f"{where} is no lambda: write `lambda sample: ...`")
    if len(found.args.posonlyargs) + len(found.args.args) != 1:
        raise RecipeError(f"{where} does not take exactly one argument")
    for name in _global_names(symtable.symtable(text.strip(), _LAMBDA, "eval")):
        if not hasattr(builtins, name):
            raise RecipeError(
                f"{where} uses {name!r}, which a lambda cannot see: use python_file_mapper, "
                f"whose file may import it"
            )
    function: Function = eval(compile(tree, _LAMBDA, "eval"), {"__builtins__": builtins})
    return function


def _global_names(table: symtable.SymbolTable) -> list[str]:
    """Names that are looked up outside all functions."""
    is_top = table.get_type() == "module"
    found = [s.get_name() for s in table.get_symbols() if s.is_global() or is_top]
    for inner in table.get_children():
        found += _global_names(inner)
    return found


def loaded_function(path: str, name: str) -> Function:
    """The function `name` of the Python file at `path`; the file is run once.

    Raises:
        RecipeError: no such file or function, it cannot be run, or the function
            does not take exactly one argument.
    """
    where = f"python_file_mapper.file_path {path}"
    if not path.endswith(".py"):
        raise RecipeError(f"{where} is not a .py file")
    try:
        found = os.stat(path)
    except OSError as error:
        raise RecipeError(f"{where} cannot be read: {error.strerror}") from None
    module = _run_file(path, found.st_mtime_ns, found.st_size)
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(f"{where} has no function {name!r}")
    arguments = inspect.getfullargspec(function).args
    if len(arguments) - inspect.ismethod(function) != 1:
        raise RecipeError(f"{where}: {name} takes {len(arguments)} arguments, not exactly one")
    checked: Function = function
    return checked


@functools.cache
def _run_file(path: str, _changed_ns: int, _size: int) -> types.ModuleType:
    return run_module(path, f"python_file_mapper.file_path {path}")


def run_module(path: str, where: str) -> types.ModuleType:
    """A module made by running a file of the user's; errors name `where` and the line.

    The module has a name of its own, so that it takes no other module's place.

    Raises:
        RecipeError: the file cannot be read or run.
    """
    stem = os.path.basename(path).removesuffix(".py")
    name = f"vlforge_user_{stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        # Dataclasses and pickle look a class's module up while it is being made.
        sys.modules[name] = module
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:  # whatever the file does
        sys.modules.pop(name, None)
        line = line_of(error, path)
        at = f", line {line}" if line else ""
        raise RecipeError(f"{where}{at}: {type(error).__name__}: {error}") from error
    return module
