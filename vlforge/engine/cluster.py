"""The same passes over a Ray cluster: Ray Data takes the blocks to the machines.

Workers read their own stretch of the dataset and write their own shards, on a
storage that all machines see. This process keeps the order: it takes the
results as they come, decides on repeats, appends shard after shard and commits,
as it does on one machine. So rows, order and resuming are those of the local
run, byte for byte.
"""

from __future__ import annotations

import functools
import io
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import Done, Head
from vlforge.engine.legs import Hands, HomeHands, Told
from vlforge.engine.plan import Plan, opens_models
from vlforge.engine.source import Block
from vlforge.types import DataError, LogFn, ModelSource, RecipeError, VLForgeError

if TYPE_CHECKING:
    from vlforge.engine.machines import Job

WAVE = 4096
"""Blocks that are handed to Ray at once: some million rows."""
INLINE_BYTES = 64 << 10
"""Results up to this size travel through Ray; larger ones are left in shards."""
_SHARDED = ("data", "beside", "dropped")


@dataclass(frozen=True)
class Stretch:
    """A block of the plain file at `path`, to be read where it is worked on.

    `check` is the CRC-32 of its `size` bytes.
    """

    block: Block
    path: str
    size: int
    check: int

    def read(self) -> Block:
        """The block with its lines.

        Raises:
            DataError: the file is not there or has changed.
        """
        path = self.path
        try:
            with open(path, "rb") as file:
                file.seek(self.block.at.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DataError(
                f"dataset {path} cannot be read on a machine of the cluster: {error.strerror}; "
                "put it where all machines see it under the same path"
            ) from None
        if zlib.crc32(data) != self.check:
            raise DataError(f"dataset {path} changed while it was read; start again")
        return replace(self.block, lines=io.BytesIO(data).readlines())


class Cluster:
    """Ray's machines; joins the cluster at `config.ray_address` when it is first needed.

    `auto` joins a running cluster, else starts Ray on this machine with `workers`
    processors (0: all).

    Raises:
        RecipeError: Ray is not installed or no cluster answers.
    """

    def __init__(self, config: ProcessConfig, seed: int, out: Path, workers: int, log: LogFn):
        self.config, self.seed, self.workers, self.log = config, seed, workers, log
        self.shards = out.absolute() / ".shards"
        self._ends: Callable[[], None] | None = None

    def spread(self, head: Head, jobs: Iterator[Job], _: int, __: int) -> Iterator[Done]:
        """`head` over all blocks, results in order."""
        self._connect()
        self.shards.mkdir(parents=True, exist_ok=True)
        told = Told(self.config, self.seed, head.context.produced, head.learned)
        spec = pickle.dumps((told, str(self.shards)))
        while wave := list(islice(jobs, WAVE)):
            yield from _wave(spec, wave)
        shutil.rmtree(self.shards, ignore_errors=True)

    def hands(self, models: ModelSource | None, plan: Plan) -> Hands:
        """Actors that hold models, where one GPU is enough for them; servers are asked from here.

        Actors it is in any case where the recipe says how many.
        """
        from vlforge.engine.ray_models import ActorCrew

        is_spread = self.config.models.device_map != "none"
        is_wanted = opens_models(self.config, plan) and not is_spread
        if not (self.config.model_workers or is_wanted):
            return HomeHands(models, self.config.endpoints)
        self._connect()
        return ActorCrew(models, self.config, self.seed)

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        if self._ends is not None:
            self._ends()
        self._ends = None

    def _connect(self) -> None:
        if self._ends is None:
            self._ends = _connect(self.config.ray_address, self.workers, self.log)


def _wave(spec: bytes, jobs: Sequence[Job]) -> Iterator[Done]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [{"job": pickle.dumps((number, stretch_of(block)))} for number, block in jobs]
    blocks = min(len(rows), 8 * max(1, int(ray.cluster_resources().get("CPU", 1))))
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)
    results = dataset.map_batches(work, batch_size=1, fn_kwargs={"spec": spec})
    try:
        for row in results.iter_rows():
            yield _gathered(pickle.loads(row["done"]))
    except ray.exceptions.RayError as error:
        raise VLForgeError(told_of(error)) from None


def work(batch: dict[str, Any], spec: bytes) -> dict[str, Any]:
    """One block on a worker: read it, take it through the pass, leave large results in shards."""
    shards, head = _head(spec)
    done = []
    for job in batch["job"]:
        number, block = pickle.loads(job)
        stretch = block.read() if isinstance(block, Stretch) else block
        result = head((number, stretch))
        done.append(pickle.dumps(_sharded(result, Path(shards), job)))
    return {"done": done}


@functools.lru_cache(maxsize=2)
def _head(spec: bytes) -> tuple[str, Head]:
    told, shards = pickle.loads(spec)
    return shards, told.head()


def stretch_of(block: Block | Sequence[bytes]) -> Any:
    """The block without its lines, where a worker can read them itself."""
    if not isinstance(block, Block) or block.copies or block.origins:
        return block
    data = b"".join(block.lines)
    is_plain = block.origin.suffix == ".jsonl" and block.at.part == block.next.part
    if not is_plain or len(data) != block.next.offset - block.at.offset:
        return block
    path = str(Path(block.origin.path).absolute())
    return Stretch(replace(block, lines=()), path, len(data), zlib.crc32(data))


def _sharded(done: Done, shards: Path, job: bytes) -> Done:
    sums = done.sums
    if sums is None or sum(len(getattr(sums, name)) for name in _SHARDED) <= INLINE_BYTES:
        return done
    stem = f"{zlib.crc32(job):08x}-{len(job)}-{zlib.adler32(job):08x}"
    for name in _SHARDED:
        part = shards / f"{stem}.{name}"
        part.write_bytes(getattr(sums, name))
        setattr(sums, name, str(part))
    return done


def _gathered(done: Done) -> Done:
    """A result with its lines back from the shards, which are done with."""
    sums = done.sums
    for name in _SHARDED if sums is not None else ():
        found = getattr(sums, name)
        if isinstance(found, str):
            part = Path(found)
            setattr(sums, name, part.read_bytes())
            part.unlink()
    return done


def _connect(address: str, workers: int, log: LogFn) -> Callable[[], None]:
    """Join or start Ray; gives what ends it again."""
    try:
        import ray
    except ImportError:
        raise RecipeError("executor_type: ray needs Ray: pip install 'vlforge[ray]'") from None
    if ray.is_initialized():
        return lambda: None
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
            return ray.shutdown
        except ConnectionError as error:
            if address != "auto":
                raise RecipeError(f"ray_address {address!r} does not answer: {error}") from None
    log({"event": "note", "note": "no Ray cluster is running: Ray is started on this machine"})
    ray.init(address="local", num_cpus=workers or None, include_dashboard=False, **quiet)
    return ray.shutdown


def told_of(error: Exception) -> str:
    """The line that tells the cause: our own error where a worker raised one."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(inner, VLForgeError):
            return str(inner)
        cause = inner
    last = str(error).strip().splitlines()[-1]
    return f"Ray stopped: {last}; run again, it continues where it stopped"
