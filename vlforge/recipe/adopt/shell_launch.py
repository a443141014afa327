"""Python programs that a shell command starts, with or without a launcher, on how many GPUs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.recipe.adopt.shell_words import ShellCommand, Word

_PYTHON = re.compile(r"^(.*/)?python[\d.]*$")
_VALUED = {
    "deepspeed": ("--hostfile", "--include", "--exclude", "--num_gpus", "--num_nodes",
                  "--master_addr", "--master_port", "--launcher", "--launcher_args", "--bind_core",
                  "--ssh_port", "--deepspeed_config", "-H", "-i", "-e"),
    "torchrun": ("--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--master_port",
                 "--rdzv_endpoint", "--rdzv_backend", "--rdzv_id", "--max_restarts",
                 "--local_addr", "--log_dir"),
    "accelerate": ("--config_file", "--num_processes", "--num_machines", "--machine_rank",
                   "--main_process_ip", "--main_process_port", "--mixed_precision",
                   "--gpu_ids", "--dynamo_backend"),
}  # fmt: skip
"""Launchers, and their options that take a value; others stand alone."""
_AS_TORCHRUN = ("torch.distributed.run", "torch.distributed.launch")


@dataclass(frozen=True)
class Started:
    """A program that a command starts.

    `processes` is on how many GPUs, where the command line or a hostfile says so; `told` is
    what says it.
    """

    program: Word
    words: tuple[Word, ...]
    line: int
    folder: str
    processes: int | None = None
    told: str = ""


def started(command: ShellCommand) -> Started | None:
    """The Python program that a command starts; None where it starts something else."""
    words = list(command.words)
    launcher = ""
    options: dict[str, Word] = {}
    while words:
        name = words[0].text.rpartition("/")[2]
        if name in ("srun", "bash", "sh", "env", "nohup", "time") or _is_option(words[0]):
            words.pop(0)
        elif _PYTHON.match(words[0].text):
            words = _behind_python(words[1:])
        elif name in (*_VALUED, *_AS_TORCHRUN):
            launcher = "torchrun" if name in _AS_TORCHRUN else name
            options, words = _options(words[1:], _VALUED[launcher])
        else:
            break
    if not words:
        return None
    count, told = _count(launcher, options, command)
    return Started(words[0], tuple(words[1:]), command.line, command.folder, count, told)


def _is_option(word: Word) -> bool:
    return word.text.startswith("-")


def _behind_python(words: list[Word]) -> list[Word]:
    while words and words[0].text in ("-u", "-O", "-W", "-X"):
        words = words[2:] if words[0].text in ("-W", "-X") else words[1:]
    return words[1:] if words and words[0].text == "-m" else words


def _options(words: Sequence[Word], valued: Sequence[str]) -> tuple[dict[str, Word], list[Word]]:
    """A launcher's options by name, and what follows them."""
    rest = list(words)
    if rest and rest[0].text == "launch":
        rest.pop(0)
    found: dict[str, Word] = {}
    while rest and _is_option(rest[0]):
        word = rest.pop(0)
        name, equals, value = word.text.partition("=")
        key = name if len(name) == 2 else name.replace("-", "_").replace("__", "--", 1)
        if equals:
            found[key] = Word(value, word.line, word.names, word.unknown)
        elif key in valued and rest:
            found[key] = rest.pop(0)
        elif key in ("-m", "--module"):
            break
    return found, rest


def _count(
    launcher: str, options: dict[str, Word], command: ShellCommand
) -> tuple[int | None, str]:
    """How many GPUs, and what says it."""
    nodes = _number(options, "--nnodes", "--num_nodes", "--num_machines")
    for name in ("--nproc_per_node", "--num_gpus", "--num_processes"):
        each = _number(options, name)
        if each is not None:
            total = each if name == "--num_processes" else each * (nodes or 1)
            return total, f"{name} {each}" + (f" on {nodes}" if nodes and total != each else "")
    included = options.get("--include") or options.get("-i")
    if included is not None and not included.unknown and ":" in included.text:
        hosts = [one.partition(":")[2] for one in included.text.split("@")]
        return sum(len(one.split(",")) for one in hosts), f"--include {included.text}"
    hostfile = options.get("--hostfile") or options.get("-H")
    if hostfile is not None:
        return _slots(Path(os.path.join(command.folder, hostfile.text))), str(hostfile.text)
    visible = command.env.get("CUDA_VISIBLE_DEVICES")
    if launcher and visible is not None and visible.text and not visible.unknown:
        return len(visible.text.split(",")), f"CUDA_VISIBLE_DEVICES={visible.text}"
    return None, ""


def _number(options: dict[str, Word], *names: str) -> int | None:
    for name in names:
        text = options[name].text if name in options else ""
        if text.isdigit():
            return int(text)
    return None


def _slots(path: Path) -> int | None:
    """The slots of a hostfile; None where it is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    slots = re.findall(r"^\s*[^#\s]\S*\s+slots\s*=\s*(\d+)", text, re.MULTILINE)
    return sum(map(int, slots)) or None
