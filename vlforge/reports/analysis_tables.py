"""An analysis for other programs: the describe table, and every row's statistics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import decode, write_lines
from vlforge.engine.lines import STATS
from vlforge.engine.outputs import write_whole
from vlforge.reports.analysis_bounds import Interval, interval_of
from vlforge.reports.analysis_charts import alone, distribution
from vlforge.reports.analysis_columns import Numbers
from vlforge.reports.analysis_plan import AnalysisPlan
from vlforge.reports.analysis_reading import Findings

Cell = str | int | float | None


def describe(findings: Findings, plan: AnalysisPlan) -> dict[str, dict[str, Cell]]:
    """What Data-Juicer's `overall.csv` holds: statistic -> {count, mean, std, min, 25%, …, max}.

    Words, such as languages, have count, unique, top and freq instead.
    """
    table: dict[str, dict[str, Cell]] = {}
    for name in plan.stats:
        if name in findings.numbers:
            table[name] = _of_numbers(findings.numbers[name], plan.percentiles)
        elif name in findings.labels:
            counts = findings.labels[name]
            top, freq = counts.most_common(1)[0]
            table[name] = {
                "count": float(counts.total()),
                "unique": float(len(counts)),
                "top": top,
                "freq": float(freq),
            }
    return table


def percent_name(share: float) -> str:
    """0.125 -> "12.5%"."""
    return f"{100 * share:g}%"


def write_tables(findings: Findings, plan: AnalysisPlan, folder: Path) -> list[Path]:
    """Write `overall.csv` and `overall.md` into `folder`."""
    table = describe(findings, plan)
    labels = list(dict.fromkeys(label for column in table.values() for label in column))
    files = [folder / "overall.csv", folder / "overall.md"]
    write_whole(files[0], _csv(table, labels).encode())
    write_whole(files[1], _markdown(table, labels).encode())
    return files


def write_stats(work: Path, plan: AnalysisPlan, target: Path) -> None:
    """Write one line `{"__dj__stats__": {…}}` per row that could be read."""
    names = list(plan.stats)
    with (work / "stats.jsonl").open("rb") as lines:
        write_lines(target, ({STATS: _own(decode(line)["stats"], names)} for line in lines))


def write_rows(work: Path, plan: AnalysisPlan, target: Path) -> None:
    """Write every row that could be read, with its statistics: the dataset as it came."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_lines(target, _rows_with_stats(work, list(plan.stats)))


def _rows_with_stats(work: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    with (work / "data.jsonl").open("rb") as rows, (work / "stats.jsonl").open("rb") as lines:
        for row, line in zip(rows, lines, strict=True):
            yield {**decode(row), STATS: _own(decode(line)["stats"], names)}


def _own(stats: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: stats[name] for name in names if name in stats}


def _of_numbers(numbers: Numbers, percentiles: Sequence[float]) -> dict[str, Cell]:
    return {
        "count": float(numbers.count),
        "mean": numbers.mean,
        "std": numbers.std,
        "min": numbers.low,
        **{percent_name(share): numbers.quantile(share) for share in percentiles},
        "max": numbers.high,
    }


def _csv(table: Mapping[str, Mapping[str, Cell]], labels: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", *table])
    for label in labels:
        writer.writerow([label, *(column.get(label) for column in table.values())])
    return out.getvalue()


def _markdown(table: Mapping[str, Mapping[str, Cell]], labels: Sequence[str]) -> str:
    head = ["", *table]
    rows = [[label, *(_shown(c.get(label)) for c in table.values())] for label in labels]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = [":" + "-" * (w + 1) if k == 0 else "-" * (w + 1) + ":" for k, w in enumerate(widths)]
    lines = [_line(head, widths), f"|{'|'.join(rule)}|", *(_line(row, widths) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"


def _shown(cell: Cell) -> str:
    text = f"{cell:.6g}" if isinstance(cell, int | float) else "" if cell is None else cell
    return " ".join(text.replace("|", "\\|").split())


def write_charts(findings: Findings, plan: AnalysisPlan, folder: Path) -> list[Path]:
    """Write each statistic's distribution as a picture of its own, `STATISTIC-hist.svg`."""
    files = []
    for name, bound in plan.stats.items():
        if name in findings.numbers:
            interval = interval_of(bound.op, name) if plan.is_recipe else Interval()
            files.append(folder / f"{name.replace('/', '_')}-hist.svg")
            write_whole(
                files[-1],
                alone(distribution(findings.numbers[name], interval, name), name).encode(),
            )
    return files
