"""Models in Ray actors: one per GPU of the cluster, each with its own copies."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlforge.data.roots import moved, set_moved
from vlforge.engine.cluster import told_of
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Head
from vlforge.engine.legs import AHEAD, LegDone, LegJob, LegRunner, Ticket, Told
from vlforge.engine.model_crew import placed
from vlforge.types import ModelSource, VLForgeError


class ModelActor:
    """What an actor does: a pass is told, then blocks come, two at a time.

    The pictures of one are decoded while the model is at the other.
    """

    def __init__(self, settings: bytes):
        models, endpoints, maps = pickle.loads(settings)
        set_moved(maps)
        self._runner = LegRunner(models, endpoints)
        self._at_model = threading.Lock()

    def begin(self, told: bytes) -> None:
        """The pass that comes next."""
        self._runner.begin(pickle.loads(told).head())

    def run(self, job: bytes) -> bytes:
        """Take a block through a leg."""
        prepared = self._runner.prepare(pickle.loads(job))
        with self._at_model:
            return pickle.dumps(self._runner.run(prepared), pickle.HIGHEST_PROTOCOL)

    def spent(self) -> dict[str, Any]:
        """What asking servers took."""
        return self._runner.spent()


class ActorCrew:
    """Actors as `Hands`: one per GPU, without any as many as `model_workers` says (0: one)."""

    def __init__(self, models: ModelSource | None, config: ProcessConfig, seed: int):
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        if getattr(models, "device", "auto") == "cpu":
            gpus = 0
        size = config.model_workers or gpus or 1
        self.room = AHEAD * size
        self._told = Told(config, seed, "", {})
        changes = {"device": "cuda" if gpus else "cpu"}
        told = models if models is None else placed(models, size, **changes)
        settings = pickle.dumps((told, dict(config.endpoints), moved()))
        # Without GPUs an actor takes none of the processors that Ray gives out: rows need them.
        kind = ray.remote(
            num_cpus=0,
            num_gpus=min(1.0, gpus / size) if gpus else 0,
            max_concurrency=AHEAD,
            scheduling_strategy="SPREAD",
        )(ModelActor)
        self._actors = [kind.remote(settings) for _ in range(size)]
        self._under_way: dict[Any, tuple[Any, Ticket]] = {}
        self._load = dict.fromkeys(range(size), 0)

    def begin(self, head: Head) -> None:
        """The pass that comes next; nothing is under way."""
        told = replace(self._told, produced=head.context.produced, learned=head.learned)
        self._ask([actor.begin.remote(pickle.dumps(told)) for actor in self._actors])

    def give(self, ticket: Ticket, job: LegJob) -> None:
        """A job for the actor that has fewest."""
        at = min(self._load, key=self._load.__getitem__)
        self._load[at] += 1
        reference = self._actors[at].run.remote(pickle.dumps(job, pickle.HIGHEST_PROTOCOL))
        self._under_way[reference] = (at, ticket)

    def collect(self, leg: int) -> Iterator[tuple[Ticket, LegDone]]:
        """Wait until an actor has something."""
        import ray

        ready, _ = ray.wait(list(self._under_way), num_returns=1)
        for reference in ready:
            at, ticket = self._under_way.pop(reference)
            self._load[at] -= 1
            yield ticket, pickle.loads(self._ask(reference))

    def spent(self) -> list[dict[str, Any]]:
        """What asking servers took, per actor."""
        return list(self._ask([actor.spent.remote() for actor in self._actors]))

    def close(self) -> None:
        """End the actors, whatever they are at."""
        import ray

        for actor in self._actors if ray.is_initialized() else ():
            ray.kill(actor)

    def _ask(self, references: Any) -> Any:
        import ray

        try:
            return ray.get(references)
        except ray.exceptions.RayActorError:
            raise VLForgeError(
                "a Ray actor with models died, most likely for want of memory: lower "
                "model_workers and run again, it continues where it stopped"
            ) from None
        except ray.exceptions.RayError as error:
            raise VLForgeError(told_of(error)) from None
