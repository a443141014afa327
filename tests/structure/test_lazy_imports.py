"""Starting the tool loads nothing heavy; recipes can be read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.structure.tree import module_name, python_files, shown

HEAVY = {
    "torch", "transformers", "tokenizers", "accelerate", "peft", "numpy", "PIL", "matplotlib",
    "pyarrow", "pandas", "fastapi", "jinja2",
}  # fmt: skip
MODELS = {"torch", "transformers", "tokenizers", "accelerate", "peft", "matplotlib", "pyarrow"}


def loaded_after(code: str, watched: set[str]) -> set[str]:
    """Which of `watched` a fresh interpreter has imported once `code` has run."""
    probe = f"{code}\nimport sys\nprint('loaded:', *sorted({watched!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["vlforge", "vlforge.types", "vlforge.cli", "vlforge.__main__"])
def test_starting_loads_nothing_heavy(module):
    assert not loaded_after(f"import {module}", HEAVY)


def test_configurations_load_no_model_library():
    modules = [module_name(p) for p in python_files("vlforge") if p.name == "config.py"]
    assert modules
    assert not loaded_after(f"import {', '.join(modules)}", HEAVY)


@pytest.mark.parametrize("package", ["recipe", "engine", "data", "text", "runs"])
def test_frames_load_no_model_library(package):
    modules = [
        module_name(p)
        for p in python_files("vlforge")
        if shown(p).startswith(f"vlforge/{package}/")
    ]
    assert not loaded_after("\n".join(f"import {name}" for name in modules), MODELS)


def test_a_heavy_import_is_seen():
    assert loaded_after("import json", {"json", "torch"}) == {"json"}
