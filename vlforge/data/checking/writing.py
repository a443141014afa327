"""The findings as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlforge.data.checking.check import Report, Wanted
from vlforge.types import DataError


def as_values(report: Report, wanted: Wanted, source: str, format_name: str) -> dict[str, Any]:
    """Everything of a check, as `check.json` holds it."""
    findings = report.findings
    return {
        "source": source,
        "format": format_name,
        "passed": not findings.has_errors,
        "rows": report.rows,
        "records": report.records,
        "conversations": report.conversations,
        "turns": report.turns,
        "pictures": {
            "files": report.pictures,
            "shown": report.shown,
            "rows_without": report.without_picture,
            "rows_with_several": report.with_several,
        },
        "languages": dict(report.languages.most_common()),
        "trainings": [
            {
                "name": one.name,
                "max_length": one.max_length,
                "rows": one.rows,
                "tokens": one.tokens,
                "longest": one.longest,
                "rows_cut": one.cut,
                "labels": one.labels,
                "labels_kept": one.kept,
            }
            for one in wanted.trainings
        ],
        "against": [{"name": known.name, "rows": known.rows} for known in wanted.known],
        "budget": wanted.max_samples or None,
        "findings": [
            {
                "kind": found.kind.name,
                "level": found.kind.level,
                "title": found.kind.title,
                "count": found.count,
                "remedy": found.kind.remedy,
                "examples": [
                    {"line": e.line, "id": e.id, "value": e.value} for e in found.examples
                ],
            }
            for found in findings.ordered()
        ],
    }


def write_values(values: dict[str, Any], path: Path) -> None:
    """Write `check.json`, whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values, ensure_ascii=False, indent=1, default=str)
        part.write_text(text + "\n", encoding="utf-8", errors="replace")
        part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
