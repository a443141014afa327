"""What the made pictures show: things before a background, often with a printed word.

A scene is drawn from (seed, number) alone, so that every file of a miniature that speaks
of a picture says the same of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

COLOURS = {
    "red": ((205, 40, 45), "红色"), "green": ((45, 160, 70), "绿色"),
    "blue": ((45, 85, 205), "蓝色"), "yellow": ((235, 200, 50), "黄色"),
    "white": ((240, 240, 235), "白色"), "black": ((30, 30, 35), "黑色"),
}  # fmt: skip
SHAPES = {"ball": "球", "box": "盒子", "cone": "圆锥", "ring": "圆环"}
PLACES = {
    "on a beach": ((150, 200, 235), (225, 205, 160), "在沙滩上"),
    "on a lawn": ((165, 205, 240), (95, 150, 75), "在草地上"),
    "on a table": ((205, 195, 185), (140, 100, 65), "在桌子上"),
    "in the snow": ((175, 190, 215), (232, 236, 242), "在雪地里"),
}
WORDS = (
    "STOP", "CAFE", "TAXI", "EXIT", "OPEN", "SALE", "MILK", "PARK",
    "TEA", "BUS", "ZOO", "HOTEL", "PIZZA", "BOOKS", "MUSIC", "WATER",
)  # fmt: skip
LETTERS = "ABCD"


@dataclass(frozen=True)
class Thing:
    """One thing: its colour and its shape."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One picture's content and what can be said of it."""

    seed: int
    number: int
    things: tuple[Thing, ...]
    place: str
    word: str

    @property
    def caption(self) -> str:
        """One true sentence."""
        named = " and ".join(f"a {thing}" for thing in self.things)
        sign = f" with the word {self.word}" if self.word else ""
        return f"{named} {self.place}{sign}"

    @property
    def alt_text(self) -> str:
        """A text as the web has it: part of the truth, or a phrase of no use."""
        rng = self._rng("alt")
        thing = self.things[0]
        return rng.choice(
            (
                f"{thing.shape} {self.place}",
                f"photo of a {thing}",
                f"{thing.colour} things, stock photo {rng.randint(100, 999)}",
                f"img {rng.randint(1000, 9999)}: {self.word.lower() or thing.shape}",
            )
        )

    @property
    def description(self) -> str:
        """Three sentences."""
        count = "one thing" if len(self.things) == 1 else f"{len(self.things)} things"
        read = f"A sign reads {self.word}." if self.word else "Nothing is written in it."
        return f"The picture shows {self.caption}. There is {count} in it. {read}"

    @property
    def chinese(self) -> str:
        """One true sentence in Chinese."""
        named = "和".join(
            f"一个{COLOURS[thing.colour][1]}的{SHAPES[thing.shape]}" for thing in self.things
        )
        sign = f"，上面写着{self.word}" if self.word else ""
        return f"{named}{PLACES[self.place][2]}{sign}。"

    def questions(self) -> list[tuple[str, str]]:
        """Questions with short answers, the one about the word first where there is one."""
        thing = self.things[0]
        asked = [("What word is written in the picture?", self.word.lower())] if self.word else []
        return [
            *asked,
            (f"What colour is the {thing.shape}?", thing.colour),
            ("Where is it?", self.place),
            ("How many things are there?", str(len(self.things))),
        ]

    def choice(self, *, is_chinese: bool = False) -> tuple[str, list[str], int]:
        """A question with four options and the place of the right one."""
        rng = self._rng("choice")
        right = self.things[0].colour
        options = [right, *rng.sample([name for name in COLOURS if name != right], 3)]
        rng.shuffle(options)
        place = options.index(right)
        if is_chinese:
            shown = SHAPES[self.things[0].shape]
            return f"{shown}是什么颜色的？", [COLOURS[name][1] for name in options], place
        return f"What colour is the {self.things[0].shape}?", options, place

    def _rng(self, use: str) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}/{use}")


def scene(seed: int, number: int) -> Scene:
    """Scene `number` of a world; two in three show a word."""
    rng = random.Random(f"{seed}/{number}")
    shapes = rng.sample(list(SHAPES), 1 + (rng.random() < 0.4))
    things = tuple(Thing(rng.choice(list(COLOURS)), shape) for shape in shapes)
    word = rng.choice(WORDS) if rng.random() < 0.67 else ""
    return Scene(seed, number, things, rng.choice(list(PLACES)), word)


def said(pairs: list[tuple[str, str]], *, has_image: bool = True) -> list[dict[str, str]]:
    """Questions and answers as LLaVA's turns, the picture before the first question."""
    turns = []
    for place, (question, answer) in enumerate(pairs):
        head = "<image>\n" if has_image and not place else ""
        turns += [{"from": "human", "value": head + question}, {"from": "gpt", "value": answer}]
    return turns


def every_text(seed: int) -> list[str]:
    """Texts in which each word of the scenes stands, to train tokenizers on."""
    texts = []
    for number in range(200):
        one = scene(seed, number)
        texts += [one.caption, one.alt_text, one.description]
        texts += [text for pair in one.questions() for text in pair]
    return texts
