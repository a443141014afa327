"""The data report: one HTML page for one process stage."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import charts, numbers
from vlforge.reports.page import Anchors, caption_of, write_page
from vlforge.reports.pictures import Thumbnails
from vlforge.reports.process_view import Limits, ProcessView, view_process
from vlforge.reports.run_files import read_lines, read_mapping, relative
from vlforge.types import DataError

_PICTURE_BYTES = 1_000_000
_LIMITS = Limits(kept=12, dropped=24, changed=16, listed=500)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W_]+)?")


@dataclass(frozen=True)
class TextFacts:
    """Facts about the texts that were kept, and their lengths against those dropped."""

    facts: tuple[tuple[str, str], ...]
    lengths: Markup
    common: tuple[tuple[str, float, str], ...]


def write_data_report(stage_dir: Path, out: Path, image_roots: Sequence[Path] = ()) -> None:
    """Write the report of the process stage at `stage_dir` to `out`.

    Reads `funnel.json`, `data.jsonl`, `dropped.jsonl` and `changed.jsonl`; relative picture
    paths start at the stage's folder or one of `image_roots`. Under 2 MB, no scripts.

    Raises:
        DataError: `stage_dir` has no readable `funnel.json`.
    """
    stage_dir = Path(stage_dir)
    if not read_mapping(stage_dir / "funnel.json"):
        raise DataError(
            f"{stage_dir / 'funnel.json'}: missing or empty; run `vlforge process` first"
        )
    write_page(
        Path(out), "data.html.j2", lambda scale: _values(stage_dir, Path(out), image_roots, scale)
    )


def _values(stage_dir: Path, out: Path, roots: Sequence[Path], scale: float) -> dict[str, Any]:
    anchors, pictures = Anchors(), Thumbnails(int(_PICTURE_BYTES * scale))
    view = view_process(stage_dir, anchors, pictures, roots, _LIMITS.scaled(scale))
    links = {
        name: relative(stage_dir / f"{name}.jsonl", out)
        for name in ("data", "dropped", "changed", "stats")
        if (stage_dir / f"{name}.jsonl").is_file()
    }
    return {
        "title": stage_dir.resolve().name,
        "headline": headline(view),
        "view": view,
        "texts": view_texts(stage_dir),
        "links": {name: link for name, link in links.items() if link},
    }


def headline(view: ProcessView) -> str:
    """One sentence: how many rows stayed, and what took most of the others."""
    rows = numbers.count
    if not view.rows_in:
        return "No rows came in"
    text = f"{rows(view.rows_out)} of {rows(view.rows_in)} rows kept"
    text += f" ({numbers.percent(view.rows_out, view.rows_in)})" if view.rows_out else ""
    worst = max(view.funnel, key=lambda row: row.dropped, default=None)
    if worst and worst.dropped:
        text += f"; {worst.op} dropped most: {rows(worst.dropped)}"
    return text


def view_texts(stage_dir: Path) -> TextFacts | None:
    """Words and lengths of the kept texts, or None where nothing was kept.

    Words are runs of letters and digits; Chinese and Japanese characters and Korean syllables
    count one each.
    """
    kept_lengths, words, pictures = [], Counter[str](), 0
    for row in read_lines(stage_dir / "data.jsonl"):
        found = _WORD.findall(caption_of(row.get("text")).lower())
        kept_lengths.append(len(found))
        words.update(found)
        images = row.get("images")
        pictures += len(images) if isinstance(images, list) else 0
    if not kept_lengths:
        return None
    lost = [len(_WORD.findall(caption_of(t))) for t in _dropped_texts(stage_dir)]
    total = words.total()
    top = words.most_common(15)
    most = top[0][1] if top else 1
    facts = (
        ("rows kept", numbers.count(len(kept_lengths))),
        ("pictures", numbers.count(pictures)),
        ("words", numbers.count(total)),
        ("distinct words", numbers.count(len(words))),
        ("words per row, median", numbers.figures(statistics.median(kept_lengths))),
        ("shortest", numbers.count(min(kept_lengths))),
        ("longest", numbers.count(max(kept_lengths))),
    )
    common = tuple((w, n / most, numbers.percent(n, total)) for w, n in top)
    return TextFacts(facts, _length_chart(kept_lengths, lost), common)


def _dropped_texts(stage_dir: Path) -> Iterable[Any]:
    rows = (d.get("row") for d in read_lines(stage_dir / "dropped.jsonl"))
    return (row.get("text") for row in rows if isinstance(row, dict))


def _length_chart(kept: Sequence[int], lost: Sequence[int]) -> Markup:
    """Words per row; the longest hundredth share the last bin so that one row rules nothing."""
    ordered = sorted([*kept, *lost])
    top = max(1, ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))])
    step = -(-(top + 1) // 30)
    edges = list(range(0, top + 1 + step, step))
    bins = len(edges) - 1
    stays, all_rows = [0] * bins, [0] * bins
    for length in kept:
        stays[min(bins - 1, length // step)] += 1
    for length in ordered:
        all_rows[min(bins - 1, length // step)] += 1
    label = f"words per row, 0 to {top} and more: {len(kept):,} kept, {len(lost):,} dropped"
    return charts.histogram(edges, all_rows, stays, (None, None), label)
