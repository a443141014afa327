"""MiniGPT-4's folder in small: both stages' data, weights, prompts, configuration files.

As `vlforge fetch minigpt4` and the recipes lay it out, with MiniGPT-4's own configuration
files, whose paths are filled in as its users do. The lists' addresses lead nowhere; the
shards are what a download of them leaves, a few failures among them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.minigpt4_configs import write_configs
from vlforge.miniatures.parts.eva import (
    write_bert_words,
    write_encoders,
    write_stage,
    write_vicuna_v0,
)
from vlforge.miniatures.pictures import draw, write_picture
from vlforge.miniatures.scenes import Scene, scene
from vlforge.miniatures.weights import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

SITE = "http://images.example"
"""Where the lists' pictures are said to lie."""
LISTS = {
    "laion": "laion/laion_synthetic_filtered_large.json",
    "cc_sbu": "cc_sbu/ccs_synthetic_filtered_large.json",
}
SHARDS = 2
LOST_EVERY = 4
"""Of so many addresses one is gone, as on the web."""
PROMPTS = (
    "<Img><ImageHere></Img> Tell me in full what this picture shows.",
    "<Img><ImageHere></Img> What do you see here? Leave nothing out.",
    "<Img><ImageHere></Img> Write a long description of the photograph.",
    "<Img><ImageHere></Img> Put into words all that can be seen.",
)
_FIRST = {"laion": 0, "cc_sbu": 20_000, "align": 40_000, "second": 60_000, "eval": 80_000}
"""Numbers of the first scenes: no two sets share a picture."""


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole folder: weights/, both datasets of stage 1, cc_sbu_align/, prompts/, configs."""
    seed = int(config.seed)
    _write_weights(folder / "weights", seed)
    few = max(6, config.rows // 2)
    for name, rows in (("laion", config.rows), ("cc_sbu", few)):
        scenes = _scenes(seed, name, rows)
        _write_list(folder / LISTS[name], name, scenes)
        _write_shards(folder / f"{name}_dataset", name, scenes)
    _write_align(folder / "cc_sbu_align", _scenes(seed, "align", few))
    _write_second(folder, _scenes(seed, "second", 8))
    _write_benchmarks(folder / "eval", _scenes(seed, "eval", 6))
    prompts = folder / "prompts" / "alignment.txt"
    prompts.parent.mkdir()
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    write_configs(folder)


def _write_weights(weights: Path, seed: int) -> None:
    write_encoders(weights, seed)
    write_stage(weights / "prerained_minigpt4_7b.pth", seed)
    write_vicuna_v0(weights / "vicuna-7b", seed, PROMPTS)
    write_bert_words(weights / "bert-base-uncased")


def _scenes(seed: int, use: str, rows: int) -> list[Scene]:
    return [scene(seed, _FIRST[use] + number) for number in range(rows)]


def _address(name: str, one: Scene) -> str:
    return f"{SITE}/{name}/{one.number:06d}.jpg"


def _write_list(path: Path, name: str, scenes: list[Scene]) -> None:
    items = [{"caption": one.caption, "url": _address(name, one)} for one in scenes]
    path.parent.mkdir()
    path.write_text(json.dumps(items), encoding="utf-8")


def _write_shards(folder: Path, name: str, scenes: list[Scene]) -> None:
    """Tars, tables and counts as img2dataset leaves them."""
    folder.mkdir()
    size = -(-len(scenes) // SHARDS)
    for number in range(SHARDS):
        _write_shard(folder, number, name, scenes[number * size : (number + 1) * size])


def _write_shard(folder: Path, number: int, name: str, scenes: list[Scene]) -> None:
    from collections import Counter

    from vlforge.data.download.config import DownloadConfig
    from vlforge.data.download.shards import ShardWriter, stats_of
    from vlforge.data.download.sources import Shard

    columns = {
        "caption": [one.caption for one in scenes],
        "url": [_address(name, one) for one in scenes],
    }
    writer = ShardWriter(folder, Shard(number, columns), DownloadConfig())
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for at, (meta, content) in enumerate(_downloaded(scenes)):
        statuses[str(meta["status"])] += 1
        reasons[str(meta["error_message"] or "success")] += 1
        writer.add(at, meta, content)
    begin = 1682294400.0 + number
    writer.finish(stats_of(statuses, reasons, begin, begin + 0.5))


def _downloaded(scenes: list[Scene]) -> Iterator[tuple[dict[str, object], bytes | None]]:
    """What is known of each picture, and its file: 256 pixels a side with a white border."""
    import hashlib

    for at, one in enumerate(scenes):
        if at % LOST_EVERY == LOST_EVERY - 1:
            lost: dict[str, object] = dict.fromkeys(
                ("width", "height", "original_width", "original_height", "exif", "sha256")
            )
            yield lost | {"status": "failed_to_download", "error_message": "HTTP 404"}, None
            continue
        picture = draw(one)
        original = _jpeg(picture)
        content = _jpeg(_bordered(picture))
        sizes = {"original_width": picture.width, "original_height": picture.height}
        meta: dict[str, object] = {"status": "success", "error_message": None} | sizes
        meta |= {"width": 256, "height": 256, "exif": "{}"}
        yield meta | {"sha256": hashlib.sha256(original).hexdigest()}, content


def _bordered(picture: Image) -> Image:
    from PIL import Image as pillow

    scale = 256 / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    white = pillow.new(picture.mode, (256, 256), 255 if picture.mode == "L" else (255, 255, 255))
    white.paste(picture.resize(size), ((256 - size[0]) // 2, (256 - size[1]) // 2))
    return white


def _jpeg(picture: Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    return content.getvalue()


def _write_align(folder: Path, scenes: list[Scene]) -> None:
    """`filter_cap.json` and `image/N.jpg`; the numbers have gaps, as those that were struck."""
    annotations = []
    for number, one in enumerate(scenes):
        key = str(2 + 3 * number)
        write_picture(folder / "image" / f"{key}.jpg", one)
        annotations.append({"image_id": key, "caption": one.description})
    (folder / "filter_cap.json").write_text(
        json.dumps({"annotations": annotations}), encoding="utf-8"
    )


def _write_second(folder: Path, scenes: list[Scene]) -> None:
    """Pictures to be described for a second stage of one's own."""
    lines = []
    for number, one in enumerate(scenes):
        path = write_picture(folder / "cc_pictures" / f"{number:05d}.jpg", one)
        row = {
            "id": f"{number:05d}",
            "text": "<__dj__image>",
            "images": [f"cc_pictures/{path.name}"],
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "cc_pictures.jsonl").write_text("".join(lines), encoding="utf-8")


def _write_benchmarks(folder: Path, scenes: list[Scene]) -> None:
    """GQA's questions and COCO's captions over pictures that no stage shows."""
    questions, images, captions = {}, [], []
    for number, one in enumerate(scenes):
        write_picture(folder / "gqa" / "images" / f"{number}.jpg", one)
        for place, (question, answer) in enumerate(one.questions()):
            questions[f"{number:04d}{place}"] = {
                "question": question, "imageId": str(number), "answer": answer,
                "fullAnswer": answer, "isBalanced": True, "groups": {"global": None, "local": ""},
                "types": {"structural": "query", "semantic": "attr", "detailed": "attr"},
                "semantic": [],
            }  # fmt: skip
        write_picture(folder / "coco" / "val2017" / f"{number:012d}.jpg", one)
        images.append({"id": number, "file_name": f"{number:012d}.jpg"})
        captions += [
            {"id": 2 * number + place, "image_id": number, "caption": text}
            for place, text in enumerate((one.caption, one.description.split(". ")[0]))
        ]
    write_json(folder / "gqa" / "testdev_balanced_questions.json", questions)
    write_json(
        folder / "coco" / "captions_val2017.json", {"images": images, "annotations": captions}
    )
