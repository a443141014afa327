"""A configuration of mmengine as values with their places. It is Python, and is never run.

Assignments, `dict(type=…)`, lists, arithmetic, strings put together, a few functions such as
`int` and `os.path.join`, and `with read_base(): from .base import *` are understood.
What else stands there is refused with its line, an expression only where its value is asked for.
"""

from __future__ import annotations

import ast
import operator
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlforge.types import RecipeError

BASES = "_base_"
CHANGED = "changed on the command line"
Known = Callable[[str], "dict[str, Said] | None"]


class Dotted(str):
    """A name that Python would look up: `LLaVAModel`, `PROMPT_TEMPLATE.vicuna`."""

    @property
    def last(self) -> str:
        """Its last word."""
        return self.rpartition(".")[2]


class Unread(str):
    """An expression whose value is not worked out, as it stands in the file."""


@dataclass(frozen=True)
class Said:
    """A value of the configuration, where it stands, and what it is called there.

    A dictionary's entries and a list's items are Said themselves.
    """

    value: Any
    where: str
    key: str

    @property
    def origin(self) -> str:
        """`file:line KEY`."""
        return f"{self.where} {self.key}" if self.where else f"{self.key}, {CHANGED}"

    def plain(self) -> Any:
        """The value alone, entries too."""
        if isinstance(self.value, dict):
            return {key: one.plain() for key, one in self.value.items()}
        if isinstance(self.value, list):
            return [one.plain() for one in self.value]
        return self.value


@dataclass
class Config:
    """Names of the top with what they hold, after the command line's changes.

    `extra` are changes that no name of the file takes up; `used` names that went into others.
    """

    values: dict[str, Said]
    extra: dict[str, Said] = field(default_factory=dict)
    used: frozenset[str] = frozenset()


def read_config(path: Path, text: str, changes: Mapping[str, str], known: Known) -> Config:
    """The configuration in `text`, which stands at `path`.

    Args:
        changes: by dotted names (`optim_wrapper.optimizer.lr`, `lr`), as `--cfg-options`
            has them. What is computed from a changed name changes with it.
        known: the values of a configuration that XTuner ships, by its name.

    Raises:
        RecipeError: no Python, or what stands there is not understood; names the line.
    """
    reader = _Reader(path, dict(changes), known)
    reader.read(text)
    extra = {
        key: Said(read_value(value), "", key)
        for key, value in changes.items()
        if key not in reader.taken
    }
    return Config(reader.values, extra, frozenset(reader.used))


def changed(values: Mapping[str, Said], changes: Mapping[str, str]) -> Config:
    """`values` as a whole configuration, with changes; for those that are no file."""
    reader = _Reader(Path("."), dict(changes), lambda name: None)
    for name, said in values.items():
        reader.assign(name, said)
    extra = {k: Said(read_value(v), "", k) for k, v in changes.items() if k not in reader.taken}
    return Config(reader.values, extra, frozenset(values))


def read_value(text: str) -> Any:
    """A value of the command line: a number, true, a list with commas, or text."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if word.lower() == "none":
        return None
    try:
        return _listed(ast.literal_eval(word))
    except (ValueError, SyntaxError):
        return word


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def said_of(value: Any, where: str, key: str) -> Said:
    """Plain values as Said, all with one place."""
    if isinstance(value, Mapping):
        return Said({k: said_of(v, where, str(k)) for k, v in value.items()}, where, key)
    if isinstance(value, list | tuple):
        return Said([said_of(v, where, key) for v in value], where, key)
    return Said(value, where, key)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "int": int, "float": float, "str": str, "bool": bool, "len": len, "min": min, "max": max,
    "round": round, "abs": abs, "sum": sum, "list": list, "tuple": list,
    "os.path.join": posixpath.join, "osp.join": posixpath.join, "path.join": posixpath.join,
    "os.path.basename": posixpath.basename, "osp.basename": posixpath.basename,
    "os.path.dirname": posixpath.dirname, "osp.dirname": posixpath.dirname,
    "math.ceil": lambda x: -int(-x // 1), "math.floor": lambda x: int(x // 1),
}  # fmt: skip
_METHODS = {"format", "join", "replace", "strip", "rstrip", "lstrip", "lower", "upper"}
_SUMS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_LARGEST = 10_000
"""A text, list or exponent longer than this is no setting."""


class _Reader:
    """Goes through a file's statements."""

    def __init__(self, path: Path, changes: dict[str, str], known: Known):
        self.path = path
        self.changes = changes
        self.known = known
        self.values: dict[str, Said] = {}
        self.imported: dict[str, str] = {}
        self.taken: set[str] = set()
        self.used: set[str] = set()

    def read(self, text: str) -> None:
        """All statements of a file."""
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise RecipeError(
                f"{self.path.name}:{error.lineno}: is no Python ({error.msg})"
            ) from None
        for node in tree.body:
            self._statement(node)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._imports(node)
        elif isinstance(node, ast.With) and "read_base" in ast.unparse(node.items[0]):
            for inner in node.body:
                self._base(inner)
        elif isinstance(node, ast.Assign) and len(node.targets) >= 1:
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign):
            both = ast.BinOp(_loaded(node.target), node.op, node.value)
            self._assign(node.target, ast.copy_location(both, node))
        elif not self._is_done(node):
            raise self._wrong(node, f"`{ast.unparse(node).splitlines()[0]}` would have to be run")

    def _is_done(self, node: ast.stmt) -> bool:
        """A statement that says nothing, or one that changes a value in its place."""
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Constant) or self._changes_in_place(node.value)
        return isinstance(node, ast.Delete | ast.Pass)

    def _imports(self, node: ast.Import | ast.ImportFrom) -> None:
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
        for one in node.names:
            self.imported[one.asname or one.name.partition(".")[0]] = f"{module}{one.name}"

    def _base(self, node: ast.stmt) -> None:
        """`from .base import *`: a file beside this one, or one that XTuner ships."""
        if isinstance(node, ast.Expr | ast.Pass):
            return
        if not isinstance(node, ast.ImportFrom):
            raise self._wrong(node, "a base is taken over by `from .NAME import *`")
        name = (node.module or "").rpartition(".")[2]
        folder = self.path.parent
        for _ in range(node.level - 1):
            folder = folder.parent
        file = folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
        is_beside = node.level and file.is_file()
        found = self._of_file(file) if is_beside else self._shipped(name)
        if not found:
            raise self._wrong(node, f"the base {name!r} is neither {file} nor one of XTuner's")
        wanted = [one.name for one in node.names]
        for key, said in found.items():
            if wanted == ["*"] or key in wanted:
                self.assign(key, said)

    def _of_file(self, file: Path) -> dict[str, Said]:
        reader = _Reader(file, {}, self.known)
        reader.read(file.read_text(encoding="utf-8"))
        self.imported |= reader.imported
        self.used |= reader.used
        return reader.values

    def _shipped(self, name: str) -> dict[str, Said] | None:
        found = self.known(name)
        self.used |= set(found or ())
        return found

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._assign(one, its)
            return
        if isinstance(target, ast.Name):
            said = self.eval(value)
            if target.id == BASES:
                self._old_bases(value, said)
                return
            is_name = isinstance(value, ast.Name) and value.id in self.values
            place = said if is_name else replace(said, where=self._at(target), key=target.id)
            self.assign(target.id, place)
            return
        self._assign_inside(target, value)

    def _assign_inside(self, target: ast.expr, value: ast.expr) -> None:
        """`model['llm'] = …` and `model.llm = …`."""
        holder, key = self._inside(target)
        said = self.eval(value)
        if isinstance(holder.value, list) and isinstance(key, int):
            holder.value[key] = replace(said, where=self._at(target))
        else:
            holder.value[key] = replace(said, where=self._at(target), key=str(key))

    def _inside(self, target: ast.expr) -> tuple[Said, Any]:
        if isinstance(target, ast.Subscript):
            holder, key = self.eval(target.value), self.eval(target.slice).value
        elif isinstance(target, ast.Attribute):
            holder, key = self.eval(target.value), target.attr
        else:
            raise self._wrong(target, f"`{ast.unparse(target)}` cannot be set")
        fits = isinstance(holder.value, dict) or (
            isinstance(holder.value, list)
            and isinstance(key, int)
            and -len(holder.value) <= key < len(holder.value)
        )
        if not fits:
            raise self._wrong(target, f"`{ast.unparse(target)}` is not there to be set")
        return holder, key

    def _changes_in_place(self, node: ast.expr) -> bool:
        """`model.update(…)`, `custom_hooks.append(…)`."""
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            return False
        holder, verb = self.eval(node.func.value).value, node.func.attr
        if verb == "append" and isinstance(holder, list) and len(node.args) == 1:
            holder.append(self.eval(node.args[0]))
            return True
        if verb == "update" and isinstance(holder, dict):
            for given in node.args:
                holder.update(self.eval(given).value)
            holder.update(self._keywords(node))
            return True
        return False

    def _old_bases(self, node: ast.expr, said: Said) -> None:
        """`_base_ = ['./base.py']`: later dictionaries are merged into those of the base."""
        names = said.plain()
        for name in [names] if isinstance(names, str) else names:
            file = self.path.parent / name
            stem = posixpath.basename(str(name)).removesuffix(".py")
            found = self._of_file(file) if file.is_file() else self._shipped(stem)
            if not found:
                raise self._wrong(node, f"the base {name!r} is neither a file nor one of XTuner's")
            self.values |= found

    def assign(self, name: str, said: Said) -> None:
        """Set a name of the top, then what the command line changes of it."""
        held = self.values.get(name)
        if held is not None and _is_base(held, self.path) and isinstance(said.value, dict):
            said = _merged(held, said)
        for key, text in self.changes.items():
            head, _, rest = key.partition(".")
            if head == name:
                said = _with(said, rest.split(".") if rest else [], Said(read_value(text), "", key))
                self.taken.add(key)
        self.values[name] = said

    def eval(self, node: ast.expr) -> Said:
        """A value with its place; what cannot be worked out is `Unread`."""
        try:
            value = self._value(node)
        except (_NotWorkedOut, TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
            value = Unread(ast.unparse(node))
        if isinstance(value, Said):
            return value
        return Said(value, self._at(node), ast.unparse(node)[:40])

    def _value(self, node: ast.expr) -> Any:
        kind = _KINDS.get(type(node))
        if kind is None:
            raise _NotWorkedOut
        return kind(self, node)

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.values:
            self.used.add(node.id)
            return self.values[node.id]
        return Dotted(self.imported.get(node.id, node.id))

    def _attribute(self, node: ast.Attribute) -> Any:
        inner = self.eval(node.value).value
        if isinstance(inner, dict) and node.attr in inner:
            return inner[node.attr]
        if isinstance(inner, Dotted):
            return Dotted(f"{inner}.{node.attr}")
        raise _NotWorkedOut

    def _sequence(self, node: ast.List | ast.Tuple) -> Any:
        items: list[Said] = []
        for one in node.elts:
            if isinstance(one, ast.Starred):
                items += self.eval(one.value).value
            else:
                items.append(self.eval(one))
        return items

    def _mapping(self, node: ast.Dict) -> Any:
        found: dict[str, Said] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                found |= self.eval(value).value
            else:
                name = self.eval(key).value
                found[name] = self._entry(str(name), value)
        return found

    def _keywords(self, node: ast.Call) -> dict[str, Said]:
        found: dict[str, Said] = {}
        for word in node.keywords:
            if word.arg is None:
                found |= self.eval(word.value).value
            else:
                found[word.arg] = self._entry(word.arg, word.value)
        return found

    def _entry(self, key: str, node: ast.expr) -> Said:
        """A value that a name stands for keeps the place of the name."""
        said = self.eval(node)
        if isinstance(node, ast.Name) and node.id in self.values:
            return said
        return replace(said, key=key)

    def _call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name in ("dict", "ConfigDict", "L", "LazyCall"):
            start: dict[str, Said] = {}
            for given in node.args:
                start |= self.eval(given).value
            return start | self._keywords(node)
        if any(word.arg is None or isinstance(word.value, ast.Starred) for word in node.keywords):
            raise _NotWorkedOut
        args = [_known(self.eval(one)) for one in node.args]
        words = {str(word.arg): _known(self.eval(word.value)) for word in node.keywords}
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            text = _known(self.eval(node.func.value))
            if isinstance(text, str) and not isinstance(text, Dotted):
                return getattr(text, node.func.attr)(*args, **words)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise _NotWorkedOut
        made = function(*args, **words)
        return [said_of(one, self._at(node), name) for one in made] if name == "list" else made

    def _binary(self, node: ast.BinOp) -> Any:
        left, right = _known(self.eval(node.left)), _known(self.eval(node.right))
        sizes = [len(one) if isinstance(one, str | list) else 0 for one in (left, right)]
        if isinstance(node.op, ast.Pow | ast.Mult) and (
            max(sizes) > _LARGEST or (isinstance(right, int) and right > _LARGEST and any(sizes))
        ):
            raise _NotWorkedOut
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise _NotWorkedOut
        made = _SUMS[type(node.op)](left, right)
        if isinstance(made, list):
            items: list[Said] = []
            for side in (node.left, node.right):
                items += self.eval(side).value
            return items
        return made

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = _known(self.eval(node.operand))
        if isinstance(node.op, ast.USub):
            return -value
        return not value if isinstance(node.op, ast.Not) else +value

    def _compare(self, node: ast.Compare) -> Any:
        if len(node.ops) != 1:
            raise _NotWorkedOut
        left, right = _known(self.eval(node.left)), _known(self.eval(node.comparators[0]))
        if isinstance(node.ops[0], ast.Is | ast.IsNot):
            return (left is right) == isinstance(node.ops[0], ast.Is)
        return _SUMS[type(node.ops[0])](left, right)

    def _choice(self, node: ast.IfExp) -> Any:
        return self.eval(node.body if _known(self.eval(node.test)) else node.orelse)

    def _subscript(self, node: ast.Subscript) -> Any:
        held = self.eval(node.value).value
        if isinstance(node.slice, ast.Slice):
            ends = [node.slice.lower, node.slice.upper, node.slice.step]
            return held[slice(*(None if one is None else _known(self.eval(one)) for one in ends))]
        key = _known(self.eval(node.slice))
        if isinstance(held, dict | list | str) and not isinstance(held, Dotted):
            return held[key]
        raise _NotWorkedOut

    def _joined(self, node: ast.JoinedStr) -> Any:
        pieces = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                spec = _known(self.eval(part.format_spec)) if part.format_spec else ""
                value = _known(self.eval(part.value))
                pieces.append(format(value, spec) if part.conversion == -1 else repr(value))
            else:
                pieces.append(str(_known(self.eval(part))))
        return "".join(pieces)

    def _at(self, node: ast.expr | ast.stmt) -> str:
        return f"{self.path.name}:{node.lineno}"

    def _wrong(self, node: ast.expr | ast.stmt, why: str) -> RecipeError:
        return RecipeError(f"{self._at(node)}: {why}; a configuration is read, never run")


class _NotWorkedOut(Exception):
    """An expression needs more than is understood here."""


_KINDS: Mapping[type, Callable[[_Reader, Any], Any]] = {
    ast.Constant: lambda reader, node: node.value,
    ast.Name: _Reader._name,
    ast.Attribute: _Reader._attribute,
    ast.List: _Reader._sequence,
    ast.Tuple: _Reader._sequence,
    ast.Set: _Reader._sequence,
    ast.Dict: _Reader._mapping,
    ast.Call: _Reader._call,
    ast.BinOp: _Reader._binary,
    ast.UnaryOp: _Reader._unary,
    ast.Compare: _Reader._compare,
    ast.IfExp: _Reader._choice,
    ast.Subscript: _Reader._subscript,
    ast.JoinedStr: _Reader._joined,
}


def _known(said: Said) -> Any:
    """The plain value; what is not worked out may not be computed with."""
    for one in leaves(said):
        if isinstance(one.value, Unread):
            raise _NotWorkedOut
    value = said.plain()
    if isinstance(value, Dotted):
        raise _NotWorkedOut
    return value


def leaves(said: Said) -> Iterator[Said]:
    """All values that hold no others."""
    if isinstance(said.value, dict):
        for one in said.value.values():
            yield from leaves(one)
    elif isinstance(said.value, list):
        for one in said.value:
            yield from leaves(one)
    else:
        yield said


def _loaded(node: ast.expr) -> ast.expr:
    made = ast.parse(ast.unparse(node), mode="eval").body
    return ast.copy_location(made, node)


def _is_base(held: Said, path: Path) -> bool:
    return bool(held.where) and held.where.rpartition(":")[0] != path.name


def _merged(base: Said, said: Said) -> Said:
    """A dictionary over one of a base, entry by entry; `_delete_=True` begins anew."""
    if not (isinstance(base.value, dict) and isinstance(said.value, dict)):
        return said
    own = dict(said.value)
    if (drop := own.pop("_delete_", None)) is not None and drop.value:
        return replace(said, value=own)
    found = dict(base.value)
    for key, value in own.items():
        found[key] = _merged(found[key], value) if key in found else value
    return replace(said, value=found)


def _with(said: Said, path: list[str], new: Said) -> Said:
    """`said` with one entry inside of it replaced.

    Raises:
        RecipeError: there is no such place.
    """
    if not path:
        return said_of(new.value, "", new.key)
    head, *rest = path
    if isinstance(said.value, list) and head.isdigit() and int(head) < len(said.value):
        items = list(said.value)
        items[int(head)] = _with(items[int(head)], rest, new)
        return replace(said, value=items)
    if isinstance(said.value, dict):
        inner = said.value.get(head) or Said({} if rest else None, "", new.key)
        return replace(said, value={**said.value, head: _with(inner, rest, new)})
    raise RecipeError(f"{new.key}: {said.origin} has no entry {head!r} to change")
