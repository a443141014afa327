"""One shard from its rows to its files: many threads fetch, one writes in the list's order."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.data.download.addresses import Refused, parse
from vlforge.data.download.client import Client
from vlforge.data.download.config import DownloadConfig
from vlforge.data.download.exif import exif_json
from vlforge.data.download.resize import Resized, Unusable, resize
from vlforge.data.download.shards import (
    NOT_FETCHED,
    NOT_RESIZED,
    SUCCESS,
    ShardWriter,
    stats_of,
)
from vlforge.data.download.sources import VERIFY, Shard
from vlforge.data.download.turns import Turns

HELD_BYTES = 256 << 20
"""Pictures that wait for an earlier one, in bytes."""
_LONGEST_BACKOFF_S = 30.0
_TICK_S = 0.25
Tick = Callable[[int, int], None]
"""Told how many more rows are settled, and how many of them succeeded."""


@dataclass(slots=True)
class _Outcome:
    """What became of one address."""

    status: str
    reason: str | None = None
    picture: Resized | None = None
    exif: str | None = None
    digest: str | None = None

    @property
    def size(self) -> int:
        return len(self.picture.content) if self.picture else 0


def load_shard(
    shard: Shard, folder: Path, client: Client, tick: Tick, resizing: threading.Semaphore
) -> dict[str, Any]:
    """Fetch the shard's pictures and write its files; gives its stats."""
    begin = time.time()
    writer = ShardWriter(folder, shard, client.config)
    crew = _Crew(shard, client, resizing)
    try:
        statuses, reasons = _collect(shard, crew, writer, tick, client.config)
        stats = stats_of(statuses, reasons, begin, time.time())
        writer.finish(stats)
    except BaseException:
        writer.drop()
        raise
    finally:
        crew.stop()
    return stats


def _collect(
    shard: Shard, crew: _Crew, writer: ShardWriter, tick: Tick, config: DownloadConfig
) -> tuple[Counter[str], Counter[str]]:
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    told, told_good, last = 0, 0, time.monotonic()
    for at in range(shard.count):
        outcome = crew.outcome(at)
        statuses[outcome.status] += 1
        reasons[outcome.reason or SUCCESS] += 1
        picture = outcome.picture
        writer.add(at, _meta(outcome, config), picture.content if picture else None)
        if time.monotonic() - last > _TICK_S:
            tick(at + 1 - told, statuses[SUCCESS] - told_good)
            told, told_good, last = at + 1, statuses[SUCCESS], time.monotonic()
    tick(shard.count - told, statuses[SUCCESS] - told_good)
    return statuses, reasons


def _meta(outcome: _Outcome, config: DownloadConfig) -> dict[str, Any]:
    picture = outcome.picture
    meta: dict[str, Any] = {
        "status": outcome.status,
        "error_message": outcome.reason,
        "width": picture and picture.width,
        "height": picture and picture.height,
        "original_width": picture and picture.original_width,
        "original_height": picture and picture.original_height,
    }
    if config.extract_exif:
        meta["exif"] = outcome.exif
    if config.compute_hash != "none":
        meta[config.compute_hash] = outcome.digest
    return meta


class _Crew:
    """The threads that fetch one shard, and what they brought."""

    def __init__(self, shard: Shard, client: Client, resizing: threading.Semaphore):
        self.shard, self.client, self.config = shard, client, client.config
        self._resizing = resizing
        self._tries: Counter[int] = Counter()
        self._found: dict[int, _Outcome] = {}
        self._fault: BaseException | None = None
        self._arrived = threading.Condition()
        hosts = [_host(address) for address in shard.columns["url"]]
        self._turns = Turns(hosts, per_host=self.config.per_host, budget=HELD_BYTES)
        count = min(self.config.thread_count, max(shard.count, 1))
        self._threads = [threading.Thread(target=self._fetch, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def outcome(self, at: int) -> _Outcome:
        """What became of the address; waits for it."""
        with self._arrived:
            self._arrived.wait_for(lambda: at in self._found or self._fault is not None)
            if self._fault is not None:
                raise self._fault
            outcome = self._found.pop(at)
        self._turns.collected(at, outcome.size)
        return outcome

    def stop(self) -> None:
        """Begin nothing more; threads end with what they are at."""
        self._turns.stop()

    def _fetch(self) -> None:
        try:
            while (at := self._turns.take()) is not None:
                self._settle(at)
        except BaseException as fault:  # Handed to the thread that waits for the outcome.
            with self._arrived:
                self._fault = fault
                self._arrived.notify_all()

    def _settle(self, at: int) -> None:
        try:
            outcome = self._outcome_of(at)
        except Refused as error:
            tries = self._tries[at] = self._tries[at] + 1
            if not error.is_final and tries <= self.config.retries:
                self._turns.again(at, max(error.wait_s, self._pause_s(tries)))
                return
            outcome = _Outcome(NOT_FETCHED, str(error))
        except Unusable as error:
            outcome = _Outcome(NOT_RESIZED, str(error))
        except Exception as error:  # A fault of ours costs one picture, and says so.
            reason = f"fault: {type(error).__name__}: {error}"
            outcome = _Outcome(NOT_RESIZED, reason[:200])
        with self._arrived:
            self._found[at] = outcome
            self._arrived.notify_all()
        self._turns.done(at, outcome.size)

    def _pause_s(self, tries: int) -> float:
        """Twice as long after each try, and never the same for all."""
        most = min(self.config.backoff * 2.0 ** (tries - 1), _LONGEST_BACKOFF_S)
        return most * random.uniform(0.5, 1.0)

    def _outcome_of(self, at: int) -> _Outcome:
        if at in self.shard.faults:
            raise Refused(self.shard.faults[at])
        content = self.client.get(self.shard.columns["url"][at])
        hash_name = self.config.compute_hash
        digest = None if hash_name == "none" else hashlib.new(hash_name, content).hexdigest()
        if VERIFY in self.shard.columns:
            wanted = str(self.shard.columns[VERIFY][at] or "").strip().lower()
            if wanted != digest:
                raise Refused("hash mismatch")
        with self._resizing:
            picture = resize(content, self.config)
            exif = exif_json(content) if self.config.extract_exif else None
        return _Outcome(SUCCESS, None, picture, exif, digest)


def _host(address: str | None) -> str:
    try:
        return parse(address or "").host
    except Refused:
        return ""
