"""Takes one row through a recipe's operators again, to tell what each of them saw.

A run notes why a row left, not what every filter before measured, and only the first
rows that a mapper changed. The rest is worked out here, for one row, from the recipe
and the dataset. What all rows decide together is taken from the run's records. A model is
not asked again: what it wrote stands in the row, which says where it comes from
(`provenance`), and what was measured of it in the run's statistics.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlforge.engine.block import BlockRun, Track
from vlforge.engine.config import ProcessConfig
from vlforge.engine.fates import context_of
from vlforge.engine.plan import Plan, Step, make_plan, operators_of
from vlforge.engine.rows import reading_of
from vlforge.engine.source import Block, open_source
from vlforge.ops.base import Choice, CorpusMapper, Dedup, Filter, Grouper, NearDedup, look_up
from vlforge.ops.bind import Bound
from vlforge.ops.select.fields import STATS_PREFIX, field_of
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Need, VLForgeError

RECIPE = "recipe.yaml"
_ROWS = 1000
_NOT_AGAIN = "asks a model: not run again"


@dataclass(frozen=True)
class Told:
    """What one operator did with the row: in words, and whether it dropped or changed it.

    `mark` is "dropped", "changed", "unknown" or nothing; `before` and `after` are what a
    mapper changed.
    """

    op: str
    words: str
    mark: str = ""
    before: Any = None
    after: Any = None


def config_of(stage: Path) -> ProcessConfig | None:
    """The recipe of a processed folder; None where it cannot be found or read any more."""
    try:
        if (stage / RECIPE).is_file():
            from vlforge.recipe.adopt.data_juicer import adopt

            return adopt(stage / RECIPE, {}).config
        return _config_of_node(stage)
    except (VLForgeError, OSError):
        return None


def replay(
    config: ProcessConfig,
    uid: str,
    record: Mapping[str, Any],
    row: Mapping[str, Any] | None = None,
) -> list[Told]:
    """What each operator made of the row, in the order in which a run asks them.

    Args:
        config: the recipe.
        uid: the row's name, that of a derived row too.
        record: its line in `dropped.jsonl`, or in `stats.jsonl` where it was kept.
        row: as it was kept or dropped; None where nobody knows.

    Returns:
        Nothing where the dataset has no such row any more.
    """
    track = find_row(config, uid)
    if track is None or track.drop is not None:
        return []
    with tempfile.TemporaryDirectory() as made:
        context = context_of(config, config.seed, made)
        end = _End(record, row or {})
        return list(_walk(make_plan(operators_of(config)), track, uid, end, context))


def find_row(config: ProcessConfig, uid: str) -> Track | None:
    """The row as it was read, by its uid or that of a row derived from it."""
    fingerprint, _, rest = uid.partition("-")
    place, _, copy = rest.split("/")[0].partition("+")
    if not place.isdigit():
        return None
    reading, wanted = reading_of(config), int(place) + 1
    names = (f"{fingerprint}-{place}", f"{fingerprint}-{place}+{copy}")
    for block in open_source(config).blocks(_ROWS):
        found = [at for at, number in enumerate(block.numbers) if number == wanted]
        tracks = (track for at in found for track in reading.tracks(_line(block, at)))
        track = next((track for track in tracks if track.item.uid in names), None)
        if track is not None:
            return track
    return None


def _line(block: Block, at: int) -> Block:
    """One line of a block."""
    return replace(
        block,
        lines=block.lines[at : at + 1],
        numbers=block.numbers[at : at + 1],
        copies=block.copies[at : at + 1],
        origins=block.origins[at : at + 1],
    )


@dataclass(frozen=True)
class _End:
    """How the row ended: its record, and the row itself."""

    record: Mapping[str, Any]
    row: Mapping[str, Any]

    @property
    def dropped_by(self) -> Any:
        """The operator that dropped it; None where it was kept."""
        return self.record.get("op")

    def stats(self) -> Mapping[str, Any]:
        """What was measured of it, as far as the record says."""
        name = self.record.get("stat")
        one = {name: self.record.get("value")} if name else {}
        found = {**(self.record.get("stats") or {}), **one}
        return {**{name.removeprefix(STATS_PREFIX): found[name] for name in found}, **found}

    def origins(self) -> list[Mapping[str, Any]]:
        """Its provenance, oldest first."""
        found = self.row.get(PROVENANCE)
        entries = found if isinstance(found, list) else []
        return [entry for entry in entries if isinstance(entry, Mapping)]


def _walk(plan: Plan, track: Track, uid: str, end: _End, context: Any) -> Iterator[Told]:
    is_known = True
    # What models and selectors have measured is not measured again; later filters judge it.
    track.item.stats = {**end.stats(), **track.item.stats}
    for bound in _order(plan):
        op = bound.op
        if isinstance(op, Dedup | NearDedup | Choice | Grouper):
            told = _decided(bound, end)
        elif not is_known or not _can_run(op, track):
            told = _on_record(bound, end, track.item.row if is_known else {})
            is_known = is_known and isinstance(op, Filter)
        else:
            track, told = _run_again(bound, track, uid, context)
        yield told
        if told.mark == "dropped" or isinstance(op, Grouper):
            return


def _can_run(op: Any, track: Track) -> bool:
    """Whether an operator needs no model, no other rows, and no statistic that is not known."""
    if op.needs >= Need.EMBEDDING or isinstance(op, CorpusMapper):
        return False
    reads = op.stats if isinstance(op, Filter) and op.reads_stats else ()
    return all(field_of(track.item, name) is not None for name in reads)


def _on_record(bound: Bound, end: _End, before: Mapping[str, Any]) -> Told:
    """What an operator that is not run again did, as far as the run's records tell."""
    op = bound.op
    if end.dropped_by == bound.name:
        words = _measured(op, end.stats()) if isinstance(op, Filter) else ""
        reason = str(end.record.get("reason"))
        return Told(bound.name, f"{words}: {reason}" if words else reason, "dropped")
    if isinstance(op, Filter):
        words = _measured(op, end.stats())
        return Told(bound.name, words) if words else Told(bound.name, _NOT_AGAIN, "unknown")
    origins = end.origins()
    mine = [at for at, entry in enumerate(origins) if entry.get("op") == bound.name]
    if not mine:
        return Told(bound.name, _not_again(op), "unknown")
    old = look_up(before, op.text_key) if before else None
    new = look_up(end.row, op.text_key) if mine[-1] == len(origins) - 1 else None
    return Told(bound.name, _origin_words(origins[mine[-1]]), "changed", old, new)


def _not_again(op: Any) -> str:
    if isinstance(op, CorpusMapper):
        return "rewrites by what all rows say: not run again"
    return _NOT_AGAIN if op.needs >= Need.EMBEDDING else "follows a model: not run again"


def _origin_words(entry: Mapping[str, Any]) -> str:
    """`written by MODEL (prompt 0a1b2c, seed 42) from row UID`."""
    names = [name for name in entry if name not in ("op", "source", "model")]
    more = ", ".join(f"{name} {entry[name]}" for name in names)
    by = f"written by {entry['model']}" if entry.get("model") else "written"
    return f"{by}{f' ({more})' if more else ''} from row {entry.get('source')}"


def _order(plan: Plan) -> Iterator[Bound]:
    """The operators in the order in which a row meets them."""
    for this in plan.passes:
        for step in this.steps:
            yield from (bound for bound in step.ops if bound is not this.barrier)
        if this.barrier is not None and not isinstance(this.barrier.op, CorpusMapper):
            yield this.barrier


def _decided(bound: Bound, end: _End) -> Told:
    """What an operator that compares rows decided, by the run's records."""
    record = end.record
    if end.dropped_by == bound.name:
        value = record.get("value")
        first = f": {value}" if record.get("stat") == "repeats" else ""
        return Told(bound.name, f"{record.get('reason')}{first}", "dropped")
    if isinstance(bound.op, Choice):
        mark = bound.op.mark
        words = f"{mark} {end.stats().get(mark, 'is not on record')}"
        return Told(bound.name, words if mark else "selected")
    if isinstance(bound.op, Grouper):
        return Told(bound.name, "joined with other rows")
    return Told(bound.name, "repeats no earlier row")


def _run_again(bound: Bound, track: Track, uid: str, context: Any) -> tuple[Track, Told]:
    before = track.item.row
    run = BlockRun([track], context, (Step((bound,)),))
    run.run()
    track = _heir(run.tracks, uid)
    item, drop = track.item, track.drop
    if isinstance(bound.op, Filter):
        words = _measured(bound.op, item.stats) or ("" if drop else "passed")
        if drop is not None:
            words = f"{words}: {drop.reason}" if words else drop.reason
        return track, Told(bound.name, words, "dropped" if drop else "")
    if drop is not None:
        return track, Told(bound.name, drop.reason, "dropped")
    if item.row is before:
        return track, Told(bound.name, "unchanged")
    old, new = _difference(before, item.row, bound.op.text_key)
    return track, Told(bound.name, "changed", "changed", old, new)


def _heir(tracks: list[Track], uid: str) -> Track:
    """Of the rows that a mapper made, the one that became, or is, the row in question."""
    near = [t for t in tracks if uid == t.item.uid or uid.startswith(f"{t.item.uid}/")]
    return max(near or tracks[:1], key=lambda t: len(t.item.uid))


def _measured(op: Filter, stats: Mapping[str, Any]) -> str:
    """`text_len 45 (keeps ≥ 30), …` of what the filter has measured."""
    from vlforge.reports.analysis_bounds import interval_of
    from vlforge.reports.charts import bound_words

    told = []
    for stat in op.stats:
        if stat not in stats:
            continue
        interval = interval_of(op, stat)
        words = bound_words(interval.pair, interval.is_reversed)
        bound = "" if words == "no bound" else f" ({words})"
        told.append(f"{stat} {_value(stats[stat])}{bound}")
    return ", ".join(told)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " | ".join(map(_value, value)) or "of no picture"
    return f"{value:.6g}" if isinstance(value, float) else str(value) or "none"


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], text_key: str) -> tuple[Any, Any]:
    """The text before and after, or the fields that differ where that is not the text alone."""
    names = [n for n in {**old, **new} if n != PROVENANCE and old.get(n) != new.get(n)]
    if set(names) <= {text_key, text_key.split(".")[0]}:
        return look_up(old, text_key), look_up(new, text_key)
    return {n: old.get(n) for n in names}, {n: new.get(n) for n in names}


def _config_of_node(stage: Path) -> ProcessConfig | None:
    """The settings of a run's stage, from the run's own recipe and the folders beside it."""
    from vlforge.recipe.graph import expand
    from vlforge.recipe.load import load_recipe
    from vlforge.recipe.references import replace_strings, split_reference
    from vlforge.recipe.typed import build
    from vlforge.reports.run_files import read_mapping

    run = stage.parent
    rows = read_mapping(run / "graph.json").get("nodes") or []
    folders = {row["node"]: run / row["folder"] for row in rows}
    name = next((node for node, folder in folders.items() if folder.name == stage.name), None)
    if name is None:
        return None
    recipe = load_recipe(run / RECIPE)
    nodes = expand(recipe, arms=tuple(recipe.arms) or None)
    node = next((node for node in nodes if node.name == name), None)
    if node is None:
        return None

    def place(text: str) -> str:
        found = split_reference(text)
        return str(folders[node.inputs[found[0]]] / found[1]) if found else text

    settings = replace_strings(node.settings, place)
    config: ProcessConfig = build(ProcessConfig, settings, lambda *keys: name)
    return config
