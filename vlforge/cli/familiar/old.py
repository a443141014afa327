"""An old command line taken apart: settings before it, launchers, the program, its words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlforge.types import RecipeError

_SETTING = re.compile(r"^[A-Za-z_]\w*=")
_SHELLS = {"bash", "sh", "zsh", "dash", "source", "sudo", "nohup", "time"}
_PYTHON = re.compile(r"^(.*/)?python[\d.]*$")
_LAUNCHERS = {
    "torchrun": {"--nproc_per_node", "--nproc-per-node", "--nnodes", "--node_rank", "--node-rank",
                 "--master_addr", "--master-addr", "--master_port", "--master-port",
                 "--rdzv_endpoint", "--rdzv_backend", "--rdzv_id", "--max_restarts"},
    "deepspeed": {"--hostfile", "--include", "--exclude", "--num_gpus", "--num_nodes",
                  "--master_addr", "--master_port", "--launcher"},
    "accelerate": {"--config_file", "--num_processes", "--num_machines", "--machine_rank",
                   "--main_process_ip", "--main_process_port", "--mixed_precision"},
    "paddle.distributed.launch": {"--gpus", "--devices", "--nnodes", "--master", "--log_dir"},
}  # fmt: skip
"""Programs that start another one, and their options that take a value."""
_COUNTS = ("--nproc_per_node", "--nproc-per-node", "--num_gpus", "--num_processes")
_LISTS = ("--gpus", "--devices")


@dataclass(frozen=True)
class OldCommand:
    """What an old command line says.

    `program` is the script or tool as it was called, `words` what follows it. `processes`
    is how many its launcher starts, where it says so; `env` are settings before it.
    """

    program: str
    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    launcher: str = ""
    processes: int | None = None

    @property
    def name(self) -> str:
        """The program's file name."""
        return Path(self.program).name

    def options(self, flags: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
        """The words without a name, and the options: `--key value`, `--key=value`.

        `flags` take no value; `--no-` is no part of a name. A negative number is a value.
        An option that comes twice keeps its last value.
        """
        places: list[str] = []
        given: dict[str, str] = {}
        waiting = ""
        for word in (*self.words, "--"):
            is_option = word.startswith("--") or bool(re.match(r"^-[A-Za-z]", word))
            if waiting:
                given[waiting] = "true" if is_option else word
                waiting, taken = "", not is_option
                if taken:
                    continue
            name, equals, value = word.lstrip("-").partition("=")
            if not is_option:
                places.append(word)
            elif equals:
                given[name] = value
            elif name in flags:
                given[name] = "true"
            else:
                waiting = name
        return places, given


@dataclass(frozen=True)
class Ours:
    """What to run instead: words behind `vlforge`, in order, and what to tell the user."""

    commands: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Familiar:
    """A command that people know, and its translation.

    `old` and `ours` are the two sides of its row in the documentation. `fits` says whether
    a command line is this one; `translate` may read files and raises RecipeError with what
    is missing or not there.
    """

    old: str
    ours: str
    fits: Callable[[OldCommand], bool]
    translate: Callable[[OldCommand], Ours]


def take_apart(words: Sequence[str]) -> OldCommand:
    """An old command line as its parts; settings and launchers come off the front.

    Raises:
        RecipeError: nothing but settings and launchers is there.
    """
    rest = list(words)
    env: dict[str, str] = {}
    launcher, count = "", None
    while rest:
        word = rest[0]
        if _SETTING.match(word):
            name, _, value = rest.pop(0).partition("=")
            env[name] = value
        elif word in _SHELLS or word == "env":
            rest.pop(0)
        elif _PYTHON.match(word):
            rest = _without_python(rest[1:])
        elif word in _LAUNCHERS:
            launcher = word
            rest, found = _without_launcher(rest)
            count = found or count
        else:
            break
    if not rest:
        raise RecipeError(
            "no command given; put the old one behind, e.g. "
            "vlforge compat dj-process --config clean.yaml"
        )
    per_node = env.get("NPROC_PER_NODE") or env.get("GPUS") or ""
    count = count or (int(per_node) if per_node.isdigit() else None)
    return OldCommand(rest[0], tuple(rest[1:]), env, launcher, count)


def _without_python(rest: list[str]) -> list[str]:
    while rest and rest[0] in ("-u", "-O", "-W", "-X"):
        rest = rest[2:] if rest[0] in ("-W", "-X") else rest[1:]
    return rest[1:] if rest[:1] == ["-m"] else rest


def _without_launcher(rest: list[str]) -> tuple[list[str], int | None]:
    """What the launcher starts, and how many of it."""
    name = rest[0]
    takes = _LAUNCHERS[name]
    rest = rest[1:]
    if name == "accelerate" and rest[:1] == ["launch"]:
        rest = rest[1:]
    count: int | None = None
    while rest and rest[0].startswith("-"):
        key, equals, value = rest.pop(0).partition("=")
        if key == "-m":
            continue
        if not equals and key in takes and rest:
            value = rest.pop(0)
        if key in _COUNTS and value.isdigit():
            count = int(value)
        elif key in _LISTS and value:
            count = len(value.split(","))
        elif key == "--include" and ":" in value:
            count = sum(len(node.partition(":")[2].split(",")) for node in value.split("@"))
    return rest, count


def is_script(name: str, *folders: str) -> Callable[[OldCommand], bool]:
    """Whether the program is that file, whatever its folder; in one of `folders` if named."""

    def fits(old: OldCommand) -> bool:
        path = Path(old.program)
        if path.name != name and path.name != name.removesuffix(".py"):
            return False
        return not folders or any(folder in path.parts for folder in folders)

    return fits


def wanted(given: Mapping[str, str], name: str, command: str) -> str:
    """An option that the command needs.

    Raises:
        RecipeError: it is not given.
    """
    if name not in given:
        raise RecipeError(f"{command} needs --{name}")
    return given[name]
