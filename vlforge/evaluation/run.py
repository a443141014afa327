"""Asks and scores benchmarks in four steps with files between them.

prompts -> predictions (append-only while asking) -> extracted -> metrics. Each
step reads the file before it, so scoring again needs no model. An answer counts
only for the model, the settings and the prompt that it was given to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlforge.data.folder_lock import alone
from vlforge.evaluation.answering import Alone, Ask
from vlforge.evaluation.asking import (
    Answers,
    Asked,
    Asking,
    Places,
    place_pictures,
    prompt_rows,
)
from vlforge.evaluation.benchmarks import check_specs, longest_answer, questions_of
from vlforge.evaluation.chats import open_chat, process_count
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.files import read_lines, write_json, write_lines
from vlforge.evaluation.processes import Crew
from vlforge.evaluation.questions import Question
from vlforge.evaluation.scoring import score_folder
from vlforge.evaluation.settings import guard_answers, settings_of
from vlforge.types import Chat, LogFn, ProgressFn, RecipeError, no_log, no_progress

ASKED_AGAIN = 8
"""Questions of a benchmark that are asked once more, each alone, where rounding may tell."""


def evaluate(
    config: EvalConfig,
    out: Path,
    *,
    chat: Chat | None = None,
    device: str = "auto",
    threads: int = 0,
    progress: ProgressFn = no_progress,
    log: LogFn = no_log,
) -> dict[str, Any]:
    """Ask every question that has no prediction yet, then score; give what `metrics.json` holds.

    Args:
        chat: who is asked, in this process; by default what the config names is opened,
            in as many processes as it says, and only if a question is left.
        device, threads: for models that are opened; 0 leaves threads to each model.
        log: told of warnings too, `{"event": "warning", "text": …}`.

    Raises:
        DataError: a benchmark file that cannot be used, a picture that is not there,
            answers of another model in `out`, another evaluation that writes there; with
            `strict`, missing predictions.
        ModelError: no such model, or all processes died.
        RecipeError: two benchmarks under one name, or a protocol nobody knows.
    """
    out.mkdir(parents=True, exist_ok=True)
    held = alone(out, "", "another evaluation")
    with held, _answering(config, chat, device, threads, log) as answers:
        check_specs(config.benchmarks)
        sets = [(spec, questions_of(spec)) for spec in config.benchmarks]
        settings = settings_of(config, sets)
        settings |= guard_answers(out, settings)
        places = {spec.key: place_pictures(questions, out) for spec, questions in sets}
        write_json(out / "settings.json", settings)
        asking = Asking(answers.open, config, out, progress, sum(len(some) for _, some in sets))
        for spec, questions in sets:
            told = _asked(asking, answers, spec, questions, places[spec.key], log)
            if told:
                settings.setdefault("agreement", {})[spec.key] = told
                write_json(out / "settings.json", settings)
                log({"event": "warning", "text": _say_agreement(spec, told)})
        return score_folder(out, strict=config.strict)


def _asked(
    asking: Asking,
    answers: _Opened,
    spec: BenchmarkSpec,
    questions: list[Question],
    places: Places,
    log: LogFn,
) -> dict[str, int] | None:
    """Ask what is left of one benchmark; how far answers in batches are those alone."""
    rows = prompt_rows(questions, places, asking.config)
    write_lines(asking.out / f"prompts.{spec.key}.jsonl", rows)
    asked = asking.ask(spec, questions, places)
    log({"event": "asked", "benchmark": spec.key, "questions": len(questions),
         "new": asked.new, "failed": len(asked.failed)})  # fmt: skip
    for text in _warnings(spec, asked):
        log({"event": "warning", "text": text})
    if not asked.new:
        return None
    plan = asking.plan(questions, places)
    return _agreement(asking.config, answers, spec, plan, asking.out)


class _Opened:
    """Opens who answers when the first question is left, and closes it at the end."""

    def __init__(self, config: EvalConfig, chat: Chat | None, how: tuple[str, int], log: LogFn):
        self.config, self.chat, self.how, self.log = config, chat, how, log
        self.answers: Answers | None = None
        self.crew: Crew | None = None

    def open(self) -> Answers:
        """Who answers, opened once."""
        if self.answers is None:
            count = 1 if self.chat else process_count(self.config, self.how[0])
            if count > 1:
                self.answers = self.crew = Crew(self.config, count, *self.how)
            else:
                chat = self.chat or open_chat(self.config, *self.how)
                self.answers = Alone(chat, self.config)
                self._tell(getattr(chat, "notes", ()))
        return self.answers

    def close(self) -> None:
        """End processes; tell what is known of their models, or what a server took."""
        if isinstance(self.answers, Alone) and hasattr(self.answers.chat, "endpoint"):
            self.log({"event": "usage", "text": self.answers.chat.endpoint.usage.line()})
        if self.crew is not None:
            self.crew.close()
            self._tell(self.crew.notes)

    def _tell(self, notes: Sequence[str]) -> None:
        for note in notes:
            self.log({"event": "warning", "text": note})


@contextmanager
def _answering(
    config: EvalConfig, chat: Chat | None, device: str, threads: int, log: LogFn
) -> Iterator[_Opened]:
    if chat is not None and isinstance(config.processes, int) and config.processes > 1:
        raise RecipeError("a model that is open already cannot be asked by several processes")
    opened = _Opened(config, chat, (device, threads), log)
    try:
        yield opened
    finally:
        opened.close()


def _warnings(spec: BenchmarkSpec, asked: Asked) -> Iterator[str]:
    if asked.failed:
        first, why = next(iter(asked.failed.items()))
        yield (
            f"{spec.key}: {len(asked.failed)} questions got no answer and count as wrong; the "
            f"same command asks them again; first {first}: {why}"
        )
    if spec.name == "mmmu" and spec.prompt == "mgm":
        yield f"{spec.key}: MGM samples from 5 beams here; these answers are greedy"


def _agreement(
    config: EvalConfig, answers: _Opened, spec: BenchmarkSpec, batches: list[list[Ask]], out: Path
) -> dict[str, int] | None:
    """Of some questions that shared a batch, how many get another answer alone.

    In fp32 none does, so none is asked; nothing is known of an endpoint's batches.
    """
    is_exact = config.precision == "fp32" and config.quantise == "none"
    shared = [ask for batch in batches if len(batch) > 1 for ask in batch]
    if is_exact or config.endpoint is not None or not shared:
        return None
    said = {row["id"]: row["text"] for row in read_lines(out / f"predictions.{spec.key}.jsonl")}
    shared = [ask for ask in shared if ask.id in said]
    singly = [[ask] for ask in shared[:: max(1, len(shared) // ASKED_AGAIN)][:ASKED_AGAIN]]
    longest = longest_answer(spec, config.max_new_tokens)
    found = [row for one in answers.open().answers(singly, longest, None) for row in one.rows]
    return {
        "batch": config.batch_size,
        "asked_again_alone": len(found),
        "differing": sum(row["text"] != said[row["id"]] for row in found),
    }


def _say_agreement(spec: BenchmarkSpec, told: dict[str, int]) -> str:
    return (
        f"{spec.key}: of {told['asked_again_alone']} answers from batches of up to "
        f"{told['batch']}, {told['differing']} differ when asked alone; in fp32 none would"
    )
