"""What a picture of the world shows, and what can truthfully be said about it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlforge.quickstart.words import draw_word

SHAPES = ("ring", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("large", "small")
PLACES = ("top left", "top right", "bottom left", "bottom right")
GROUNDS = ("white", "grey", "black")
NUMBERS = ("one", "two", "three")


@dataclass(frozen=True)
class Thing:
    """One shape of a picture."""

    shape: str
    colour: str
    size: str
    place: str

    def described(self) -> str:
        """Size, colour, shape and place in words."""
        return f"a {self.size} {self.colour} {self.shape} at the {self.place}"


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn: things in reading order, a printed word, a ground.

    Shapes, colours and places differ between the things of one scene, so that
    a question about one of them has one answer.
    """

    things: tuple[Thing, ...]
    ground: str
    word: str | None
    word_place: str

    def as_json(self) -> dict[str, Any]:
        """A plain dictionary of the truth."""
        return asdict(self)

    def claims(self) -> frozenset[str]:
        """Everything an alt text may say of this scene, one string each."""
        said = {f"{thing.colour} {thing.shape}" for thing in self.things}
        said |= {f"{thing.size} {thing.shape}" for thing in self.things}
        said |= {thing.shape for thing in self.things}
        return frozenset(said | ({self.word} if self.word else set()))


def draw_scene(
    rng: random.Random, words: Sequence[str], word_share: float, code_share: float = 0.0
) -> Scene:
    """A random scene; a share of `word_share` of the draws prints a word.

    The word comes from `words`, or in a share of `code_share` is a code.
    """
    count = rng.randint(1, 3)
    shapes, colours = rng.sample(SHAPES, count), rng.sample(COLOURS, count)
    places = sorted(rng.sample(PLACES, count), key=PLACES.index)
    things = tuple(
        Thing(shape, colour, rng.choice(SIZES), place)
        for shape, colour, place in zip(shapes, colours, places, strict=True)
    )
    word = draw_word(rng, words, code_share) if rng.random() < word_share else None
    return Scene(things, rng.choice(GROUNDS), word, rng.choice(("top", "bottom")))


class SceneSource:
    """Draws scenes that were never drawn before, whichever set they were for."""

    def __init__(self) -> None:
        self._drawn: set[Scene] = set()

    def draw(
        self,
        rng: random.Random,
        words: Sequence[str],
        word_share: float,
        code_share: float = 0.0,
    ) -> Scene:
        """A scene unlike all that this source gave before."""
        while True:
            scene = draw_scene(rng, words, word_share, code_share)
            if scene not in self._drawn:
                self._drawn.add(scene)
                return scene


def full_caption(scene: Scene) -> str:
    """Everything there is to say: count, every thing, the word and the ground."""
    things = " and ".join(thing.described() for thing in scene.things)
    plural = "s" if len(scene.things) > 1 else ""
    said = [f"{NUMBERS[len(scene.things) - 1]} shape{plural}: {things}."]
    if scene.word:
        said.append(f"the word {scene.word} is at the {scene.word_place}.")
    return " ".join([*said, f"the ground is {scene.ground}."])


def inventory(rng: random.Random, scene: Scene) -> str:
    """What stands where, from the top of the picture to its foot, without sentences.

    The words for one thing come in any order, as its colour and its outline
    have none.
    """
    items = []
    for thing in scene.things:
        words = [thing.size, thing.colour, thing.shape]
        rng.shuffle(words)
        items.append(f"{thing.place}: {' '.join(words)}.")
    if scene.word:
        items.insert(0 if scene.word_place == "top" else len(items), f"{scene.word}.")
    return " ".join([f"ground {scene.ground}.", *items])


@dataclass(frozen=True)
class AltText:
    """A short text about a scene and the claims in it."""

    text: str
    claims: frozenset[str]

    def holds_for(self, scene: Scene) -> bool:
        """Whether all it says is true of `scene`."""
        return self.claims <= scene.claims()


_WORD_ENDS = ("with the word {}", "and the sign {}", "reading {}", "and a label saying {}")
_OPENINGS = ("", "", "picture of ", "photo of ", "here is ", "small picture: ")


def alt_text(rng: random.Random, scene: Scene, mention_share: float = 0.6) -> AltText:
    """A truthful but partial text, as people write under their pictures.

    Names one or two of the things by one or two of their properties, and the
    printed word in a share of `mention_share` of the scenes that have one.
    """
    named = rng.sample(scene.things, rng.randint(1, min(2, len(scene.things))))
    claims = []
    for thing in named:
        word = rng.choice((thing.colour, thing.colour, thing.size, ""))
        claims.append(f"{word} {thing.shape}".strip())
    text = rng.choice(_OPENINGS) + " and ".join(f"a {claim}" for claim in claims)
    if scene.word and rng.random() < mention_share:
        text = f"{text} {rng.choice(_WORD_ENDS).format(scene.word)}"
        claims.append(scene.word)
    return AltText(text, frozenset(claims))
