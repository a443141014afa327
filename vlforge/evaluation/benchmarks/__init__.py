"""One file per benchmark. A file here is a benchmark; nothing has to be registered.

Each reads its questions, knows its protocols and scores answers; what more it can do
(a judge's questions, upload files) it says by having the function.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from vlforge.evaluation.config import LONGEST_ANSWER, BenchmarkSpec
from vlforge.evaluation.questions import Question, Score
from vlforge.types import RecipeError

Verdicts = Mapping[str, Mapping[str, Any]]
"""What a judge said, by question id."""
UNJUDGED: Verdicts = MappingProxyType({})
"""No judge was asked."""
Judging = Generator[Any, str, Mapping[str, Any]]
"""Asks a judge: yields requests, is sent replies, returns a verdict."""


class Benchmark(Protocol):
    """What a module of this package has.

    May also have: `judging(question, answer, rule) -> Judging | None` (None: nothing to ask),
    `EXPORTS`: name -> function(questions, said, target) that writes an upload file, and
    `matcher(questions)` -> function(row) -> id, where answers made elsewhere are not found by
    their id alone; `MAX_NEW_TOKENS`, where its answers are longer than a word or a letter.
    """

    PROTOCOLS: tuple[str, ...]

    def read(self, spec: BenchmarkSpec) -> list[Question]:
        """The questions in file order, with their answers where the files have them."""
        ...

    def knows(self, rule: str) -> bool:
        """Whether `rule` names a protocol of this benchmark."""
        ...

    def protocol_name(self, questions: Sequence[Question], rule: str) -> str:
        """The protocol's full name, such as `textvqa@m4c+ocr`; raises for one it does not know."""
        ...

    def score(
        self,
        questions: Sequence[Question],
        said: Mapping[str, str],
        rule: str,
        verdicts: Verdicts = ...,
    ) -> Score:
        """Scores of answers by question id; a question without answer is wrong and counted."""
        ...


Export = Callable[[Sequence[Question], Mapping[str, str], Path], None]
"""Writes answers as a server or another tool takes them."""


def benchmark(name: str) -> Any:
    """The module of a benchmark that `benchmark_names` names, a `Benchmark`."""
    return importlib.import_module(f"{__name__}.{name}")


def questions_of(spec: BenchmarkSpec) -> list[Question]:
    """The questions that a spec asks: those of its files, up to its `limit`.

    Raises:
        DataError: files that cannot be read or do not belong together.
    """
    questions: list[Question] = benchmark(spec.name).read(spec)
    if spec.limit is None:
        return questions
    wanted = {question.group or question.id for question in questions[: max(0, spec.limit)]}
    return [question for question in questions if (question.group or question.id) in wanted]


def longest_answer(spec: BenchmarkSpec, asked: int | Literal["auto"] = "auto") -> int:
    """Tokens an answer may have: what the spec says, else `asked`, else the benchmark."""
    if spec.max_new_tokens > 0:
        return spec.max_new_tokens
    if asked != "auto":
        return asked
    return int(getattr(benchmark(spec.name), "MAX_NEW_TOKENS", LONGEST_ANSWER))


@dataclass(frozen=True)
class Protocols:
    """A benchmark's protocols, where nothing but a rule's name tells them apart.

    Its module takes `knows` and `name` for what `Benchmark` wants.
    """

    benchmark: str
    rules: tuple[str, ...]

    def knows(self, rule: str) -> bool:
        """Whether `rule` names one of them, `BENCHMARK@` before it or not."""
        return rule.removeprefix(f"{self.benchmark}@") in ("auto", *self.rules)

    def name(self, questions: Sequence[Question], rule: str) -> str:
        """`pope@llava`; raises as `rule_of`."""
        return f"{self.benchmark}@{rule_of(self.benchmark, self.rules, rule)}"


def rule_of(name: str, protocols: Sequence[str], rule: str) -> str:
    """A protocol by its bare name: `auto` is the first, `NAME@` before it may be left out.

    Raises:
        RecipeError: not one of them.
    """
    bare = rule.removeprefix(f"{name}@")
    if bare == "auto":
        return protocols[0]
    if bare not in protocols:
        raise RecipeError(f"{name} has no protocol {rule!r}; known: {', '.join(protocols)}")
    return bare


def check_specs(specs: Sequence[BenchmarkSpec], protocol: str = "auto") -> None:
    """Raise for benchmarks under one name and for protocols that nobody knows.

    Raises:
        RecipeError: says which.
    """
    keys = [spec.key for spec in specs]
    for key in keys:
        if keys.count(key) > 1:
            raise RecipeError(f"two benchmarks are called {key!r}; give one of them a label")
    for spec in specs:
        module = benchmark(spec.name)
        if not module.knows(spec.protocol):
            module.protocol_name([], spec.protocol)
    if protocol != "auto" and not any(benchmark(spec.name).knows(protocol) for spec in specs):
        benchmark(specs[0].name).protocol_name([], protocol)
