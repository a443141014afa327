"""The `evaluate` stage of a recipe. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlforge.types import Loading


@dataclass(frozen=True)
class BenchmarkSpec:
    """One benchmark: its files and the protocol that scores it.

    textvqa: `questions` is LLaVA's question jsonl, `annotation` the TextVQA
    json, `images` the picture folder. mmbench: `questions` is the TSV.
    `groups` (json: name -> list of question ids) reports subsets apart.
    `protocol`: how answers are read and scored; "auto" is the documented default
    of the benchmark. `ocr: remove` asks TextVQA without the OCR tokens that
    LLaVA's question file carries; the protocol's name says which it was.
    `label` names the benchmark in files and scores, where one is asked twice.
    """

    name: Literal["textvqa", "mmbench"]
    questions: str
    annotation: str | None = None
    images: str | None = None
    protocol: str = "auto"
    groups: str | None = None
    ocr: Literal["keep", "remove"] = "keep"
    label: str = ""

    @property
    def key(self) -> str:
        """The name in file names and in `metrics.json`."""
        return self.label or self.name


@dataclass(frozen=True)
class EvalConfig:
    """Ask a model every question of the benchmarks and score its answers.

    strict: a question without answer, or a group of rotations that is not whole,
    is an error and not only counted. `precision` to `device_map` say how the model is
    loaded; in bf16, fp16, 8 or 4 bits an answer may change with `batch`.
    """

    model: str
    benchmarks: tuple[BenchmarkSpec, ...]
    template: str = "auto"
    batch: int = 32
    max_new_tokens: int = 16
    strict: bool = False
    note: str = ""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = "auto"
    device_map: Literal["none", "auto"] | dict[str, str] = "none"

    @property
    def loading(self) -> Loading:
        """How the model is loaded."""
        return Loading(self.precision, self.quantise, self.attention, self.device_map)
