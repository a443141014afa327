"""Blocks on their way through the tail of a pass, where models are at work.

A `Flight` is a block between the workers and the files. It carries what is to be written
of it, so that several blocks may be under way, and their effects still come in order, each
when its turn is there. Where the models are is a matter of `Hands`: this process
(`HomeHands`), processes of their own (`model_crew`), or actors of a Ray cluster.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import msgspec

from vlforge.engine.ahead import AheadFiles, Decoder
from vlforge.engine.answers import RememberingModels
from vlforge.engine.block import BlockReport, BlockRun, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Head, Sums, head_of
from vlforge.engine.plan import Leg, asks_endpoint, operators_of
from vlforge.engine.pool import by_number
from vlforge.ops.base import Matcher
from vlforge.ops.batch import Context, needs_pixels
from vlforge.types import EndpointSpec, ModelSource, Need

AHEAD = 2
"""Blocks that a place of models has at once: one in work, one whose pictures are decoded."""


@dataclass
class Flight:
    """A block between the workers and the files.

    `tracks` are the rows that still have legs before them. `reports`, `sums` and `keys`
    (lines for the files of dedups, by place) take effect when the block lands; `bad` tells
    of the first row that could not be used.
    """

    name: str
    read: int
    tracks: list[Track] = field(default_factory=list)
    reports: list[tuple[BlockReport, Mapping[int, int]]] = field(default_factory=list)
    sums: list[Sums] = field(default_factory=list)
    keys: dict[int, list[bytes]] = field(default_factory=dict)
    bad: str | None = None
    asked: int = 0
    remembered: int = 0

    def take(self, done: LegDone) -> None:
        """What a leg has made of the block."""
        self.tracks = done.tracks
        self.reports.append((done.report, {}))
        if done.sums is not None:
            self.sums.append(done.sums)
        self.bad = self.bad or done.bad
        self.asked += done.asked
        self.remembered += done.remembered


class LegJob(msgspec.Struct):
    """A block's rows before a leg. `file` keeps what models answer about them."""

    number: int
    leg: int
    file: str
    tracks: list[Track]


class LegDone(msgspec.Struct):
    """A block's rows behind a leg, or summed up where it was the last one.

    `asked` and `remembered` count the answers of generative models.
    """

    tracks: list[Track]
    report: BlockReport
    sums: Sums | None = None
    bad: str | None = None
    asked: int = 0
    remembered: int = 0


@dataclass(frozen=True)
class Told:
    """What a process needs to take blocks through legs: nothing in it is bound to another."""

    config: ProcessConfig
    seed: int
    produced: str
    learned: Mapping[int, Any]

    def head(self) -> Head:
        """The operators, bound anew."""
        bounds = operators_of(self.config)
        return head_of(self.config, bounds, self.seed, self.produced, self.learned)


class Prepared(msgspec.Struct):
    """A block whose pictures are being decoded already."""

    job: LegJob
    run: BlockRun


class LegRunner:
    """Takes blocks through legs, with models that are opened once in this process."""

    def __init__(self, models: ModelSource | None, endpoints: Mapping[str, EndpointSpec]):
        self.models = None if models is None else RememberingModels(models, endpoints)
        self._endpoints = endpoints
        self.decoder = Decoder()
        self.head: Head | None = None
        self._context: Context | None = None

    def begin(self, head: Head) -> None:
        """From now on, the blocks of this pass."""
        self.head = head
        if self._context is None:
            self._context = replace(head.context, models=self.models)

    def prepare(self, job: LegJob) -> Prepared:
        """Begin to decode what the block's first step asks for, as far as that is known."""
        assert self.head is not None
        assert self._context is not None
        leg = self.head.plan.passes[job.number].legs[job.leg]
        viewers = [b.op for step in leg.steps for b in step.ops if needs_pixels(b.op)]
        files = AheadFiles(viewers, self.decoder)
        run = leg_run(self.head, self._context, leg, job.tracks, {}, files)
        run.look_ahead()
        return Prepared(job, run)

    def run(self, prepared: Prepared) -> LegDone:
        """Take the block through its leg."""
        assert self.head is not None
        job, run = prepared.job, prepared.run
        models = self.models
        if models is None or self.asks_servers(job):
            done = finished(self.head, job.number, job.leg, run)
            run.files.close()
            return done
        before = models.asked, models.remembered
        with models.block(Path(job.file)):
            done = finished(self.head, job.number, job.leg, run)
        run.files.close()
        done.asked, done.remembered = models.asked - before[0], models.remembered - before[1]
        return done

    def asks_servers(self, job: LegJob) -> bool:
        """Whether the models of the job's leg are servers, all of them; then it may run anywhere,
        beside others, and its answers are kept by the file of replies.
        """
        assert self.head is not None
        leg = self.head.plan.passes[job.number].legs[job.leg]
        asking = [b for step in leg.steps for b in step.ops if b.op.needs >= Need.EMBEDDING]
        return bool(asking) and all(asks_endpoint(bound, self._endpoints) for bound in asking)

    def spent(self) -> dict[str, Any]:
        """What asking servers took in this process, by the name of each."""
        told = getattr(self.models, "spent", None)
        return {} if told is None else told()

    def close(self) -> None:
        """Nothing more is decoded."""
        self.decoder.close()


def leg_run(
    head: Head,
    context: Context,
    leg: Leg,
    tracks: list[Track],
    matchers: Mapping[int, Matcher],
    files: Any = None,
) -> BlockRun:
    """The run of a block through a leg."""
    trace = head.trace_num
    return BlockRun(tracks, context, leg.steps, trace, matchers, head.learned, files)


def finished(head: Head, number: int, at: int, run: BlockRun) -> LegDone:
    """Run it, and sum it up where it was the pass's last leg."""
    this = head.plan.passes[number]
    report = run.run()
    if at + 1 < len(this.legs):
        return LegDone(run.tracks, report)
    done: Done = head.done(run, this, len(run.tracks), at_end=True)
    return LegDone([], report, done.sums, done.bad)


_STOPPED, _GRACE_S = "stopped", 30.0
"""What an endpoint says to those who ask on when it has failed for one; how long that one may
take to say why."""
Ticket = tuple[int, int]
"""The leg that gave a job, and the job's number there."""


class Hands(Protocol):
    """Where modelled legs run. Jobs of one leg may be done in any order."""

    room: int
    """Jobs that a leg may have given at once."""

    def begin(self, head: Head) -> None:
        """The pass that comes next."""
        ...

    def give(self, ticket: Ticket, job: LegJob) -> None:
        """A job; it does not wait for it."""
        ...

    def collect(self, leg: int) -> Iterator[tuple[Ticket, LegDone]]:
        """Wait for some results, of the leg if it matters whose are waited for."""
        ...

    def spent(self) -> list[dict[str, Any]]:
        """What asking servers took, by the name of each, per process; nothing is under way."""
        ...

    def close(self) -> None:
        """End at once what is under way."""
        ...


class HomeHands:
    """This process: a block is with the model while the next one's pictures are decoded.

    Where a leg asks servers alone, two blocks are at it at once, each in a thread: while one
    waits for its last replies, the servers are busy with the other.
    """

    def __init__(self, models: ModelSource | None, endpoints: Mapping[str, EndpointSpec]):
        self.room = AHEAD
        self.runner = LegRunner(models, endpoints)
        self._waiting: deque[tuple[Ticket, Prepared | _Begun]] = deque()

    def begin(self, head: Head) -> None:
        """The pass that comes next."""
        self.runner.begin(head)

    def give(self, ticket: Ticket, job: LegJob) -> None:
        """A job for later; its pictures are looked at now, and servers are asked."""
        prepared = self.runner.prepare(job)
        is_far = self.runner.asks_servers(job)
        self._waiting.append((ticket, _Begun(self.runner, prepared) if is_far else prepared))

    def collect(self, leg: int) -> Iterator[tuple[Ticket, LegDone]]:
        """Do the oldest job of the leg."""
        one = next(one for one in self._waiting if one[0][0] == leg)
        self._waiting.remove(one)
        job = one[1]
        if isinstance(job, _Begun):
            others = [other for _, other in self._waiting if isinstance(other, _Begun)]
            yield one[0], job.result(others)
        else:
            yield one[0], self.runner.run(job)

    def spent(self) -> list[dict[str, Any]]:
        """What asking servers took."""
        return [self.runner.spent()]

    def close(self) -> None:
        """What was not begun is not done."""
        self.runner.close()


class _Begun:
    """A block that is at its leg in a thread; the thread does not outlive the process."""

    def __init__(self, runner: LegRunner, prepared: Prepared):
        self._runner, self._prepared = runner, prepared
        self._is_over = threading.Event()
        self._done: LegDone | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def result(self, others: Sequence[_Begun]) -> LegDone:
        """Wait for what it has come to.

        An error ends the asking for all: that of one of `others` may be the one that tells why.
        """
        self._is_over.wait()
        if self._error is not None and str(self._error) == _STOPPED:
            raise next((e for one in others if (e := one._cause()) is not None), self._error)
        if self._error is not None:
            raise self._error
        assert self._done is not None
        return self._done

    def _cause(self) -> BaseException | None:
        self._is_over.wait(_GRACE_S)
        return None if str(self._error) == _STOPPED else self._error

    def _run(self) -> None:
        try:
            self._done = self._runner.run(self._prepared)
        except BaseException as error:
            self._error = error
        finally:
            self._is_over.set()


class _Channel:
    """One leg's share of the hands; results of other legs that come meanwhile wait for them."""

    def __init__(self, hands: Hands, at: int, ready: dict[int, deque[tuple[int, LegDone]]]):
        self._hands, self._at, self._ready = hands, at, ready
        self._under_way = 0
        ready[at] = deque()

    def has_room(self) -> bool:
        """Whether another job may be given."""
        return self._under_way < self._hands.room

    def no_more(self) -> None:
        """The hands are there for other legs too."""

    def give(self, number: int, job: LegJob) -> None:
        """A job; `number` comes back with its result."""
        self._under_way += 1
        self._hands.give((self._at, number), job)

    def results(self) -> Iterator[tuple[int, LegDone]]:
        """Wait until some are there."""
        mine = self._ready[self._at]
        while not mine:
            for (leg, number), done in self._hands.collect(self._at):
                self._ready[leg].append((number, done))
        while mine:
            self._under_way -= 1
            yield mine.popleft()


class Sky:
    """The modelled legs of one pass over the same hands."""

    def __init__(self, hands: Hands):
        self.hands = hands
        self._ready: dict[int, deque[tuple[int, LegDone]]] = {}

    def through(
        self, number: int, leg: int, flights: Iterator[Flight], folder: Any
    ) -> Iterator[Flight]:
        """The flights, in order, behind a leg; few are taken before they are needed."""
        under_way: deque[Flight] = deque()

        def jobs() -> Iterator[LegJob]:
            for flight in flights:
                under_way.append(flight)
                file = folder.file(f"{flight.name}-{leg}")
                yield LegJob(number, leg, str(file), flight.tracks)

        channel = _Channel(self.hands, leg, self._ready)
        for done in by_number(channel, jobs(), [], 2 * self.hands.room):
            flight = under_way.popleft()
            flight.take(done)
            yield flight
