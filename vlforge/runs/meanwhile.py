"""Asks a model that is being trained some questions of benchmarks.

Training knows nothing of benchmarks and benchmarks nothing of training; here they meet.
Named by `importlib` alone, so that a change of a benchmark does not make stages that ask
none look changed (see `keys`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlforge.evaluation.asking import sample_of
from vlforge.evaluation.benchmarks import benchmark, check_specs
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.questions import Question
from vlforge.recipe.typed import build
from vlforge.text.templates import find_template

if TYPE_CHECKING:
    from vlforge.inference.load import Loaded
    from vlforge.inference.local import LocalChat
    from vlforge.models.folder import ModelFolder
    from vlforge.models.native_folder import NativeFolder
    from vlforge.training.devices import Devices

_BATCH, _LONGEST = 32, 16
"""Questions asked at once, and tokens of an answer, as in an `evaluate` stage."""


class Meanwhile:
    """Asks the same questions at every look.

    Args:
        benchmarks: entries as an `evaluate` stage has them.
        rows: questions of each; rows that are scored together stay together.

    Raises:
        RecipeError: an entry that is none, or two of one name.
        DataError: a benchmark's file that cannot be used.
    """

    def __init__(self, benchmarks: Sequence[Mapping[str, Any]], rows: int):
        def where(*keys: object) -> str:
            return "evaluate.benchmarks"

        specs = [build(BenchmarkSpec, entry, where) for entry in benchmarks]
        check_specs(specs)
        self._sets = [
            (spec, some_questions(benchmark(spec.name).read(spec), rows)) for spec in specs
        ]

    def __call__(self, folder: ModelFolder | NativeFolder, devices: Devices) -> dict[str, float]:
        """Scores by benchmark, the same on all devices; one that has no score is left out."""
        from vlforge.inference.local import LocalChat

        chat = LocalChat(_loaded(folder, devices), batch=_BATCH)
        scores = {}
        for spec, questions in self._sets:
            said = _answers(chat, questions, spec.max_new_tokens or _LONGEST, devices)
            score = benchmark(spec.name).score(questions, said, spec.protocol).fields["score"]
            if score is not None:
                scores[spec.key] = round(float(score), 6)
        return scores


def _loaded(folder: ModelFolder | NativeFolder, devices: Devices) -> Loaded:
    """The model that trains, as one that is asked."""
    from vlforge.inference.load import Loaded
    from vlforge.inference.native import ready_to_answer
    from vlforge.models.native_folder import OWN_TEMPLATE, NativeFolder

    how: dict[str, Any] = {"path": "the model that trains", "device": devices.device}
    if isinstance(folder, NativeFolder):
        processor = ready_to_answer(copy.deepcopy(folder.processor))
        has_own = folder.template == OWN_TEMPLATE
        how["template"] = None if has_own else find_template(folder.template)
        model = folder.model.whole.model
        return Loaded("native", model=model, tokenizer=processor.tokenizer, processor=processor,
                      **how)  # fmt: skip
    return Loaded(
        kind="family",
        model=folder.model,
        tokenizer=folder.tokenizer,
        processor=folder.processor,
        template=find_template(folder.template),
        **how,
    )


def some_questions(questions: Sequence[Question], most: int) -> list[Question]:
    """Whole groups spread evenly over the benchmark, until there are about so many questions."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.group or question.id, []).append(question)
    names = list(groups)
    wanted = max(1, min(len(names), round(len(names) * most / max(1, len(questions)))))
    chosen = [names[number * len(names) // wanted] for number in range(wanted)]
    return [question for name in chosen for question in groups[name]]


def _answers(
    chat: LocalChat, questions: Sequence[Question], longest: int, devices: Devices
) -> dict[str, str]:
    """Answers by question; each device asks its share."""
    mine = questions[devices.index :: devices.count]
    # Pictures stay as they came: nothing is written where a model trains.
    samples = [sample_of(question, question.images) for question in mine]
    answers = [answer.text for answer in chat.answer(samples, longest)] if samples else []
    said = [(question.id, text) for question, text in zip(mine, answers, strict=True)]
    if devices.count > 1:
        from accelerate.utils import gather_object

        said = gather_object(said)
    return dict(said)
