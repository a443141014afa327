"""Made captions with the lengths, repeats and dirt of web captions; the n-th is always the same."""

from __future__ import annotations

import json
import random
from itertools import accumulate
from pathlib import Path

IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"

_SUBJECTS = (
    "man woman child boy girl couple cyclist farmer dog cat horse sheep gull sparrow elephant boat "
    "lorry tram motorbike aeroplane kite lighthouse church tower bridge cottage castle market "
    "kitchen bedroom bathroom library station harbour garden forest meadow mountain waterfall "
    "beach desert river glacier canyon vineyard orchard plate bowl cake pizza salad teapot vase "
    "lamp clock guitar piano umbrella suitcase bicycle bench statue mural poster keyboard"
).split()
_LOOKS = (
    "red blue green yellow black white grey brown golden silver wooden old new small large tall "
    "narrow empty crowded quiet bright dark foggy snowy sunny rusty shiny striped handmade vintage "
    "modern abandoned colourful blurry young elderly smiling sleeping running"
).split()
_VERBS = (
    "standing sitting lying walking resting waiting leaning parked floating hanging placed seen "
    "photographed painted reflected covered surrounded lit playing eating looking jumping"
).split()
_PLACES = (
    "in front of|next to|behind|under|on top of|near|beside|inside|across from|at the edge of|"
    "in the middle of|far away from"
).split("|")
_TAILS = (
    "with a cloudy sky in the background|during the golden hour|on a rainy day|in black and white|"
    "taken from above|close-up view|stock photo|for sale|oil on canvas, 1898|summer 2014|"
    "f/2.8, 1/250 s|image by a visitor|limited edition print|with copy space|isolated on white"
).split("|")
_FOREIGN = (
    "一只猫坐在窗边看着外面的雨",
    "un café très ancien près de l'église",
    "Blick über die Dächer der Altstadt",
    "закат над заливом и старый маяк",
    "夕暮れの港に並ぶ漁船",
    "منظر من أعلى الجبل",
    "sunset 🌅 at the beach 🏖️ with friends 🎉🎉",
)
_DIRT = (
    "buy now best price buy now best price buy now best price buy now best price",
    "!!!!!!!!!!!!!!!!!! SALE !!!!!!!!!!!!!!!!!! SALE !!!!!!!!!!!!!!!!!!",
    "IMG_20140712_183002.JPG",
    "#sunset #beach #travel #photooftheday #instagood #sunset #beach #travel #photooftheday",
    "$19.99 | 24 x 36 in. | #00412-B | (2/5) | *** 50% ***",
    "hahahahahahahahahahahahahahahahahahahahahahaha",
    "photo",
)
_REPEATED = tuple(f"a {look} {subject}" for look in _LOOKS[:6] for subject in _SUBJECTS[:12])


def _falling(words: list[str]) -> list[float]:
    """Cumulated falling weights: a few words are common, most are rare."""
    return list(accumulate(rank**-0.6 for rank in range(1, len(words) + 1)))


_SUBJECT_WEIGHTS, _LOOK_WEIGHTS, _VERB_WEIGHTS = map(_falling, (_SUBJECTS, _LOOKS, _VERBS))


def _thing(pick: random.Random) -> str:
    (subject,) = pick.choices(_SUBJECTS, cum_weights=_SUBJECT_WEIGHTS)
    looks = pick.choices(_LOOKS, cum_weights=_LOOK_WEIGHTS, k=int(pick.random() * 2.4))
    return " ".join([pick.choice(("a", "the", "a", "one")), *looks, subject])


def _sentence(pick: random.Random) -> str:
    (verb,) = pick.choices(_VERBS, cum_weights=_VERB_WEIGHTS)
    said = f"{_thing(pick)} {verb} {pick.choice(_PLACES)} {_thing(pick)}"
    return f"{said}, {pick.choice(_TAILS)}" if pick.random() < 0.35 else said


def caption(number: int) -> str:
    """Caption `number`: mostly one sentence, one in five a paragraph, some repeated, some dirty."""
    pick = random.Random(number)
    kind = pick.random()
    if kind < 0.03:
        return pick.choice(_REPEATED)
    if kind < 0.05:
        return pick.choice(_DIRT)
    if kind < 0.08:
        return f"{pick.choice(_FOREIGN)} {pick.randint(1, 9999)}"
    if kind < 0.09 and number > 100:
        return caption(pick.randrange(number))
    if kind < 0.80:
        return _sentence(pick)
    sentences = [_sentence(pick).capitalize() for _ in range(pick.randint(2, 9))]
    return ". ".join(sentences) + "."


def row(number: int, images: list[str]) -> dict[str, object]:
    """Row `number` in Data-Juicer's format; some paragraphs are chunks with an end each."""
    said = caption(number)
    chunks = said.split(". ", 1) if number % 50 == 0 else [said]
    tokens = "".join([IMAGE] * len(images))
    text = f"{tokens}\n" if images else ""
    text += f" {EOC} ".join(chunks) + f" {EOC}"
    found: dict[str, object] = {"id": f"{number:09d}", "text": text}
    return {**found, "images": images} if images else found


def write_text_rows(path: Path, rows: int) -> None:
    """`rows` rows without images as JSON lines, streamed; a file that is there is left alone."""
    if path.exists():
        return
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps(row(number, []), ensure_ascii=False) + "\n")
    part.replace(path)
