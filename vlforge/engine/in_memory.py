"""The same operators over rows that are in memory: for a few rows, notebooks and tests.

It shares the blocks' code with the streaming engine and nothing of its files,
passes and workers, so it is also the plain reference that the engine is tested
against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlforge.engine.block import BlockRun, Track, note_keys, repeat_of
from vlforge.engine.plan import KEYED, has_key_step, make_plan
from vlforge.ops.base import Chooser, CorpusMapper, Dedup, Grouper, NearDedup
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import Bound
from vlforge.types import Drop


@dataclass
class Ran:
    """The rows that stay, in their order, and the dropped ones with their reasons."""

    kept: list[Item] = field(default_factory=list)
    dropped: list[tuple[Item, Drop]] = field(default_factory=list)


def run_in_memory(bounds: Sequence[Bound], items: Sequence[Item], context: Context) -> Ran:
    """Take all rows through all operators as one block."""
    ran = Ran(list(items))
    matchers = {b.place: b.op.matcher() for b in bounds if isinstance(b.op, Dedup)}
    learned: dict[int, Any] = {}
    for this in make_plan(bounds).passes:
        tracks = [Track(item) for item in ran.kept]
        run = BlockRun(tracks, context, this.steps, matchers=matchers, learned=learned)
        run.run()
        if this.barrier is not None:
            _note_keys(this.barrier, run)
        ran.dropped += [(t.item, t.drop) for t in run.tracks if t.drop is not None]
        alive = [track for track in run.tracks if track.drop is None]
        ran.kept = [track.item for track in alive]
        if this.barrier is not None:
            _settle(this.barrier, run, alive, ran, learned)
    return ran


def _settle(
    bound: Bound, run: BlockRun, alive: list[Track], ran: Ran, learned: dict[int, Any]
) -> None:
    op: Any = bound.op
    items = ran.kept
    keys = [track.barrier_key for track in alive]
    if isinstance(op, CorpusMapper):
        learned[bound.place] = op.learn(iter(op.keys(run.batch(alive))))
    elif isinstance(op, NearDedup):
        _drop_repeats(bound, op, keys, alive, ran)
    elif isinstance(op, Grouper):
        groups = op.groups([op.key(item) for item in items])
        ran.kept = [_joined(op, [items[at] for at in group]) for group in groups]
    else:
        if isinstance(op, Chooser):
            order = list(op.choose(_table(keys), run.context)) if items else []
        else:
            order = op.rank([op.key(item) for item in items])
        chosen = set(order)
        if op.mark:
            for at, item in enumerate(items):
                item.stats[op.mark] = at in chosen
            return
        drop = Drop(bound.name, "not selected")
        ran.dropped += [(item, drop) for at, item in enumerate(items) if at not in chosen]
        ran.kept = [items[at] for at in order]


def _joined(op: Grouper, items: Sequence[Item]) -> Item:
    uid = f"{items[0].uid}+{len(items)}"
    return Item(uid, items[0].line, op.join([item.row for item in items]))


def _note_keys(bound: Bound, run: BlockRun) -> None:
    if isinstance(bound.op, KEYED) and not has_key_step(bound.op):
        alive = [track for track in run.tracks if track.drop is None]
        note_keys(bound, alive, run.batch(alive))


def _table(keys: Sequence[bytes | None]) -> Any:
    """[N, bytes] uint8 of the keys there are."""
    import numpy as np

    found = [key for key in keys if key is not None]
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(found), len(found[0]))


def _drop_repeats(
    bound: Bound,
    op: NearDedup,
    keys: Sequence[bytes | None],
    alive: Sequence[Track],
    ran: Ran,
) -> None:
    at = [place for place, key in enumerate(keys) if key is not None]
    found = op.firsts(_table(keys)) if at else ()
    first = {place: at[int(f)] for place, f in zip(at, found, strict=True)}
    ran.kept = []
    for place, track in enumerate(alive):
        if first.get(place, place) != place:
            ran.dropped.append((track.item, repeat_of(bound, alive[first[place]].item.uid)))
        else:
            ran.kept.append(track.item)
