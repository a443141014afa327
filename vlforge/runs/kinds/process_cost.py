"""What a process stage takes, operator by operator: rows, forwards, tokens, requests, money.

Filters are taken to keep every row and answers to be as long as they may, so the figures
of models are at most what the stage takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.engine.config import ProcessConfig
from vlforge.engine.plan import is_generative
from vlforge.recipe.references import split_reference
from vlforge.runs.job import Cost, Upstream
from vlforge.runs.kinds.sizes import count_rows
from vlforge.types import EndpointSpec, Need, VLForgeError

SECONDS_A_ROW = 0.0003
"""What an operator without a model takes; an assumption, as the other figures here."""
_SECONDS_A_LOOK = 0.004
"""What a model takes for a picture where nothing is known of its size."""
_SECONDS_A_REPLY = 3.0
_TOKENS_A_PICTURE = 600
_LETTERS_A_TOKEN = 4
_PROMPT_TOKENS = 150
_CAPTION_TOKENS = 128
_SAMPLED_ROWS = 200
_MODEL_FIELDS = (
    "hf_img2seq", "hf_clip", "hf_blip", "hf_model", "api_or_hf_model", "api_model",
    "hf_scorer_model", "model", "model_path",
)  # fmt: skip
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Rows:
    """How many there are, and what one holds on average."""

    count: int
    pictures: float
    text_tokens: float


@dataclass(frozen=True)
class Asking:
    """What an operator asks its model for, at most."""

    op: str
    model: str
    requests: float
    tokens_in: float
    tokens_out: float
    writes: bool
    spec: EndpointSpec | None = None
    weights: float = 0.0

    @property
    def flops(self) -> float:
        """Of a model on this machine; 0 where its size is not known."""
        return 2 * self.weights * (self.tokens_in + self.tokens_out)

    @property
    def seconds(self) -> float:
        """Of waiting for a server, or of a model of unknown size."""
        spec = self.spec
        if spec is None:
            return 0.0 if self.weights else self.requests * _SECONDS_A_LOOK
        slowest = [self.requests * _SECONDS_A_REPLY / max(1, spec.concurrency)]
        if spec.requests_per_minute:
            slowest.append(60 * self.requests / spec.requests_per_minute)
        if spec.tokens_per_minute:
            tokens = self.tokens_in + self.tokens_out
            slowest.append(60 * tokens / spec.tokens_per_minute)
        return max(slowest)

    def told(self) -> str:
        """One line for the plan."""
        tokens = f"{_many(self.tokens_in)} + {_many(self.tokens_out)} tokens"
        if self.spec is not None:
            price = (
                self.tokens_in * self.spec.price_in + self.tokens_out * self.spec.price_out
            ) / 1e6
            bound = f" (max_cost {self.spec.max_cost:g})" if self.spec.max_cost else ""
            cost = f", cost {price:,.2f}{bound}" if price else ""
            named = self.spec.model
            return f"{self.op}: at most {self.requests:,.0f} requests to {named}, {tokens}{cost}"
        size = f"{_many(self.weights)} weights" if self.weights else "of unknown size"
        what = f"answers, {tokens}" if self.writes else "looks"
        return f"{self.op}: {self.model}, {size}, at most {self.requests:,.0f} {what}"


def cost_of_rows(config: ProcessConfig, inputs: Mapping[str, Upstream]) -> Cost:
    """The stage's cost; a line of advice for each operator that asks a model."""
    rows = read = rows_of(config, inputs)
    bounds = _operators(config)
    asked = []
    for name, op in bounds:
        if op is not None and (one := asking(name, op, config, rows, inputs)):
            asked.append(one)
        rows = replace(rows, count=rows.count * _growth(op))
    local = [one for one in asked if one.spec is None]
    memory = 120.0 + (480.0 if local else 0.0)
    memory += sum({one.model: 4 * one.weights / 2**20 for one in local}.values())
    painted = sum("diffusion" in name for name, _ in bounds)
    return Cost(
        gpu="yes" if local else "no",
        flops=sum(one.flops for one in local),
        cpu_s=1.0 + read.count * SECONDS_A_ROW * len(bounds) + sum(one.seconds for one in asked),
        disk_mb=rows.count * (1e-3 + 0.2 * painted),
        memory_mb=memory,
        note=f"{read.count:,} rows, {len(bounds)} operators",
        advice=tuple(one.told() for one in asked if one.spec is not None or one.writes),
    )


def _growth(op: Any) -> int:
    """Rows that an operator leaves of one, at most, as far as its parameters tell."""
    if not hasattr(op, "keep_original_sample"):
        return 1
    takes_all = getattr(op, "keep_candidate_mode", "") == "all"
    made = getattr(op, "caption_num", 1) if takes_all else 1
    return int(bool(op.keep_original_sample)) + int(made)


def rows_of(config: ProcessConfig, inputs: Mapping[str, Upstream]) -> Rows:
    """How many rows come, and what the first of them hold."""
    count = count_rows(config.dataset_path, inputs)
    for bound in (config.limit, config.sample):
        count = count if bound is None else min(count, bound)
    found = list(_first_rows(_file(config.dataset_path, inputs)))
    texts = [row.get(config.text_key) for row in found]
    letters = sum(len(text) for text in texts if isinstance(text, str))
    pictures = sum(len(row.get(config.image_key) or ()) for row in found)
    if not found:
        return Rows(count, 1.0, 30.0)
    return Rows(count, pictures / len(found), letters / len(found) / _LETTERS_A_TOKEN)


def asking(
    name: str, op: Any, config: ProcessConfig, rows: Rows, inputs: Mapping[str, Upstream]
) -> Asking | None:
    """What an operator asks for; None where it asks no model."""
    if op.needs < Need.EMBEDDING:
        return None
    model = model_of(op)
    spec = spec_of(op, model, config)
    weights, image_tokens = (0.0, 0.0) if spec is not None else _size(model, inputs)
    writes, converses = is_generative(op), hasattr(op, "drawing")
    requests = float(rows.count) if converses else rows.count * rows.pictures
    pictures = rows.pictures if converses else 1.0
    seen = image_tokens or _TOKENS_A_PICTURE
    words = _PROMPT_TOKENS + rows.text_tokens if converses else rows.text_tokens
    out = 0.0
    if converses:
        out = op.drawing().max_new_tokens
    elif writes:
        out = _CAPTION_TOKENS * getattr(op, "caption_num", 1)
    return Asking(
        name,
        model,
        requests,
        requests * (words + pictures * seen),
        requests * out,
        writes,
        spec,
        weights,
    )


def model_of(op: Any) -> str:
    """The model as the recipe names it; "" where the operator does not say."""
    named = getattr(op, "model_name", None)
    if named is not None:
        return str(named())
    values = [getattr(op, field, None) for field in _MODEL_FIELDS]
    return next((value for value in values if isinstance(value, str) and value), "")


def spec_of(op: Any, model: str, config: ProcessConfig) -> EndpointSpec | None:
    """The server that an operator asks, where it is one."""
    if model in config.endpoints:
        return config.endpoints[model]
    is_api, server = getattr(op, "is_api", None), getattr(op, "server", None)
    is_far = bool(is_api is not None and is_api()) or bool(server is not None and server())
    return EndpointSpec(model) if is_far else None


def _operators(config: ProcessConfig) -> list[tuple[str, Any]]:
    """The operators by name; None for one that cannot be made before the stage runs."""
    from vlforge.ops.bind import bind
    from vlforge.ops.index import want_custom

    want_custom(config.custom_operator_paths)
    found: list[tuple[str, Any]] = []
    for entry in config.process:
        name = entry if isinstance(entry, str) else next(iter(entry))
        try:
            (bound,) = bind([entry], **config.shared_keys())
        except (VLForgeError, OSError):
            found.append((name, None))
        else:
            found.append((bound.name, bound.op))
    return found


def _size(model: str, inputs: Mapping[str, Upstream]) -> tuple[float, float]:
    """Weights, and tokens of a picture; 0 where that is not known.

    From the stage that will make the model, its folder, or its name ("...-7b").
    """
    from vlforge.runs.kinds.flops import cost_of

    cost = cost_of(model, inputs) if model else None
    if cost is not None:
        return float(cost.parameters), float(cost.image_tokens)
    if split_reference(model):  # what a stage makes may be called by a size that it has not
        return 0.0, 0.0
    files = [*Path(model).glob("*.safetensors"), *Path(model).glob("pytorch_model*.bin")]
    if model and files and Path(model).is_dir():
        return sum(file.stat().st_size for file in files) / 4, 0.0
    told = _SIZE.findall(Path(model).name.replace("-", " ").replace("_", " "))
    scale = {"b": 1e9, "m": 1e6}
    return (float(told[-1][0]) * scale[told[-1][1].lower()] if told else 0.0), 0.0


def _file(path: str, inputs: Mapping[str, Upstream]) -> Path | None:
    """The data file, where it is there already."""
    found = split_reference(path)
    if found is None:
        return Path(path) if Path(path).is_file() else None
    upstream = inputs.get(found[0])
    if upstream is None:
        return None
    if upstream.folder is not None and (upstream.folder / found[1]).is_file():
        return upstream.folder / found[1]
    before = upstream.settings.get("dataset_path")
    return _file(before, upstream.inputs) if isinstance(before, str) else None


def _first_rows(path: Path | None) -> Sequence[dict[str, Any]]:
    if path is None or path.suffix != ".jsonl":
        return []
    with path.open("rb") as file:
        lines = list(islice(file, _SAMPLED_ROWS))
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]


def _many(count: float) -> str:
    for bound, word in ((1e9, " B"), (1e6, " M")):
        if count >= bound:
            return f"{count / bound:.1f}{word}"
    return f"{count:,.0f}"
