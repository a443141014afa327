"""What is asked, in which batches, and how one process answers them.

Batches are planned from all questions of a benchmark, whichever of them have answers
already, and an answer is kept with its whole batch or not at all. So neither a kill nor
the number of processes changes which questions a model sees together.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.data.ahead import one_ahead
from vlforge.evaluation.config import EvalConfig
from vlforge.evaluation.questions import IMAGE_MARK, Question
from vlforge.types import Caption, DataError, ModelError, RecipeError, Sample, Turn

_STEP = 32
"""Characters by which two questions may differ and still count as equally long."""
_HOPELESS = 3
"""So many batches without a single answer, and the fault is the model's or the file's."""
_FAILURES = 24
"""So many requests without a single answer, and the server is to be looked at."""


@dataclass(frozen=True)
class Ask:
    """One question as a model gets it; it travels to other processes.

    `fingerprint` is the question's; `options` are by letter where likelihoods choose.
    """

    sample: Sample
    fingerprint: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The question's."""
        return self.sample.id


@dataclass(frozen=True)
class Outcome:
    """Rows for the file of predictions, and by id why others have none."""

    rows: list[dict[str, Any]]
    failed: dict[str, str] = field(default_factory=dict)


def sample_of(question: Question, places: Sequence[str | bytes]) -> Sample:
    """The question as one user turn; pictures come first where the text does not place them."""
    return _sample(question.id, question.text, places)


def _sample(key: str, text: str, places: Sequence[str | bytes]) -> Sample:
    if places and text.count(IMAGE_MARK) != len(places):
        text = f"{IMAGE_MARK}\n" * len(places) + text
    return Sample(key, tuple(places), (Turn("user", text),))


def ask_of(question: Question, places: Sequence[str], config: EvalConfig) -> Ask:
    """What is asked of a model: for the likelihood of options' texts, the bare question."""
    options = question.options if config.answer_by == "likelihood" else {}
    text = words_of(question, config)
    return Ask(_sample(question.id, text, places), question.fingerprint(), dict(options))


def words_of(question: Question, config: EvalConfig) -> str:
    """The words that are shown: the prompt, or the bare question for its options' texts."""
    is_ranked = config.answer_by == "likelihood" and config.likelihood != "letter"
    return (question.asked or question.text) if is_ranked and question.options else question.text


def plan_batches(asks: Sequence[Ask], size: int) -> list[list[Ask]]:
    """Questions that are asked together: about equally long, those of one picture side by side.

    The largest come first, so that what does not fit into memory shows at once.
    """
    seen: dict[tuple[Any, ...], int] = {}
    first = [seen.setdefault(ask.sample.images, place) for place, ask in enumerate(asks)]

    def order(place: int) -> tuple[int, int, int, int]:
        sample = asks[place].sample
        length = sum(len(turn.text) for turn in sample.turns)
        return -len(sample.images), -(length // _STEP), first[place], place

    ordered = [asks[place] for place in sorted(range(len(asks)), key=order)]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Lines at the end of a file, in one piece: another process may append to it too."""
    if rows:
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with path.open("ab", buffering=0) as file:
            while data:  # all at once but on a disk that is nearly full
                data = data[file.write(data) :]


class Alone:
    """One model in this process answers batch after batch.

    While it writes, the next batch's pictures are opened. A question that fails costs
    itself; where nothing at all is answered, the first failure is raised.
    """

    def __init__(self, chat: Any, config: EvalConfig):
        self.chat = chat
        self.config = config
        if config.answer_by == "likelihood" and not hasattr(chat, "loaded"):
            raise RecipeError("this model tells no likelihoods of options; answer_by: generation")

    def answers(
        self,
        batches: Sequence[Sequence[Ask]],
        longest: int,
        path: Path | None,
        *,
        is_first: bool = True,
    ) -> Iterator[Outcome]:
        """What became of every batch; rows are in the file `path` before they are given.

        Args:
            is_first: nothing was answered before; else what is left may be what always fails.

        Raises:
            DataError, ModelError: nothing could be answered.
        """
        if hasattr(self.chat, "answer_each"):
            asks = [ask for batch in batches for ask in batch]
            hope = Hope(_FAILURES, at_end=is_first)
            yield from self._side_by_side(asks, longest, path, hope)
            return
        hope = patience(is_first)
        opened = one_ahead((batch, self.opened(batch)) for batch in batches)
        for number, (batch, samples) in enumerate(opened, 1):
            outcome = self.answer(batch, samples, longest)
            if path is not None:
                append_rows(path, outcome.rows)
            hope.see(outcome, is_last=number == len(batches))
            yield outcome

    def answer(self, batch: Sequence[Ask], samples: Sequence[Sample], longest: int) -> Outcome:
        """One batch; where it fails, one question after the other."""
        try:
            return Outcome(self._rows(batch, samples, longest))
        except (DataError, ModelError) as error:
            if len(batch) == 1:
                return Outcome([], {batch[0].id: str(error)})
        parts = [self.answer([a], [s], longest) for a, s in zip(batch, samples, strict=True)]
        failed = {key: why for part in parts for key, why in part.failed.items()}
        return Outcome([row for part in parts for row in part.rows], failed)

    def _rows(
        self, batch: Sequence[Ask], samples: Sequence[Sample], longest: int
    ) -> list[dict[str, Any]]:
        pairs = list(zip(batch, samples, strict=True))
        ranked = [pair for pair in pairs if len(pair[0].options) > 1]
        written = [pair for pair in pairs if len(pair[0].options) <= 1]
        rows = {}
        if written:
            said = self.chat.answer([sample for _, sample in written], longest)
            rows = {ask.id: _row(ask, one) for (ask, _), one in zip(written, said, strict=True)}
        if ranked:
            rows |= self._ranked([ask for ask, _ in ranked], [sample for _, sample in ranked])
        return [rows[ask.id] for ask in batch]

    def _ranked(self, asks: Sequence[Ask], samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
        """The likeliest option's letter, with what each got."""
        from vlforge.inference.options import option_scores

        way = self.config.likelihood
        texts = [tuple(a.options if way == "letter" else a.options.values()) for a in asks]
        found = option_scores(self.chat.loaded, samples, texts, way, self.config.batch_size)
        rows = {}
        for ask, scores in zip(asks, found, strict=True):
            by_letter = dict(zip(ask.options, scores, strict=True))
            best = max(by_letter, key=by_letter.__getitem__)  # of equals the first
            row = _row(ask, Caption(best, by_letter[best]))
            shown = {letter: round(score, 4) for letter, score in by_letter.items()}
            rows[ask.id] = row | {"likelihoods": shown}
        return rows

    def opened(self, batch: Sequence[Ask]) -> list[Sample]:
        """The samples of a batch, with pictures that are ready for the model where that helps."""
        samples = [ask.sample for ask in batch]
        if not hasattr(self.chat, "loaded"):
            return samples
        from vlforge.inference.prefetch import with_pictures

        try:
            return with_pictures(self.chat.loaded, samples)
        except (DataError, ModelError, OSError):
            return samples  # whoever answers meets it again, and tells of the one question

    def _side_by_side(
        self, asks: Sequence[Ask], longest: int, path: Path | None, hope: Hope
    ) -> Iterator[Outcome]:
        """Answers as they come, in any order, of a model that takes many questions at once."""
        came: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()

        def keep(place: int, said: Any) -> None:
            if not isinstance(said, Caption):
                came.put(Outcome([], {asks[place].id: str(said)}))
                return
            rows = [_row(asks[place], said)]
            if path is not None:
                append_rows(path, rows)
            came.put(Outcome(rows))

        def work() -> None:
            try:
                self.chat.answer_each([ask.sample for ask in asks], longest, keep)
            except BaseException as error:
                came.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            for left in range(len(asks) - 1, -1, -1):
                outcome = came.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                hope.see(outcome, is_last=left == 0)
                yield outcome
        except BaseException:
            self.chat.stop()
            raise


def patience(is_first: bool, processes: int = 1) -> Hope:
    """With models of our own; what is left of a folder with answers is tried to the end."""
    most = _HOPELESS * processes if is_first else sys.maxsize
    return Hope(most, at_end=is_first)


class Hope:
    """Watches whether a model answers at all.

    Where the first `most` outcomes hold no answer, or with `at_end` none does, the first
    failure is raised.
    """

    def __init__(self, most: int, *, at_end: bool):
        self.most, self.at_end = most, at_end
        self.seen = 0
        self.first = ""
        self.is_answered = False

    def see(self, outcome: Outcome, *, is_last: bool) -> None:
        """Take note of one more outcome.

        Raises:
            DataError: none so far holds an answer, and there is no hope for the others.
        """
        self.is_answered = self.is_answered or bool(outcome.rows)
        self.seen += 1
        self.first = self.first or next(iter(outcome.failed.values()), "")
        is_over = self.seen >= self.most or (is_last and self.at_end)
        if is_over and self.first and not self.is_answered:
            raise DataError(f"no question was answered; the first: {self.first}")


def _row(ask: Ask, answer: Caption) -> dict[str, Any]:
    """A line of `predictions.KEY.jsonl`."""
    return {
        "id": ask.id,
        "text": answer.text,
        "confidence": round(answer.confidence, 4),
        "asked": ask.fingerprint,
    }
