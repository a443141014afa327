"""Dependencies point one way; imports inside functions count."""

from __future__ import annotations

import ast

import pytest

from tests.structure.tree import PACKAGE, by_folder, faults, module_name, parsed, python_files

# What each package may import, besides itself. docs/architecture.md draws the same arrows.
_GROUND = {"types"}
_DATA = _GROUND | {"data", "text"}
_MODELS = _DATA | {"kernels"}
_USE = _MODELS | {"models", "checkpoints", "inference"}
_STEPS = _USE | {"ops", "engine", "training", "evaluation", "serving"}
ARROWS: dict[str, set[str]] = {
    "types": set(),
    "data": _GROUND,
    "text": _GROUND,
    "kernels": _GROUND,
    "ops": _DATA,
    "engine": _DATA | {"ops"},
    "models": _MODELS,
    "checkpoints": _MODELS | {"models"},
    "inference": _MODELS | {"models", "checkpoints"},
    "training": _USE,
    "evaluation": _USE,
    "serving": _USE,
    "integrations": _USE | {"evaluation"},
    "recipe": _STEPS,
    "reports": _STEPS,
    "runs": _STEPS | {"recipe", "reports"},
    "quickstart": _STEPS | {"recipe", "reports", "runs"},
    "miniatures": _STEPS | {"recipe", "reports", "runs"},
    "challenges": _STEPS | {"recipe", "reports", "runs"},
    "cli": _STEPS | {"recipe", "reports", "runs", "quickstart", "challenges", "miniatures"},
    "api": _STEPS | {"recipe", "reports", "runs", "cli"},
    "__main__": {"cli", "types"},
}


def package_of(module: str) -> str | None:
    """`vlforge.data.images` -> `data`; None for the bare `vlforge` and for other libraries."""
    parts = module.split(".")
    return parts[1] if parts[0] == "vlforge" and len(parts) > 1 else None


def imported_modules(tree: ast.Module, module: str, is_package: bool) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in the file, wherever it stands."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                depth = node.level - 1 if is_package else node.level
                home = module.split(".")[: len(module.split(".")) - depth]
                base = ".".join([*home, base] if base else home)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def wrong_arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    """Imports of `source`, a file called `module`, that the table does not allow."""
    return _wrong(ast.parse(source), module, is_package)


def _wrong(tree: ast.Module, module: str, is_package: bool) -> list[str]:
    home = package_of(module)
    wrong = []
    for line, name in imported_modules(tree, module, is_package):
        target = package_of(name)
        if target is None or target == home or target == "__version__":
            continue
        if home is None and target == "api":  # what `from vlforge import train` means
            continue
        if home is None or target not in ARROWS.get(home, set()):
            wrong.append(f"line {line}: {home or 'vlforge'} -> {target} ({name})")
    return wrong


@pytest.mark.parametrize("paths", by_folder(python_files("vlforge")))
def test_every_import_follows_an_arrow(paths):
    assert not faults(paths, lambda p: _wrong(parsed(p), module_name(p), p.name == "__init__.py"))


def test_every_package_has_a_row_in_the_table():
    names = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    names |= {p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__"}
    assert names <= set(ARROWS)


def test_the_table_has_no_circle():
    order: list[str] = []
    left = dict(ARROWS)
    while left:
        free = [name for name, needs in left.items() if needs <= set(order)]
        assert free, f"these import one another: {sorted(left)}"
        order += free
        left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vlforge.data.images", "from vlforge.ops import find"),
        ("vlforge.ops.text.lengths", "def f():\n    import vlforge.models.llava"),
        ("vlforge.training.loop", "from vlforge import evaluation"),
        ("vlforge.training.loop", "from ..evaluation.run import evaluate"),
        ("vlforge.text.encode", "from ..data import images"),
        ("vlforge.runs.run", "from vlforge.cli import show"),
        ("vlforge.types", "from vlforge.data import images"),
        ("vlforge", "from vlforge.types import Row"),
    ],
)
def test_a_wrong_arrow_is_seen(module, source):
    assert wrong_arrows(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vlforge.ops.text.lengths", "from vlforge.types import Row"),
        ("vlforge.training.loop", "from vlforge.models.llava import LlavaModel"),
        ("vlforge.training.loop", "from . import batches"),
        ("vlforge.runs.run", "from vlforge import __version__"),
        ("vlforge.data.images", "import numpy, os"),
    ],
)
def test_an_allowed_arrow_passes(module, source):
    assert not wrong_arrows(source, module)


def test_a_package_resolves_its_own_relative_imports():
    assert not wrong_arrows("from .images import load_rgb", "vlforge.data", is_package=True)
    assert wrong_arrows("from ..ops import find", "vlforge.data", is_package=True)
