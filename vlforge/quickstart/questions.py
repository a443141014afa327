"""Questions about a scene: with short answers, and with lettered options."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlforge.quickstart.scene import (
    COLOURS,
    GROUNDS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
)

SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
"""The two instructions LLaVA ends its questions with."""

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A question with one right answer and wrong ones of the same kind.

    Nothing in `wrong` stands in the picture.
    """

    kind: str
    text: str
    answer: str
    wrong: tuple[str, ...]


def _others(
    rng: random.Random, answer: str, present: Sequence[str], every: Sequence[str]
) -> tuple[str, ...]:
    absent = [value for value in every if value != answer and value not in present]
    return tuple(rng.sample(absent, len(absent)))


def _colour(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    thing = rng.choice(scene.things)
    wrong = _others(rng, thing.colour, [t.colour for t in scene.things], COLOURS)
    return Question("colour", f"what colour is the {thing.shape}?", thing.colour, wrong)


def _shape(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    thing = rng.choice(scene.things)
    wrong = _others(rng, thing.shape, [t.shape for t in scene.things], SHAPES)
    return Question("shape", f"what shape is {thing.colour}?", thing.shape, wrong)


def _count(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    answer = NUMBERS[len(scene.things) - 1]
    return Question(
        "count", "how many shapes are there?", answer, _others(rng, answer, [], NUMBERS)
    )


def _place(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    thing = rng.choice(scene.things)
    wrong = _others(rng, thing.place, [t.place for t in scene.things], PLACES)
    return Question("place", f"where is the {thing.shape}?", thing.place, wrong)


def _size(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    thing = rng.choice(scene.things)
    wrong = _others(rng, thing.size, [], SIZES)
    return Question("size", f"what size is the {thing.shape}?", thing.size, wrong)


def _ground(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    wrong = _others(rng, scene.ground, [], GROUNDS)
    return Question("ground", "what colour is the ground?", scene.ground, wrong)


def word_question(rng: random.Random, scene: Scene, words: Sequence[str]) -> Question:
    """What word is printed; wrong answers from `words`, the likest of a few first."""
    assert scene.word
    near = sorted(rng.sample(words, min(12, len(words))), key=lambda w: -_likeness(w, scene.word))
    wrong = tuple(word for word in near if word != scene.word)
    return Question("word", "what word is printed?", scene.word, wrong)


def _likeness(word: str, other: str | None) -> int:
    return sum(a == b for a, b in zip(word, other or "", strict=False))


_ASKERS: dict[str, Callable[[random.Random, Scene, Sequence[str]], Question]] = {
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "place": _place,
    "size": _size,
    "ground": _ground,
    "word": word_question,
}
KINDS = tuple(_ASKERS)
GROUP_OF = {
    "colour": "attribute",
    "shape": "attribute",
    "size": "attribute",
    "ground": "attribute",
    "count": "relation",
    "place": "relation",
    "word": "text",
}
"""The coarser category of each kind (MMBench's `l2-category`)."""


def kinds_for(scene: Scene) -> tuple[str, ...]:
    """The kinds of question that `scene` can answer."""
    return KINDS if scene.word else tuple(kind for kind in KINDS if kind != "word")


def ask(rng: random.Random, scene: Scene, kind: str, words: Sequence[str]) -> Question:
    """A question of `kind` about `scene`; wrong words are drawn from `words`."""
    return _ASKERS[kind](rng, scene, words)


def options_of(rng: random.Random, question: Question) -> list[str]:
    """Up to four options in random order, the answer among them."""
    options = [question.answer, *question.wrong[: len(LETTERS) - 1]]
    rng.shuffle(options)
    return options


def short_prompt(question: Question, *, bare: bool = False) -> str:
    """The question as LLaVA asks for a short answer; `bare` leaves the instruction out."""
    return question.text if bare else f"{question.text}\n{SHORT_ANSWER}"


def choice_prompt(question: Question, options: Sequence[str], *, bare: bool = False) -> str:
    """The question as LLaVA asks for the letter of an option; `bare` without the instruction."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question.text, *lines, *([] if bare else [LETTER_ANSWER])])


def exchange(
    rng: random.Random,
    scene: Scene,
    kind: str,
    words: Sequence[str],
    *,
    choices: float = 0.5,
    bare: float = 0.0,
) -> tuple[str, str]:
    """Prompt and answer of a question of `kind`.

    A share `choices` of the questions lists options; the answer is the text of
    one, which MMBench's rules take as they take its letter. A share `bare` of
    the prompts comes without LLaVA's instruction.
    """
    question = ask(rng, scene, kind, words)
    is_bare = rng.random() < bare
    if rng.random() >= choices:
        return short_prompt(question, bare=is_bare), question.answer
    return choice_prompt(question, options_of(rng, question), bare=is_bare), question.answer
