"""The run report: one HTML page for one run, in the order of the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.reports import claims, numbers
from vlforge.reports.page import Anchors, write_page
from vlforge.reports.pictures import Thumbnails
from vlforge.reports.process_view import Limits, ProcessView, view_process
from vlforge.reports.run_files import Run, RunNode, read_run, relative
from vlforge.reports.run_view import (
    arm_tones,
    flat_facts,
    notes_of,
    picture_roots,
    reproduce_command,
    view_answers,
    view_differences,
    view_groups,
    view_scores,
    view_strip,
)
from vlforge.reports.scores import (
    evaluate_stages,
    main_scores,
    scored_arms,
    subject_of,
    summarise,
    summarise_stage,
)
from vlforge.reports.training_curves import distinct, view_losses
from vlforge.reports.training_view import budgets, view_costs
from vlforge.reports.truth_view import TruthView, view_truth

_PICTURE_BYTES = 1_150_000
_RECIPE_CHARACTERS = 120_000
_ANSWERS = 6


@dataclass(frozen=True)
class DataSection:
    """One process stage on the page; `also` names runs of it that are not shown."""

    stage: str
    anchor: str
    view: ProcessView
    truth: TruthView | None
    also: str
    dropped_link: str | None
    data_link: str | None


def write_run_report(run_dir: Path, out: Path) -> None:
    """Write the report of the run at `run_dir` to `out`.

    Reads `graph.json`, `recipe.yaml`, `env.json` and the stage folders; what is missing is left
    out. Links lead from the run folder. The page stands alone: no scripts, no requests, under 2 MB.

    Raises:
        DataError: `run_dir` has no readable `graph.json`.
    """
    run = read_run(Path(run_dir))
    summary = summarise(run)
    write_page(Path(out), "run.html.j2", lambda scale: _values(run, summary, scale))


def _values(run: Run, summary: Mapping[str, Any], scale: float) -> dict[str, Any]:
    anchors, pictures = Anchors(), Thumbnails(int(_PICTURE_BYTES * scale))
    subject, baseline = subject_of(summary), summary.get("baseline")
    tones = arm_tones(run.arms, subject, baseline)
    stage = str(summary.get("eval_stage") or "")
    note, is_memorised = notes_of(run, stage)
    sections = _data_sections(run, anchors, pictures, scale)
    answers = []
    if subject:
        arms = scored_arms(summary)
        each = max(1, int(scale * (_ANSWERS if len(arms) > 1 else 4 * _ANSWERS)))
        answers = view_answers(run, stage, arms, subject, anchors, pictures, each)
    return {
        "title": run.name,
        "headline": claims.headline(summary, is_memorised)
        or _headline_without_scores(run, sections),
        "facts": _facts(run, summary),
        "note": note,
        "is_memorised": is_memorised,
        "subject": subject,
        "baseline": baseline,
        "panels": view_scores(summary, tones),
        "strip": view_strip(run),
        "total_seconds": sum(n.seconds for n in run.nodes),
        "sections": sections,
        "losses": view_losses(run, tones),
        "costs": view_costs(run),
        "differences": view_differences(summary, tones),
        "groups": view_groups(summary),
        "summary": summary,
        "arms": scored_arms(summary),
        "score_names": _score_names(summary),
        "score_label": claims.score_label,
        "other_stages": _other_stages(run, summary),
        "answers": answers,
        "environment": [f for f in flat_facts(run.env) if f[0] not in ("command", "argv")],
        "recipe": run.recipe_text[:_RECIPE_CHARACTERS],
        "description": str(run.recipe.get("description") or ""),
        "command": reproduce_command(run),
        "unfinished": [n.node for n in run.nodes if not n.is_done and n.kind != "report"],
    }


def _data_sections(
    run: Run, anchors: Anchors, pictures: Thumbnails, scale: float
) -> list[DataSection]:
    nodes = [n for n in run.of_kind("process") if (n.folder / "funnel.json").is_file()]
    sections = []
    for stage in dict.fromkeys(n.stage for n in nodes):
        shown, *others = distinct([n for n in nodes if n.stage == stage])
        view = view_process(
            shown.folder, anchors, pictures, picture_roots(run, shown), Limits().scaled(scale)
        )
        sections.append(
            DataSection(
                stage=stage,
                anchor=anchors.take("data", stage),
                view=view,
                truth=view_truth(run, shown),
                also=_also(shown, others),
                dropped_link=_link(run, shown, "dropped.jsonl"),
                data_link=_link(run, shown, "data.jsonl"),
            )
        )
    return sections


def _also(shown: RunNode, others: Sequence[RunNode]) -> str:
    if not others:
        return ""
    names = ", ".join(n.node for n in others[:6]) + (" …" if len(others) > 6 else "")
    return f"Shown: {shown.node}. The same stage also ran as {names}."


def _link(run: Run, node: RunNode, name: str) -> str | None:
    """A file of the run from the page's home in the run folder, wherever it is written first."""
    path = node.folder / name
    return relative(path, run.folder / "report.html") if path.is_file() else None


def _facts(run: Run, summary: Mapping[str, Any]) -> list[str]:
    """What the headline holds for: the data, the budget, the seeds."""
    facts = []
    if run.of_kind("render"):
        facts.append("rendered world")
    spent = {a: s for a, s in budgets(run).items() if a in scored_arms(summary)}
    if len(spent) > 1 and len(set(spent.values())) == 1:
        facts.append(f"equal budget: {numbers.count(next(iter(spent.values())))} samples per arm")
    elif len(spent) > 1:
        unequal = ", ".join(f"{arm} {numbers.count(s)}" for arm, s in spent.items())
        facts.append(f"unequal budgets in samples: {unequal}")
    if summary.get("seeds"):
        facts.append(claims.seeds_words(summary))
    return facts


def _headline_without_scores(run: Run, sections: Sequence[DataSection]) -> str:
    if sections:
        first, last = sections[0].view, sections[-1].view
        kept = numbers.percent(last.rows_out, first.rows_in)
        return (
            f"{numbers.count(first.rows_in)} rows in, {numbers.count(last.rows_out)} kept ({kept});"
            " nothing scored yet"
        )
    done = sum(n.is_done for n in run.nodes)
    return f"{done} of {len(run.nodes)} steps done, nothing scored yet"


def _score_names(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(n for a in scored_arms(summary) for n in summary[a]["per_seed"]))


def _other_stages(run: Run, summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Scores of evaluate stages besides the one the page is about, e.g. a development split."""
    tables = []
    for stage in evaluate_stages(run):
        if stage == summary.get("eval_stage"):
            continue
        other = summarise_stage(run, stage)
        lines = [
            (
                arm,
                ", ".join(
                    f"{claims.score_label(n)} {v:.3f}" for n, v in main_scores(other[arm]).items()
                ),
            )
            for arm in scored_arms(other)
        ]
        tables.append((stage, lines))
    return tables
