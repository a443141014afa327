"""The `evaluate` stage of a recipe. No torch here."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlforge.types import EndpointSpec, Loading

LONGEST_ANSWER = 16
"""Tokens of an answer where nobody says otherwise: a word, a letter, a short phrase."""
BATCH = 32
"""Questions at once with `batch: auto`; a GPU whose memory they do not fit gets fewer."""


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
    `limit` asks the first so many questions, with the rows that are scored together with
    them; `max_new_tokens` above 0 is this benchmark's longest answer.
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

    `model` is a folder; `endpoint` in its place a server that speaks OpenAI's API.
    strict: a question without answer, or a group of rotations that is not whole,
    is an error and not only counted. `precision` to `device_map` say how the model is
    loaded; in bf16, fp16, 8 or 4 bits an answer may change with `batch`.
    `max_new_tokens`: "auto" is what each benchmark's answers need.
    `answer_by: likelihood` chooses among options without generating: by `likelihood`, the
    `letter` after the benchmark's words, or the option's own text after the bare
    question, by the `mean` or the `sum` over its tokens. SEED-Bench's ranking is `sum`.
    `adapter` is what was trained on `model` and is put into it (LoRA; XTuner's LLaVA, with
    `model` its language model), `vision` the encoder that it leaves out, `select_layer` the
    encoder's layer where nothing tells it. `stop` are words that end an answer, too.
    `processes` share the questions ("auto": one per GPU); no answer depends on them.
    """

    model: str = ""
    benchmarks: tuple[BenchmarkSpec, ...] = ()
    endpoint: EndpointSpec | None = None
    template: str = "auto"
    batch: int | Literal["auto"] = "auto"
    max_new_tokens: int | Literal["auto"] = "auto"
    answer_by: Literal["generation", "likelihood"] = "generation"
    likelihood: Literal["letter", "mean", "sum"] = "letter"
    processes: int | Literal["auto"] = "auto"
    strict: bool = False
    note: str = ""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = "auto"
    device_map: Literal["none", "auto"] | dict[str, str] = "none"
    adapter: str = ""
    vision: str = ""
    select_layer: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise ValueError("'benchmarks' is missing; name what is asked")
        if bool(self.model) == (self.endpoint is not None):
            raise ValueError("give model, a folder, or endpoint, a server: one of the two")
        if self.endpoint and (self.adapter or self.vision or self.stop):
            raise ValueError("an endpoint has its own model; leave adapter, vision and stop out")
        for name in ("batch", "max_new_tokens", "processes"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}; give at least 1, or auto")
        if self.endpoint and self.answer_by == "likelihood":
            raise ValueError("an endpoint tells no likelihoods of options; answer_by: generation")
        if self.endpoint and isinstance(self.processes, int) and self.processes > 1:
            raise ValueError("an endpoint is asked by one process; raise endpoint.concurrency")

    @property
    def loading(self) -> Loading:
        """How the model is loaded."""
        return Loading(self.precision, self.quantise, self.attention, self.device_map)

    @property
    def batch_size(self) -> int:
        """Questions that a model answers at once."""
        return BATCH if self.batch == "auto" else self.batch
