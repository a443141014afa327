"""One stage in several processes: started together, and ended together.

Each process is a fresh one with its own device and its number in the environment, as
torchrun would have started it. The one that starts them relays what the first says,
and ends all where one fails or dies: nobody waits for somebody who is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from vlforge.data.fresh_process import DYING_S, die_with_parent, start_tied
from vlforge.data.interrupts import ignore_interrupts
from vlforge.data.roots import set_moved
from vlforge.runs.control import Control
from vlforge.runs.launch import Launch, forget_launch, free_port
from vlforge.runs.memory import peak_mb
from vlforge.runs.worker import STOP, Order, report_of, run_stage, say_exit
from vlforge.types import StageStopped, VLForgeError

Said = tuple[int, tuple[Any, ...]]
"""(rank, message)."""
_GRACE_S = 3.0
"""How long others may still tell what went wrong, once one has."""
_OF_SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)
_POLL_S = 0.25
_SHARED_S = 1.0
"""How often machines look at one another."""


class MemberFailed(VLForgeError):
    """What one process of a stage said; `trace` is where it happened."""

    def __init__(self, line: str, trace: str = ""):
        super().__init__(line)
        self.trace = trace


@dataclass(frozen=True)
class Meeting:
    """Where the processes of one stage meet, and which of them are this machine's own."""

    address: str
    port: int
    count: int
    ranks: range

    def environment(self, rank: int, local: int, local_count: int, threads: int) -> dict[str, str]:
        """What one process is told."""
        told = {
            "RANK": rank,
            "WORLD_SIZE": self.count,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": local_count,
            "MASTER_ADDR": self.address,
            "MASTER_PORT": self.port,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        return {name: str(value) for name, value in told.items()}


@dataclass(frozen=True)
class Call:
    """What followers get: the order, its folder, and where to meet."""

    order: Order
    out: Path
    address: str
    port: int

    def words(self) -> dict[str, Any]:
        """It as JSON has it."""
        order = asdict(self.order) | {"store": str(self.order.store)}
        order |= {"run_dir": str(self.order.run_dir)}
        return {"order": order, "out": str(self.out), "address": self.address, "port": self.port}

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Call:
        """What `words` gave."""
        order = dict(words["order"])
        for name in ("store", "run_dir"):
            order[name] = Path(order[name])
        launch = order["launch"]
        order["launch"] = Launch(**launch) if launch is not None else None
        return cls(Order(**order), Path(words["out"]), words["address"], words["port"])


class Members:
    """Processes of this machine that run one stage.

    Args:
        environments: what each is told, by rank.
    """

    def __init__(self, order: Order, out: Path, environments: Mapping[int, dict[str, str]]):
        self._pipes: dict[Connection, int] = {}
        self._processes: dict[int, Any] = {}
        self._lifelines: list[Connection] = []
        for rank, told in environments.items():
            (process, pipe), lifeline = start_tied(serve_member, order, out, rank, told)
            self._pipes[pipe], self._processes[rank] = rank, process
            self._lifelines.append(lifeline)

    def events(self, timeout_s: float) -> Iterator[Said]:
        """What they say; a dead one says ("died", how)."""
        for pipe in wait(list(self._pipes), timeout_s):
            assert isinstance(pipe, Connection)
            rank = self._pipes[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                del self._pipes[pipe]
                process = self._processes[rank]
                process.join(DYING_S)
                message = ("died", say_exit(process.exitcode))
            if message[0] in ("done", "failed", "stopped"):
                self._pipes.pop(pipe, None)
            yield rank, message

    def ask_to_stop(self) -> None:
        """Let the stage end between two steps."""
        for pipe in self._pipes:
            with suppress(OSError):  # It ends just now.
                pipe.send(STOP)

    def end(self, *, at_once: bool) -> None:
        """Wait for their end, or kill them."""
        for process in self._processes.values():
            if at_once:
                process.kill()
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()


def serve_member(
    order: Order,
    out: Path,
    rank: int,
    told: Mapping[str, str],
    lifeline: Connection,
    pipe: Connection,
) -> None:
    """Run a stage as one of several; only the first process's progress is told."""
    ignore_interrupts()
    for number in _OF_SCHEDULERS:
        # The first process is told too, and asks all of them: who dies of it writes nothing.
        signal.signal(number, lambda *_: None)
    threading.Thread(target=die_with_parent, args=(lifeline,), daemon=True).start()
    forget_launch(os.environ)
    os.environ.update(told)
    set_moved(order.moved)
    try:
        run_stage(order, out, pipe, is_quiet=rank > 0)
        message: tuple[Any, ...] = ("done", round(peak_mb(), 1))
    except BaseException as error:
        message = report_of(error, order)
    pipe.send(message)
    if message[0] in ("done", "stopped"):
        _leave()


def _leave() -> None:
    """Part from the others, so that nobody complains at the end."""
    import sys

    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def run_together(order: Order, out: Path, pipe: Connection | None) -> float:
    """Run one stage in `order.processes` processes; the peak memory of one, MB.

    Raises:
        MemberFailed: one of them failed or died; all are ended.
        StageStopped: they were asked to end.
    """
    launch = order.launch
    control = Control.connect(launch, is_host=False) if launch is not None else None
    meeting = meeting_of(order, launch)
    number = -1
    if control is not None:
        number = control.call(Call(order, out, meeting.address, meeting.port).words())
    members = Members(order, out, environments(meeting, order, launch))
    team = _Team(order, members, pipe, control, number)
    try:
        with _signalled() as asked:
            peak = team.watch(asked)
    except BaseException:
        if control is not None:
            control.tell(f"abort/{number}", True)
        members.end(at_once=True)
        raise
    members.end(at_once=False)
    return peak


@contextmanager
def _signalled() -> Iterator[list[int]]:
    """Signals of a scheduler, remembered."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    before = {
        number: signal.signal(number, lambda number, frame: seen.append(number))
        for number in _OF_SCHEDULERS
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def meeting_of(order: Order, launch: Launch | None) -> Meeting:
    """Where the processes of a stage that this process leads meet."""
    if launch is None:
        return Meeting("127.0.0.1", free_port(), order.processes, range(order.processes))
    return Meeting(launch.address, free_port(), launch.count, range(1))


def environments(
    meeting: Meeting, order: Order, launch: Launch | None
) -> dict[int, dict[str, str]]:
    """What each process of this machine is told."""
    if launch is not None:
        local, count = launch.local_rank, launch.local_count
        threads = max(1, order.threads // count)
        return {launch.rank: meeting.environment(launch.rank, local, count, threads)}
    threads = max(1, order.threads // meeting.count)
    return {rank: meeting.environment(rank, rank, meeting.count, threads) for rank in meeting.ranks}


class _Team:
    """The watch over one stage, until all are done or one is not."""

    def __init__(
        self,
        order: Order,
        members: Members,
        pipe: Connection | None,
        control: Control | None,
        number: int,
    ):
        self.order, self.members, self.pipe = order, members, pipe
        self.control, self.number = control, number
        self.ended: dict[int, tuple[Any, ...]] = {}
        self._looked = 0.0

    def watch(self, asked: list[int]) -> float:
        """Relay, and gather how it ended.

        Args:
            asked: holds something once a signal asked for the end.
        """
        deadline: float | None = None
        while len(self.ended) < self.order.processes:
            for rank, message in [*self.members.events(_POLL_S), *self._of_others()]:
                self._take(rank, message)
            if (self.pipe is not None and self.pipe.poll() and self.pipe.recv() == STOP) or asked:
                asked.clear()
                self.members.ask_to_stop()
            if any(message[0] in ("failed", "died") for message in self.ended.values()):
                deadline = deadline or time.monotonic() + _GRACE_S
                if time.monotonic() > deadline:
                    break
        return self._judge()

    def _take(self, rank: int, message: tuple[Any, ...]) -> None:
        if message[0] in ("progress", "log"):
            if self.pipe is not None:
                self.pipe.send(message)
        else:
            self.ended.setdefault(rank, message)

    def _of_others(self) -> Iterator[Said]:
        """What other machines' processes say of their end."""
        if self.control is None or time.monotonic() - self._looked < _SHARED_S:
            return
        self._looked = time.monotonic()
        for rank in range(1, self.control.launch.count):
            told = None if rank in self.ended else self.control.read(f"result/{self.number}/{rank}")
            if told is not None:
                yield rank, tuple(told)
        silent = self.control.silent()
        if silent is not None and silent not in self.ended:
            yield silent, ("died", "not heard of for more than a minute")

    def _judge(self) -> float:
        """The peak, or what is raised for the worst that was said.

        A fault of ours says what to do, so it comes first; a process that breaks off because
        another died comes last.
        """
        faults = sorted(
            (0 if message[0] == "failed" and not message[2] else 1 if message[0] == "died" else 2,
             rank, message)
            for rank, message in self.ended.items()
            if message[0] in ("failed", "died")
        )  # fmt: skip
        if faults:
            place, rank, message = faults[0]
            if place == 0:
                raise MemberFailed(message[1])
            how = f"died ({message[1]})" if message[0] == "died" else message[1]
            trace = message[2] if message[0] == "failed" else ""
            line = f"process {rank} of {self.order.processes} {how}"
            raise MemberFailed(f"{line}; all were ended, the same command goes on", trace)
        stopped = [message[1] for message in self.ended.values() if message[0] == "stopped"]
        if stopped:
            raise StageStopped(stopped[0])
        return max(message[1] for message in self.ended.values())


def take_part(call: Call, launch: Launch, control: Control, number: int) -> None:
    """Run this process's share of a stage that the first process leads, and tell how it went."""
    meeting = Meeting(call.address, call.port, launch.count, range(launch.rank, launch.rank + 1))
    members = Members(call.order, call.out, environments(meeting, call.order, launch))
    try:
        ended = _end_of(members, control, number)
    except BaseException:
        members.end(at_once=True)
        raise
    if ended[0] == "died":
        ended = ("died", f"{ended[1]}, on {socket.gethostname()}")
    control.tell(f"result/{number}/{launch.rank}", ended)
    members.end(at_once=ended[0] not in ("done", "stopped"))


def _end_of(members: Members, control: Control, number: int) -> tuple[Any, ...]:
    """How the share ended, or that the first process has no use for it any more."""
    looked = 0.0
    while True:
        for _, message in members.events(_POLL_S):
            if message[0] not in ("progress", "log"):
                return message
        if time.monotonic() - looked < _SHARED_S:
            continue
        looked = time.monotonic()
        control.beat()
        if control.read(f"abort/{number}"):
            return ("aborted",)
