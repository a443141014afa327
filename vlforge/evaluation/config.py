"""The `evaluate` stage of a recipe. No torch here."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge.types import Loading


@functools.cache
def benchmark_names() -> tuple[str, ...]:
    """The benchmarks that there are: the files of `benchmarks/`."""
    files = (Path(__file__).parent / "benchmarks").glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem != "__init__"))


@dataclass(frozen=True)
class BenchmarkSpec:
    """One benchmark: its files and the protocol that scores it.

    `name` is one of `vlforge list benchmarks`, which tells what files each takes:
    `questions` is what it asks (LLaVA's question jsonl, a TSV, a folder), `annotation` the
    answers where they lie apart, `images` the picture folder.
    `groups` (json: name -> list of question ids) reports subsets apart.
    `protocol`: how answers are read and scored; "auto" is the documented default
    of the benchmark. `prompt`: whose words ask, where systems differ. `metric` is that of
    `custom`. `ocr: remove` asks TextVQA without the OCR tokens that
    LLaVA's question file carries; the protocol's name says which it was.
    `label` names the benchmark in files and scores, where one is asked twice.
    `limit` asks the first so many questions; `max_new_tokens` above 0 is this
    benchmark's longest answer.
    """

    name: str
    questions: str = ""
    annotation: str | None = None
    images: str | None = None
    protocol: str = "auto"
    groups: str | None = None
    ocr: Literal["keep", "remove"] = "keep"
    label: str = ""
    prompt: str = "auto"
    metric: str = "auto"
    limit: int | None = None
    max_new_tokens: int = 0

    def __post_init__(self) -> None:
        known = benchmark_names()
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"no benchmark is called {self.name!r}; {meant}known: {', '.join(known)}"
            )

    @property
    def key(self) -> str:
        """The name in file names and in `metrics.json`."""
        return self.label or self.name

    @property
    def file(self) -> str:
        """The file that messages name."""
        return self.questions or self.annotation or self.name


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
