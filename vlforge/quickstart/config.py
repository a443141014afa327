"""The `render` and `photos` stages: a made world and a folder of real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FaultShares:
    """Shares of the seed rows that carry each fault; the rest is sound.

    swapped: the caption of another picture. unrelated: a caption of nothing in
    this world. boilerplate: buttons, shouting, file names. cut_off: the first
    few characters only. blank: a picture of one colour. tiny: a thumbnail, half
    of them scaled up again. banner: a strip a few pixels high. duplicate:
    picture and text of an earlier row. mojibake and link: a sound caption that
    mappers can mend.
    """

    swapped: float = 0.22
    unrelated: float = 0.06
    boilerplate: float = 0.06
    cut_off: float = 0.04
    blank: float = 0.03
    tiny: float = 0.03
    banner: float = 0.01
    duplicate: float = 0.06
    mojibake: float = 0.03
    link: float = 0.03


@dataclass(frozen=True)
class WorldConfig:
    """Sizes of the rendered sets, in rows, and how hard their pictures are.

    `unseen_word_share` is the share of dev and test pictures whose word no
    training picture or text shows. `word_share` is the share of pictures with a
    printed word; on training pictures a share `code_share` of those words are
    random letters, so that reading has to rest on letters. `letter_scale` is
    the size of a font pixel in picture pixels. `noise` is the deviation of the
    light noise in grey levels.
    """

    seed_rows: int = 5000
    clean_rows: int = 300
    instruct_rows: int = 600
    dev_rows: int = 250
    test_rows: int = 250
    text_rows: int = 10000
    unseen_word_share: float = 0.3
    word_share: float = 0.85
    code_share: float = 0.5
    letter_scale: int = 2
    noise: float = 6.0
    faults: FaultShares = FaultShares()
    seed: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class PhotosConfig:
    """The `photos` stage: where the photographs are and how they are asked about.

    `path` is a folder with `photos.json` (pictures, captions, questions),
    `seed.jsonl` (dj rows over the same pictures) and the pictures themselves.
    `short` follows every question whose answer is a word or a phrase, in
    training and in the benchmark alike.
    """

    path: str
    short: str = "Answer the question using a single word or phrase."
    describe: str = "Describe the picture."
