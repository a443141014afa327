"""Makes sound picture-caption pairs as dirty as web data, with the fault of each row known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict

from PIL import Image

from vlforge.quickstart.config import FaultShares
from vlforge.quickstart.render import SIDE
from vlforge.quickstart.scene import AltText, Scene, alt_text
from vlforge.types import VLForgeError

PICTURE_FAULTS = ("blank", "tiny", "banner")
MENDABLE_FAULTS = ("mojibake", "link")


def plan_faults(rng: random.Random, rows: int, shares: FaultShares) -> list[str | None]:
    """One fault or None per row, in the stated shares rounded to whole rows.

    The first row is never a duplicate, since nothing stands before it.
    """
    named = [(name, round(share * rows)) for name, share in asdict(shares).items()]
    faults: list[str | None] = [name for name, count in named for _ in range(count)]
    if len(faults) > rows:
        total = sum(asdict(shares).values())
        raise VLForgeError(f"faults: shares sum to {total:.2f}; lower them to 1 or less in all")
    faults += [None] * (rows - len(faults))
    rng.shuffle(faults)
    if faults and faults[0] == "duplicate":
        other = next((i for i, fault in enumerate(faults) if fault != "duplicate"), 0)
        faults[0], faults[other] = faults[other], faults[0]
    return faults


def spoil_text(rng: random.Random, fault: str | None, scene: Scene, others: Sequence[Scene]) -> str:
    """The caption of a row about `scene` with `fault`; `others` lend swapped captions."""
    if fault == "swapped":
        return _caption_of_another(rng, scene, others).text
    if fault == "unrelated":
        return rng.choice(_UNRELATED).format(_number(rng))
    if fault == "boilerplate":
        return rng.choice(_BOILERPLATE).format(_number(rng))
    text = alt_text(rng, scene).text
    if fault == "cut_off":
        return text[: rng.randint(2, 8)].rstrip()
    if fault == "mojibake":
        return f"{text}{rng.choice(_MOJIBAKE)}"
    if fault == "link":
        return f"{text} {rng.choice(_LINKS).format(_number(rng))}"
    return text


def spoil_picture(rng: random.Random, fault: str | None, picture: Image.Image) -> Image.Image:
    """The picture of a row with `fault`; unchanged where the fault is in the text."""
    if fault == "blank":
        return Image.new("RGB", picture.size, tuple(rng.randrange(256) for _ in range(3)))
    if fault == "tiny":
        side = rng.randint(6, 10)
        thumbnail = picture.resize((side, side), Image.Resampling.BOX)
        if rng.random() < 0.5:
            return thumbnail
        return thumbnail.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    if fault == "banner":
        height = rng.randint(6, 12)
        top = rng.randint(0, SIDE - height)
        return picture.crop((0, top, SIDE, top + height))
    return picture


def _caption_of_another(
    rng: random.Random, scene: Scene, others: Sequence[Scene], tries: int = 100
) -> AltText:
    """An alt text of one of `others` that is not by chance true of `scene`."""
    for _ in range(tries):
        text = alt_text(rng, rng.choice(others))
        if not text.holds_for(scene):
            return text
    raise VLForgeError(
        f"swapped captions: {len(others)} scenes are too few to find a false caption; "
        "raise seed_rows or set faults.swapped to 0"
    )


def _number(rng: random.Random) -> int:
    return rng.randint(10, 9999)


_UNRELATED = (
    "best hotel deals in the old town from {} euros a night",
    "my grandmother's recipe for lentil soup, part {}",
    "board meeting minutes of the county council, page {}",
    "spring collection number {} now in our stores",
    "how we drove {} miles across the desert with two dogs",
    "signed photograph of the orchestra after concert {}",
    "weather for tomorrow: rain from the north, {} metres visibility",
    "used van for sale, {} kilometres, one owner",
    "lecture {}: an introduction to soil chemistry",
    "the mayor opens bridge {} after four years of work",
)
_BOILERPLATE = (
    "click here to enlarge click here to enlarge click here to enlarge {}",
    "buy now buy now buy now buy now buy now buy now {}",
    "*** $$$ >>> {}% OFF !!! <<< $$$ ***",
    "=== [[ {} ]] === ||| ~~~ ### ~~~ ||| ===",
    "IMG_{}.JPG",
    "DSC{}.png",
    "read more read more read more read more read more {}",
    "&nbsp;&nbsp;| {} |&nbsp;&nbsp;|&nbsp;&gt;&gt;&gt;",
)
_MOJIBAKE = tuple(
    text.encode("utf-8").decode("windows-1252", errors="ignore")
    for text in (" – café", " … naïve", " © müller", " ‘fête’")
)
"""What UTF-8 looks like where a page was read as Windows-1252."""
_LINKS = (
    "https://pictures.example.com/view?id={}",
    "http://shop.example.org/item/{}",
    "www.example.net/{}.html",
)
