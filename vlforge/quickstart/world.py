"""Renders the quickstart's world: pictures with known truth, dirty, clean and for questions."""

from __future__ import annotations

import json
import os
import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlforge.quickstart import benchmarks, noise, questions
from vlforge.quickstart.config import WorldConfig
from vlforge.quickstart.render import draw_picture, png_bytes
from vlforge.quickstart.scene import Scene, SceneSource, full_caption, inventory
from vlforge.quickstart.words import WORDS_OF, draw_word
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN, LLAVA_IMAGE_TOKEN, ProgressFn, no_progress

TURNS = 2
"""Question-answer turns per instruction picture."""
TEXT_CODES = 0.8
"""Share of the words in texts that are random letters, so that the decoder copies letters."""
SPELLED_WORDS = 6
"""Words of one list of signs."""
TEXT_TURNS = 4
"""Question-answer turns per described scene."""


def render_world(
    config: WorldConfig, out: Path, *, seed: int, progress: ProgressFn = no_progress
) -> dict[str, int]:
    """Write every set of the world into `out`; equal arguments write equal bytes.

    Files: `images/*.png`, `seed.jsonl` and `clean.jsonl` (dj), `instruct.json`
    (LLaVA), `text.jsonl`, `truth.jsonl`, and in `dev/` and `test/` the files
    `textvqa_questions.jsonl`, `textvqa_annotation.json`, `mmbench.tsv`,
    `groups.json`. No scene stands in two sets; the words of `dev/` and `test/`
    called never seen stand in no other set.

    Returns:
        Rows per set.
    """
    world = _World(config, out, seed if config.seed == "auto" else config.seed, progress)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for split in ("dev", "test"):
        world.write_benchmarks(split)
    world.write_clean()
    world.write_instruct()
    world.write_seed()
    world.write_text()
    return world.rows


@dataclass
class _Spot:
    """Where one picture's random numbers come from, independent of all other pictures."""

    words: random.Random
    pixels: np.random.Generator


class _World:
    """One rendering: draws scenes that are new to every set and writes the files."""

    def __init__(self, config: WorldConfig, out: Path, seed: int, progress: ProgressFn) -> None:
        self.config, self.out, self.seed, self.progress = config, out, seed, progress
        self.source = SceneSource()
        self.rows: dict[str, int] = {}
        counted = ("seed_rows", "clean_rows", "instruct_rows", "dev_rows", "test_rows")
        self.total = sum(getattr(config, name) for name in counted)
        self.drawn = 0

    def write_benchmarks(self, split: Literal["dev", "test"]) -> None:
        """Pictures and questions of one benchmark split."""
        count = self.config.dev_rows if split == "dev" else self.config.test_rows
        unseen = round(self.config.unseen_word_share * count)
        pictures = []
        for row in range(count):
            words = WORDS_OF[split if row < unseen else "train"]
            scene, png = self._picture(split, row, words)
            name = f"{split}_{row:05d}"
            seen = None if scene.word is None else row >= unseen
            pictures.append(benchmarks.Pictured(name, scene, png, seen))
        rng = self._rng(split, "questions")
        rng.shuffle(pictures)
        lines, annotation, groups = benchmarks.textvqa_files(pictures)
        words = (*WORDS_OF["train"], *WORDS_OF[split])
        folder = self.out / split
        folder.mkdir(exist_ok=True)
        _write(folder / "textvqa_questions.jsonl", lines)
        _write(folder / "textvqa_annotation.json", annotation)
        _write(folder / "groups.json", json.dumps(groups, indent=1))
        _write(folder / "mmbench.tsv", benchmarks.mmbench_tsv(rng, pictures, words, split))
        self.rows[split] = count

    def write_clean(self) -> None:
        """Pictures with full, true captions."""
        rows = []
        for row in range(self.config.clean_rows):
            scene, _ = self._picture("clean", row, WORDS_OF["train"])
            rows.append(_dj_row(f"clean_{row:05d}", full_caption(scene)))
        self._write_rows("clean", rows)

    def write_instruct(self) -> None:
        """Conversations of `TURNS` questions about each picture, as LLaVA json."""
        words, rows = WORDS_OF["train"], []
        for row in range(self.config.instruct_rows):
            scene, _ = self._picture("instruct", row, words)
            turns = _turns(self._rng("instruct", f"{row}/questions"), scene, words)
            first, *rest = turns
            turns = [(f"{LLAVA_IMAGE_TOKEN}\n{first[0]}", first[1]), *rest]
            name = f"instruct_{row:05d}"
            said = [
                {"from": who, "value": text}
                for turn in turns
                for who, text in zip(("human", "gpt"), turn, strict=True)
            ]
            rows.append({"id": name, "image": f"images/{name}.png", "conversations": said})
        _write(self.out / "instruct.json", json.dumps(rows, indent=1))
        self.rows["instruct"] = len(rows)

    def write_seed(self) -> None:
        """Pictures with alt texts, dirtied; `truth.jsonl` names each row's fault."""
        count, words = self.config.seed_rows, WORDS_OF["train"]
        faults = noise.plan_faults(self._rng("seed", "faults"), count, self.config.faults)
        scenes = [self._scene("seed", row, words) for row in range(count)]
        rows: list[dict[str, Any]] = []
        truth: list[dict[str, Any]] = []
        for row, (fault, scene) in enumerate(zip(faults, scenes, strict=True)):
            name, rng = f"seed_{row:05d}", self._rng("seed", f"{row}/fault")
            if fault == "duplicate":
                earlier = rng.choice([i for i in range(row) if faults[i] != "duplicate"])
                scene, text = scenes[earlier], rows[earlier]["text"]
                png = (self.out / "images" / f"seed_{earlier:05d}.png").read_bytes()
                (self.out / "images" / f"{name}.png").write_bytes(png)
                rows.append({**_dj_row(name, ""), "text": text})
            else:
                self._draw("seed", row, scene, fault)
                text = noise.spoil_text(rng, fault, scene, scenes)
                rows.append(_dj_row(name, text))
            truth.append({"id": name, "fault": fault, "scene": scene.as_json()})
        self._write_rows("seed", rows)
        _write_lines(self.out / "truth.jsonl", truth)

    def write_text(self) -> None:
        """Captions and question-answer texts of scenes that no picture shows.

        An inventory of the scene stands where the picture's tokens will stand,
        so that aligning only has to make tokens that mean the same. `supervised`
        has the character spans worth learning: not what nobody can foresee.
        """
        words, lines = WORDS_OF["train"], []
        for row in range(self.config.text_rows):
            rng = self._rng("text", str(row))
            scene = self.source.draw(rng, words, self.config.word_share, TEXT_CODES)
            if row % 4 == 0:
                pieces = _spelled(rng, words)
            elif row % 4 == 1:
                pieces = [(f"{inventory(rng, scene)} ", False), (f"{full_caption(scene)}\n", True)]
            else:
                pieces = _spoken(rng, scene, words)
            lines.append(_text_row(pieces))
        _write_lines(self.out / "text.jsonl", lines)
        self.rows["text"] = len(lines)

    def _picture(self, kind: str, row: int, words: Sequence[str]) -> tuple[Scene, bytes]:
        scene = self._scene(kind, row, words)
        return scene, self._draw(kind, row, scene, None)

    def _scene(self, kind: str, row: int, words: Sequence[str]) -> Scene:
        codes = 0.0 if kind in ("dev", "test") else self.config.code_share
        rng = self._rng(kind, f"{row}/scene")
        return self.source.draw(rng, words, self.config.word_share, codes)

    def _draw(self, kind: str, row: int, scene: Scene, fault: str | None) -> bytes:
        key = zlib.crc32(f"{kind}/{row}".encode())
        picture = draw_picture(
            scene,
            np.random.default_rng([self.seed, key]),
            letter_scale=self.config.letter_scale,
            noise=self.config.noise,
        )
        picture = noise.spoil_picture(self._rng(kind, f"{row}/spoil"), fault, picture)
        png = png_bytes(picture)
        (self.out / "images" / f"{kind}_{row:05d}.png").write_bytes(png)
        self.drawn += 1
        if self.drawn % 100 == 0:
            self.progress(self.drawn, self.total, "pictures")
        return png

    def _rng(self, kind: str, use: str) -> random.Random:
        return random.Random(f"{self.seed}/{kind}/{use}")

    def _write_rows(self, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
        _write_lines(self.out / f"{kind}.jsonl", rows)
        self.rows[kind] = len(rows)


def _turns(rng: random.Random, scene: Scene, words: Sequence[str]) -> list[tuple[str, str]]:
    """`TURNS` questions of different kinds, the printed word among them where there is one."""
    kinds = list(questions.kinds_for(scene))
    chosen = rng.sample(kinds, TURNS)
    if scene.word and "word" not in chosen:
        chosen[rng.randrange(TURNS)] = "word"
    return [questions.exchange(rng, scene, kind, words) for kind in chosen]


def _spoken(rng: random.Random, scene: Scene, words: Sequence[str]) -> list[tuple[str, bool]]:
    """`TEXT_TURNS` questions about an inventory; the answers are worth learning."""
    pieces = [(f"USER: {inventory(rng, scene)}\n", False)]
    for place, kind in enumerate(rng.sample(questions.kinds_for(scene), TEXT_TURNS)):
        asked, answer = questions.exchange(rng, scene, kind, words, choices=0.25, bare=0.75)
        opening = "USER: " if place else ""
        pieces += [(f"{opening}{asked} ASSISTANT:", False), (f" {answer}</s>", True)]
    return pieces


def _spelled(rng: random.Random, words: Sequence[str]) -> list[tuple[str, bool]]:
    """A list of words, said twice: copying letters is most of what reading asks of a decoder."""
    signs = ", ".join(draw_word(rng, words, TEXT_CODES) for _ in range(SPELLED_WORDS))
    return [(f"signs: {signs}.", False), (f" the words are {signs}.\n", True)]


def _text_row(pieces: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    text, spans = "", []
    for piece, supervised in pieces:
        if supervised:
            spans.append([len(text), len(text) + len(piece)])
        text += piece
    return {"text": text, "supervised": spans}


def _dj_row(name: str, text: str) -> dict[str, Any]:
    said = f"{IMAGE_TOKEN} {text} {EOC_TOKEN}"
    return {"id": name, "text": said, "images": [f"images/{name}.png"]}


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _write(path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or is not there."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8", newline="")
    os.replace(draft, path)
