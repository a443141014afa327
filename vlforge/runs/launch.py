"""Whether this process is one of several that a launcher started, and which.

torchrun, `accelerate launch` and `deepspeed` tell it in the variables that torch reads;
`srun` has its own. Nothing here loads torch.
"""

from __future__ import annotations

import os
import random
import re
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from vlforge.types import RecipeError

TOLD = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE",
    "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID",
)  # fmt: skip
"""What would make a process join the others of its own accord."""
_LOCAL_RANK = re.compile(r"--local[_-]rank(=\d+)?$")
_FIRST_PORT, _PORTS = 20000, 20000
_MEETING_PORTS = (10_000, 32_000)
"""Below those that Linux and others give to connections."""


@dataclass(frozen=True)
class Launch:
    """This process is `rank` of `count`; they meet at `address`:`port`.

    `local_rank` of `local_count` is its number on this machine. `has_host` says that the
    launcher answers there; else the first process does. `attempt` is torchrun's restart.
    """

    rank: int
    count: int
    local_rank: int
    local_count: int
    address: str
    port: int
    has_host: bool = False
    attempt: int = 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Which of several processes this one is; None where it was started alone.

    Raises:
        RecipeError: a launcher that does not tell where the processes meet.
    """
    known = os.environ if environment is None else environment
    if _number(known, "WORLD_SIZE", 1) > 1 and "RANK" in known:
        return _as_torch(known)
    # A batch script has SLURM_NTASKS too; only srun numbers a step.
    if "SLURM_STEP_ID" in known or "SLURM_STEP_NUM_TASKS" in known:
        count = _number(known, "SLURM_STEP_NUM_TASKS", _number(known, "SLURM_NTASKS", 1))
        if count > 1 and "SLURM_PROCID" in known:
            return _as_slurm(known, count)
    return None


def forget_launch(environment: MutableMapping[str, str]) -> None:
    """Take away what would make a process of ours join others of its own accord."""
    for name in TOLD:
        environment.pop(name, None)


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """A command line without the `--local_rank=3` that DeepSpeed's launcher puts in front."""
    kept = list(arguments)
    while kept and _LOCAL_RANK.match(kept[0]):
        kept = kept[1 if "=" in kept[0] else 2 :]
    return kept


def free_port() -> int:
    """A port of this machine that nobody listens to, and that nobody is given by chance.

    Half a minute of imports may lie between this and its use. The system would name one of
    those that it also gives to every connection that any program opens meanwhile.
    """
    # Not `random`'s own state: a seed of the caller's would name one port to all.
    chance = random.SystemRandom()
    for port in (*(chance.randrange(*_MEETING_PORTS) for _ in range(100)), 0):
        with socket.socket() as server, suppress(OSError):
            server.bind(("", port))
            return int(server.getsockname()[1])
    raise RecipeError("this machine has no free port for its processes to meet at")


def first_host(nodes: str) -> str:
    """The first machine of SLURM's short lists: `gpu[07-09,12],login1` begins with gpu07."""
    head = re.match(r"([^,\[]+)(?:\[([^\]]+)\])?([^,\[]*)", nodes)
    if head is None:
        raise RecipeError(f"SLURM_NODELIST {nodes!r} names no machine; set MASTER_ADDR")
    name, numbers, rest = head.groups()
    return name + (re.split(r"[-,]", numbers)[0] if numbers else "") + rest


def _as_torch(known: Mapping[str, str]) -> Launch:
    if not known.get("MASTER_ADDR") or not known.get("MASTER_PORT"):
        raise RecipeError(
            "RANK and WORLD_SIZE are set, but not where processes meet; set MASTER_ADDR and "
            "MASTER_PORT, or unset WORLD_SIZE to run alone"
        )
    rank, count = _number(known, "RANK"), _number(known, "WORLD_SIZE")
    return Launch(
        rank=rank,
        count=count,
        local_rank=_number(known, "LOCAL_RANK", rank),
        local_count=_number(known, "LOCAL_WORLD_SIZE", count),
        address=known["MASTER_ADDR"],
        port=_number(known, "MASTER_PORT"),
        has_host=known.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number(known, "TORCHELASTIC_RESTART_COUNT", 0),
    )


def _as_slurm(known: Mapping[str, str], count: int) -> Launch:
    nodes = next(
        (known[name] for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
         if known.get(name)),
        "",
    )  # fmt: skip
    address = known.get("MASTER_ADDR") or first_host(nodes)
    # Steps of one job run side by side: each has a port of its own, the same on all machines.
    own = _number(known, "SLURM_JOB_ID", 0) * 7 + _number(known, "SLURM_STEP_ID", 0)
    tasks = known.get("SLURM_STEP_TASKS_PER_NODE") or known.get("SLURM_TASKS_PER_NODE") or ""
    return Launch(
        rank=_number(known, "SLURM_PROCID"),
        count=count,
        local_rank=_number(known, "SLURM_LOCALID", 0),
        local_count=_tasks_of(tasks, _number(known, "SLURM_NODEID", 0), count),
        address=address,
        port=_number(known, "MASTER_PORT", _FIRST_PORT + own % _PORTS),
    )


def _tasks_of(text: str, node: int, count: int) -> int:
    """Tasks of a machine, of `4(x2),3`; all of them where SLURM does not tell."""
    tasks: list[int] = []
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(number)] * int(times or 1)
    return tasks[node] if node < len(tasks) else count


def _number(known: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = known.get(name, "")
    if not text and otherwise is not None:
        return otherwise
    try:
        return int(text)
    except ValueError:
        raise RecipeError(f"{name} is {text!r}, not a number; the launcher sets it") from None
