"""Content keys: equal work has equal keys, whatever run it stands in.

A key covers the stage's settings, the keys of its inputs, the content of
outside files, the source that the kind imports, and library versions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlforge.recipe.graph import Node
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.references import replace_strings, split_reference

LIBRARIES = ("torch", "transformers", "pillow", "tokenizers", "accelerate", "numpy")
_WHOLE_FILE = 64 * 1024 * 1024


def node_key(node: Node, input_keys: Mapping[str, str]) -> str:
    """Sixteen hex digits for `node`; `input_keys` maps node names to their keys."""

    def stand_in(text: str) -> str:
        found = split_reference(text)
        if found:
            return f"${input_keys[node.inputs[found[0]]]}/{found[1]}"
        if _is_path(text):
            return f"file:{fingerprint(Path(text))}"
        shards = files_of_pattern(text) if text.startswith("/") else []
        return f"files:{','.join(map(fingerprint, shards))}" if shards else text

    from vlforge.data.detect import files_of_pattern

    kind = find_kind(node.kind)
    body = {
        "kind": node.kind,
        "settings": replace_strings(_keyed(kind, node), stand_in),
        "inputs": sorted(input_keys[name] for name in node.inputs.values()),
        "source": source_digest((kind.runner, kind.config.partition(":")[0], *_extra(kind, node))),
        "versions": library_versions(),
    }
    text = json.dumps(body, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """A digest of a file's bytes, or of a folder's names, sizes and small files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(str(file.relative_to(path)).encode())
            digest.update(fingerprint(file).encode())
    else:
        _digest_file(path, digest)
    return digest.hexdigest()[:16]


@functools.cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that shape results, build suffix cut off."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def source_digest(modules: Iterable[str]) -> str:
    """A digest of the code of `modules` (names, or paths of files) and of all they import of us.

    Comments, docstrings and layout do not count.
    """
    package = __name__.partition(".")[0]
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = _module_path(name)
        if path is None:
            continue
        seen[name], imports = _read_module(path)
        waiting.extend(i for i in imports if i.partition(".")[0] == package)
    text = "\n".join(f"{name} {seen[name]}" for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _extra(kind: Any, node: Node) -> tuple[str, ...]:
    extra = getattr(kind.module(), "extra_sources", None)
    return tuple(extra(node.settings)) if extra else ()


def _keyed(kind: Any, node: Node) -> dict[str, Any]:
    """The settings but for those that the kind says change nothing of what it leaves."""
    unkeyed = getattr(kind.module(), "UNKEYED", ())
    told = {name: value for name, value in node.settings.items() if name not in unkeyed}
    keyed = getattr(kind.module(), "keyed", None)
    return keyed(told) if keyed else told


def _is_path(text: str) -> bool:
    if not text or len(text) > 4096 or "\n" in text or "\0" in text:
        return False
    if "/" not in text and "." not in text:
        return False
    return Path(text).is_absolute() and Path(text).exists()


def _digest_file(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE_FILE:
            digest.update(file.read())
            return
        for offset in (0, size // 2, size - (1 << 20)):
            file.seek(offset)
            digest.update(file.read(1 << 20))


@functools.cache
def _module_path(name: str) -> Path | None:
    """A module's file. Nothing is imported on the way: looking for one would import torch."""
    if name.endswith(".py"):
        return Path(name)
    head, _, last = name.rpartition(".")
    above = _module_path(head) if head else None
    if above is not None:
        folder = above.parent / last
        if above.name != "__init__.py":
            return None  # a name in a module
        found = (folder.with_name(f"{last}.py"), folder / "__init__.py")
        return next((path for path in found if path.is_file()), None)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


@functools.cache
def _read_module(path: Path) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.append(node.module)
            imports.extend(f"{node.module}.{alias.name}" for alias in node.names)
        _strip_docstring(node)
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    return digest, tuple(imports)


def _strip_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            body[0] = ast.Expr(value=ast.Constant(value=""))
