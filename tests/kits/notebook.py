"""Runs the notebook of examples/ as its reader would, and keeps what of it is not by chance.

python -m tests.kits.notebook            write its outputs anew
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "better_synth_10k.ipynb"
LONGEST_S = 3600
"""For a cell, and for the kernel to begin or to send what a cell has said."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def execute(notebook: Path, folder: Path) -> NotebookNode:
    """The notebook, run from the first cell to the last in `folder`.

    Raises:
        CellExecutionError: a cell failed; has its source and its error.
    """
    shutil.copy(notebook, folder)
    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as home:
        # By sockets that have names: a port that is free now may be another's in a moment.
        meeting = {"transport": "ipc", "ip": f"{home}/k", "connection_file": f"{home}/k.json"}
        client = NotebookClient(
            cells,
            timeout=LONGEST_S,
            startup_timeout=LONGEST_S,
            iopub_timeout=LONGEST_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            config=Config(ConnectionFileMixin=meeting),
        )
        client.execute(env=_environment(home))
    return tidy(cells, folder)


def _environment(home: str) -> dict[str, str]:
    """A kernel's, with nothing of its reader's own; the fonts are listed already.

    Where they are not, and listing them takes a while, matplotlib says so in the notebook.
    """
    own = {"IPYTHONDIR": home, "MPLCONFIGDIR": home}
    fonts = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(fonts, env=os.environ | own, check=True, capture_output=True)
    return os.environ | own


def tidy(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Without what a machine adds: its paths, times of execution, terminal codes, cell ids."""
    homes = sorted({str(folder), str(folder.resolve())}, key=len, reverse=True)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.metadata.clear()
        if cell.cell_type != "code":
            continue
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _plain(output.text, homes)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    return notebook


def kinds(cell: NotebookNode) -> tuple[str, ...]:
    """What a cell gave, in its order: `stdout`, `image/png` …"""
    found = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            found.append(output.name)
        else:
            found += sorted(output.get("data", {"error": None}))
    return tuple(found)


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Pieces of one stream that follow each other, as one; how they were cut is chance."""
    whole: list[NotebookNode] = []
    for output in outputs:
        before = whole[-1] if whole else None
        is_stream = output.output_type == "stream"
        if is_stream and before and before.output_type == "stream" and before.name == output.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def _plain(text: str, homes: list[str]) -> str:
    for home in homes:
        text = text.replace(f"{home}/", "").replace(home, ".")
    text = re.sub(r"\r+\n", "\n", _ESCAPES.sub("", text))
    return "\n".join(line.rpartition("\r")[2].rstrip() for line in text.split("\n"))


def main() -> None:
    """Run it in an empty folder and write it back with what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        done = execute(NOTEBOOK, Path(folder))
    nbformat.write(done, NOTEBOOK)


if __name__ == "__main__":
    main()
