"""What a page shows of how stages trained: losses, looks at held-out rows, speed, odd steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vlforge.reports import numbers
from vlforge.reports.curves import (
    SMALL_HEIGHT,
    Curve,
    Event,
    is_flat,
    loss_chart,
    smoothed,
    thinned,
)
from vlforge.reports.run_files import Run, RunNode, number, read_lines
from vlforge.reports.training_view import TRAINING

CURVE_POINTS = 120
"""Of a line; the page stays small with many runs."""
SHOWN_SPIKES = 12
HELD_OUT_TONE = 3
"""Of held-out losses where the stage has one curve."""

Line = list[tuple[float, float]]


@dataclass(frozen=True)
class Spike:
    """One odd step: where, what was odd, what became of it, and rows that were in it."""

    node: str
    step: int
    what: str
    action: str
    rows: str


@dataclass(frozen=True)
class LossView:
    """One stage's curves; `steps_per_point` steps were averaged into each point.

    `signs` say what marks mean; `scores` and `more` are (title, chart).
    """

    stage: str
    chart: Markup
    steps_per_point: int
    runs: int
    signs: tuple[str, ...] = ()
    scores: tuple[tuple[str, Markup], ...] = ()
    more: tuple[tuple[str, Markup], ...] = ()
    spikes: tuple[Spike, ...] = ()
    spike_count: int = 0


@dataclass
class Trained:
    """What one node's files and the run's log say."""

    node: RunNode
    losses: Line = field(default_factory=list)
    rates: Line = field(default_factory=list)
    lr: Line = field(default_factory=list)
    looks: Line = field(default_factory=list)
    scores: dict[str, Line] = field(default_factory=dict)
    spikes: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    at: dict[int, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The arms that share the run, or plain `loss` where arms make no difference."""
        return " = ".join(dict.fromkeys(self.node.arms)) or "loss"


def view_losses(run: Run, tones: Mapping[str | None, int]) -> list[LossView]:
    """Curves of every training stage, one chart per stage with all arms on one axis."""
    log = _log_of(run)
    views = []
    nodes = run.of_kind(*TRAINING)
    for stage in dict.fromkeys(n.stage for n in nodes):
        alike = distinct([n for n in nodes if n.stage == stage])
        found = [read_trained(node, log.get(node.node, ())) for node in alike]
        found = [one for one in found if one.losses]
        if found:
            views.append(_view(stage, found, tones))
    return views


def distinct(nodes: Sequence[RunNode]) -> list[RunNode]:
    """Nodes without those whose folder is another's: equal work is stored once."""
    seen: dict[Path, RunNode] = {}
    for node in nodes:
        seen.setdefault(node.folder.resolve(), node)
    return list(seen.values())


def read_trained(node: RunNode, events: Sequence[Mapping[str, Any]] = ()) -> Trained:
    """A node's lines, with those of the run's log; any of them may be missing or broken."""
    found = Trained(node)
    for line in read_lines(node.folder / "metrics.jsonl"):
        loss, at = number(line.get("loss")), number(line.get("samples", line.get("step")))
        step, lr = number(line.get("step")), number(line.get("lr"))
        if at is None:
            continue
        if step is not None:
            found.at[int(step)] = at
        if lr is not None:
            found.lr.append((at, lr))
        if loss is not None:
            found.losses.append((at, loss))
    for line in read_lines(node.folder / "eval.jsonl"):
        at, loss = number(line.get("samples")), number(line.get("eval_loss"))
        if at is not None and loss is not None:
            found.looks.append((at, loss))
        asked = line.get("benchmarks")
        for name, value in asked.items() if isinstance(asked, Mapping) else ():
            score = number(value)
            if at is not None and score is not None:
                found.scores.setdefault(str(name), []).append((at, score))
    found.spikes = [
        x for x in read_lines(node.folder / "spikes.jsonl", 2000) if number(x.get("step"))
    ]
    _add_events(found, events)
    return found


def _log_of(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Events of starts and speed, by node."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in read_lines(run.folder / "log.jsonl", 1_000_000):
        if event.get("event") in ("fit", "step"):
            found.setdefault(str(event.get("node")), []).append(event)
    return found


def _add_events(found: Trained, events: Sequence[Mapping[str, Any]]) -> None:
    """Speed over samples; what an earlier start did behind its last checkpoint does not count."""
    rates: list[tuple[int, float, float]] = []
    for event in events:
        begun = number(event.get("from_step"))
        if event.get("event") == "fit" and begun is not None:
            rates = [rate for rate in rates if rate[0] <= begun]
            found.resumed = [x for x in found.resumed if begun and x <= found.at.get(int(begun), 0)]
            found.resumed += [found.at[int(begun)]] if int(begun) in found.at else []
            continue
        step, rate = number(event.get("step")), number(event.get("samples_per_second"))
        at = number(event.get("samples"))
        if step is not None and rate is not None and at is not None:
            rates.append((int(step), at, rate))
    found.rates = [(at, rate) for _, at, rate in rates]


def _view(stage: str, found: Sequence[Trained], tones: Mapping[str | None, int]) -> LossView:
    right = max(line[-1][0] for one in found for line in (one.losses, one.looks) if line)
    curves, held, steps = _loss_curves(found, tones), _held_out(found, tones), 1
    steps = max(math.ceil(len(one.losses) / CURVE_POINTS) for one in found)
    said = ", ".join(f"{c.label} ends at {numbers.figures(c.mean[-1][1])}" for c in curves)
    said += "".join(f", {c.label} at {numbers.figures(c.looks[-1][1])}" for c in held)
    events = _events(found)
    spikes = [_spike(one, line) for one in found for line in one.spikes]
    chart = loss_chart([*curves, *held], f"loss of {stage}: {said}", events, right=right)
    return LossView(
        stage=stage,
        chart=chart,
        steps_per_point=steps,
        runs=len(found),
        signs=_signs(events, bool(held)),
        scores=_score_chart(found, tones, right),
        more=tuple(_more(found, tones, right)),
        spikes=tuple(spikes[:SHOWN_SPIKES]),
        spike_count=len(spikes),
    )


def _by_label(found: Sequence[Trained]) -> dict[str, list[Trained]]:
    groups: dict[str, list[Trained]] = {}
    for one in found:
        groups.setdefault(one.label, []).append(one)
    return groups


def _loss_curves(found: Sequence[Trained], tones: Mapping[str | None, int]) -> list[Curve]:
    """Per arm the mean of its runs; of a single run its steps, and what is smooth of them."""
    curves = []
    for label, runs in _by_label(found).items():
        lines = [thinned(one.losses, CURVE_POINTS)[0] for one in runs]
        mean = _mean_curve(lines) if len(lines) > 1 else smoothed(lines[0])
        curves.append(Curve(label, tones.get(runs[0].node.arm, 1), mean, lines))
    return curves


def _held_out(found: Sequence[Trained], tones: Mapping[str | None, int]) -> list[Curve]:
    groups = {label: [x.looks for x in runs if x.looks] for label, runs in _by_label(found).items()}
    arms = {label: runs[0].node.arm for label, runs in _by_label(found).items()}
    curves = []
    for label, lines in groups.items():
        if not lines:
            continue
        looks = _mean_curve(lines)
        is_alone = len(groups) == 1
        tone = HELD_OUT_TONE if is_alone else tones.get(arms[label], 1)
        name = "held-out" if is_alone else f"{label} held-out"
        curves.append(Curve(name, tone, (), [looks], looks, is_named=is_alone))
    return curves


def _events(found: Sequence[Trained]) -> list[Event]:
    events = []
    for one in found:
        name = f"{one.node.node}: " if len(found) > 1 else ""
        for at in one.resumed:
            title = f"{name}went on from a checkpoint at {numbers.count(at)} samples"
            events.append(Event(at, "resume", title))
        for line in one.spikes:
            spike = _spike(one, line)
            at = one.at.get(spike.step, max(one.at.values(), default=0.0))
            title = f"{name}step {spike.step:,}: {spike.what}, {spike.action}; {spike.rows}"
            events.append(Event(at, "spike", title))
    return events


def _signs(events: Sequence[Event], has_looks: bool) -> tuple[str, ...]:
    kinds = {event.kind for event in events}
    signs = ["○ held-out rows"] if has_looks else []
    signs += ["▼ odd step"] if "spike" in kinds else []
    signs += ["┆ went on from a checkpoint"] if "resume" in kinds else []
    return tuple(signs)


def _spike(one: Trained, line: Mapping[str, Any]) -> Spike:
    loss, median = number(line.get("loss")), number(line.get("median"))
    what = "no number" if line.get("kind") == "nan" else f"loss {numbers.figures(loss)}"
    if median:
        what += f", median {numbers.figures(median)}"
    rows = line.get("rows")
    listed = [x for x in rows if isinstance(x, Mapping)] if isinstance(rows, list) else []
    listed.sort(key=lambda row: -(number(row.get("loss")) or (math.inf if "loss" in row else 0.0)))
    named = ", ".join(str(row.get("row")) for row in listed[:3])
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    done = {"skip": "left out", "stop": "stopped", "warn": "kept"}
    action = done.get(str(line.get("action")), str(line.get("action")))
    return Spike(one.node.node, int(number(line.get("step")) or 0), what, action, named + more)


def _score_chart(
    found: Sequence[Trained], tones: Mapping[str | None, int], right: float
) -> tuple[tuple[str, Markup], ...]:
    """One chart of each benchmark that was asked meanwhile."""
    names = dict.fromkeys(name for one in found for name in one.scores)
    charts = []
    for name in names:
        curves = []
        for label, runs in _by_label(found).items():
            lines = [one.scores[name] for one in runs if name in one.scores]
            if lines:
                mean = _mean_curve(lines)
                shown = "" if label == "loss" else label
                curves.append(Curve(shown, tones.get(runs[0].node.arm, 1), mean, (), mean))
        chart = _small(curves, f"{name} while training", numbers.figures, right, top=1.0)
        charts.append((f"{name}, asked while training", chart))
    return tuple(charts)


def _more(
    found: Sequence[Trained], tones: Mapping[str | None, int], right: float
) -> list[tuple[str, Markup]]:
    """Learning rate and speed."""
    charts = []
    lr = [one.lr for one in found if one.lr]
    if lr and not all(map(is_flat, lr)):
        line = thinned(lr[0], CURVE_POINTS)[0]
        curve = Curve("", tones.get(found[0].node.arm, 1), line)
        charts.append(("learning rate", _small([curve], "learning rate", _rate_words, right)))
    speed = []
    for label, runs in _by_label(found).items():
        lines = [thinned(one.rates, CURVE_POINTS)[0] for one in runs if len(one.rates) > 1]
        if lines:
            shown = "" if label == "loss" else label
            speed.append(Curve(shown, tones.get(runs[0].node.arm, 1), lines[0], lines[1:]))
    if speed:
        charts.append(
            ("samples a second", _small(speed, "samples a second", numbers.figures, right))
        )
    return charts


def _small(
    curves: Sequence[Curve],
    label: str,
    words: Callable[[float | None], str],
    right: float,
    top: float = 0.0,
) -> Markup:
    said = ", ".join(f"{c.label} {words(c.mean[-1][1])}".strip() for c in curves)
    return loss_chart(
        curves, f"{label}: {said}", height=SMALL_HEIGHT, words=words, right=right, top=top
    )


def _rate_words(value: float | None) -> str:
    """`2e-5`, as learning rates are written."""
    if not value:
        return "0"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def _mean_curve(lines: Sequence[Sequence[tuple[float, float]]]) -> Line:
    """Point by point over seeds; runs of unequal length count where they have points."""
    columns = [[line[k] for line in lines if k < len(line)] for k in range(max(map(len, lines)))]
    return [(column[0][0], math.fsum(y for _, y in column) / len(column)) for column in columns]
