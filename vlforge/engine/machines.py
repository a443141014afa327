"""Where the blocks of a run go: on this machine, or out to a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Head
from vlforge.engine.legs import Hands, HomeHands
from vlforge.engine.plan import Plan
from vlforge.engine.pool import in_order
from vlforge.engine.source import Block
from vlforge.types import LogFn, ModelSource

Job = tuple[int, Block | Sequence[bytes]]
"""A pass's number, and a block of the source or of what the pass before left."""


class Machines(Protocol):
    """Where blocks are worked on. Whatever they are, results come in order."""

    def spread(self, head: Head, jobs: Iterator[Job], workers: int, at_home: int) -> Iterator[Done]:
        """The head of a pass over its blocks; `at_home` so many may stay in this process."""
        ...

    def hands(self, models: ModelSource | None, plan: Plan) -> Hands:
        """Where models are; asked for once, by a run that needs any."""
        ...

    def close(self) -> None:
        """Nothing more is worked on."""
        ...


class OneMachine:
    """This one: forked workers for rows; for models this process, or several of their own."""

    def __init__(self, config: ProcessConfig, seed: int):
        self.config, self.seed = config, seed

    def spread(self, head: Head, jobs: Iterator[Job], workers: int, at_home: int) -> Iterator[Done]:
        """As `in_order` does it."""
        return in_order(head, jobs, workers, at_home)

    def hands(self, models: ModelSource | None, plan: Plan) -> Hands:
        """As many processes as `model_workers` says, or as there are GPUs."""
        from vlforge.engine.model_crew import ModelCrew, wanted_workers

        size = wanted_workers(self.config, plan, models)
        if size == 0 or models is None:
            return HomeHands(models, self.config.endpoints)
        return ModelCrew(models, self.config, self.seed, size)

    def close(self) -> None:
        """Workers have ended with their blocks."""


def machines_for(config: ProcessConfig, seed: int, out: Path, workers: int, log: LogFn) -> Machines:
    """What `executor_type` says."""
    if config.executor_type == "default":
        return OneMachine(config, seed)
    from vlforge.engine.cluster import Cluster

    return Cluster(config, seed, out, workers or config.np, log)
