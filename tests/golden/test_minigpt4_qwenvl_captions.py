"""BLIP-2 captions as Data-Juicer's mapper puts them into rows, with a recorded generator."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlforge.engine.in_memory import run_in_memory
from vlforge.inference.captioners import CAPTION_TOKENS
from vlforge.inference.scripted import ScriptedModels, fingerprint
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Caption, RecipeError

GOLDEN = {"caption_file": "minigpt4_qwenvl/caption_mapper*/*.json"}
OP = "image_captioning_mapper"


@dataclass
class Recorded:
    """Captions of the recorded generator, which counts its calls over all chunks of all rows."""

    script: dict[tuple[str, int], str]
    names: dict[str, str]
    chunks: list[tuple[list[str], list[str] | None, list[dict[str, Any]]]]
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    drawn: set[bool] = field(default_factory=set)

    def caption(self, images, prompts, count, keys, all_drawn=False):
        """Candidates of pictures, which come in the order of the recording."""
        found = []
        for image, prompt in zip(images, prompts, strict=True):
            name = self.names[fingerprint(image)]
            first = self._first_call(len(self.asked))
            self.asked.append((name, prompt))
            texts = [self.script.get((name, first + k), "unrecorded") for k in range(count)]
            found.append([Caption(text, 0.0) for text in texts])
        self.drawn.add(all_drawn)
        return found

    def _first_call(self, picture: int) -> int:
        """The number of the first call for the chunk that a picture stands in."""
        call = 0
        for images, _, generated in self.chunks:
            picture -= len(images)
            if picture < 0:
                return call
            call += len(generated)
        return call


def recording(case: Any, folder: Path) -> Recorded:
    """The case's generator; its pictures are made here, each of a colour of its own."""
    chunks: list[Any] = []
    for call in case["processor_calls"]:
        if "n_images" in call:
            assert call["n_images"] == len(call["images"])
            chunks.append((call["images"], call["text"], []))
        else:
            chunks[-1][2].append(call)
    used = {name for row in case["samples"].get("images", ()) for name in row or ()}
    names = {}
    for number, name in enumerate(sorted(used | {one["image"] for one in case["script"]})):
        image = Image.new("RGB", (8, 8), (number % 256, number // 256, 50))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name, "PNG")
        names[fingerprint(image)] = name
    script = {(one["image"], one["call"]): one["caption"] for one in case["script"]}
    return Recorded(script, names, chunks)


def rows_of(case: Any, folder: Path) -> list[dict[str, Any]]:
    """The batch's columns as rows, pictures below `folder`."""
    columns = case["samples"]
    count = len(next(iter(columns.values())))
    rows = [{key: values[place] for key, values in columns.items()} for place in range(count)]
    for row in rows:
        if row.get("images"):
            row["images"] = [str(folder / name) for name in row["images"]]
    return rows


@dataclass
class Outcome:
    """What became of a case's rows."""

    kept: list[dict[str, Any]]
    drops: dict[int, str]
    told: Recorded


def run_case(case: Any, folder: Path) -> Outcome:
    """The case through the operator as Data-Juicer has it."""
    bound = bind([{OP: {**case["kwargs"], "compat": "data_juicer"}}])
    told = recording(case, folder)
    models = ScriptedModels({bound[0].op.hf_img2seq: told})
    items = [Item(str(n), n + 1, row) for n, row in enumerate(rows_of(case, folder))]
    ran = run_in_memory(bound, items, Context(seed=case["python_seed"], models=models))
    kept = [dict(item.row) for item in ran.kept]
    for row in kept:
        if row.get("images"):
            row["images"] = [path.removeprefix(f"{folder}/") for path in row["images"]]
    drops = {int(item.uid.split("/")[0]): drop.reason for item, drop in ran.dropped}
    return Outcome(kept, drops, told)


def test_rows_are_those_of_the_reference(caption_file: Path, tmp_path: Path):
    cases = json.loads(caption_file.read_text(encoding="utf-8"))
    assert cases
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        error = case["error"] or ""
        if error.startswith("ValueError"):
            with pytest.raises(RecipeError, match=OP):
                run_case(case, folder)
            continue
        out = run_case(case, folder)
        if error:
            assert_only_faulty_rows_are_lost(case, out)
        else:
            assert_same_rows(case, out)


def assert_same_rows(case: Any, out: Outcome) -> None:
    """Rows, and what model and processor were given for them."""
    told = out.told
    recorded = [
        (name, None if texts is None else texts[place])
        for names, texts, _ in told.chunks
        for place, name in enumerate(names)
    ]
    assert told.asked == recorded, case["kwargs"]
    generated = [call for _, _, calls in told.chunks for call in calls]
    wanted = {"max_new_tokens": CAPTION_TOKENS, "do_sample": True}
    assert all(call == wanted for call in generated)
    assert told.drawn <= {True}
    count = len(next(iter(case["output"].values())))
    expected = [{key: values[n] for key, values in case["output"].items()} for n in range(count)]
    assert out.kept == expected, case["kwargs"]
    assert all(reason == "no image to caption" for reason in out.drops.values())


def assert_only_faulty_rows_are_lost(case: Any, out: Outcome) -> None:
    """Where the reference loses all rows with an error, the rows at fault say what is wrong."""
    keeps = case["kwargs"].get("keep_original_sample", True)
    faults = {}
    for place, row in enumerate(rows_of(case, Path("."))):
        tokens = row["text"].count("<__dj__image>")
        if row.get("images") and tokens > len(row["images"]):
            faults[place] = "image tokens do not match images"
        elif not row.get("images") and not keeps:
            faults[place] = "no image to caption"
    assert faults or not case["error"].startswith("IndexError"), case["error"]
    assert out.drops == faults
