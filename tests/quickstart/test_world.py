"""The rendered world: its truth holds, its faults have their shares, nothing leaks between sets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vlforge.data.detect import read_samples
from vlforge.evaluation.benchmarks import mmbench, textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.quickstart.config import FaultShares, WorldConfig
from vlforge.quickstart.words import WORDS_OF
from vlforge.quickstart.world import render_world

SMALL = WorldConfig(
    seed_rows=400, clean_rows=40, instruct_rows=40, dev_rows=30, test_rows=30, text_rows=80
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world")
    render_world(SMALL, out, seed=3)
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def test_equal_seeds_draw_equal_bytes_and_others_do_not(tmp_path):
    tiny = WorldConfig(
        seed_rows=20, clean_rows=5, instruct_rows=5, dev_rows=4, test_rows=4, text_rows=6
    )
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        render_world(tiny, tmp_path / name, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_every_set_is_read_by_the_readers_that_users_have(world):
    rows = {name: list(read_samples(world / f"{name}.jsonl")) for name in ("seed", "clean")}
    rows["instruct"] = list(read_samples(world / "instruct.json"))
    assert [len(rows[name]) for name in ("seed", "clean", "instruct")] == [400, 40, 40]
    for sample in (sample for samples in rows.values() for sample in samples):
        (image,) = sample.images
        with Image.open(image) as picture:
            picture.load()


def test_faults_have_their_shares(world):
    counts = Counter(row["fault"] for row in lines(world / "truth.jsonl"))
    for name, share in FaultShares().__dict__.items():
        assert counts[name] == pytest.approx(share * SMALL.seed_rows, abs=1.5), name


def test_clean_captions_tell_the_truth_of_their_pictures(world):
    for row in lines(world / "clean.jsonl"):
        ground = re.search(r"the ground is (\w+)\.", row["text"])[1]
        with Image.open(world / row["images"][0]) as picture:
            grey = picture.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert {"white": grey > 120, "grey": 70 < grey < 190, "black": grey < 140}[ground]


def test_no_picture_stands_in_two_sets_but_for_the_seed_sets_duplicates(world):
    sets = Counter()
    for path in (world / "images").glob("*.png"):
        sets[hashlib.sha256(path.read_bytes()).hexdigest(), path.name.split("_")[0]] += 1
    owners = Counter(content for content, _ in sets)
    assert max(owners.values()) == 1


def test_words_called_never_seen_stand_in_no_training_file(world):
    training = "".join(
        (world / name).read_text(encoding="utf-8")
        for name in ("seed.jsonl", "clean.jsonl", "instruct.json", "text.jsonl")
    )
    seen = set(re.findall(r"\b[A-Z]{3,4}\b", training))
    for split in ("dev", "test"):
        groups = json.loads((world / split / "groups.json").read_text())
        answers = {
            entry["image_id"]: entry["answers"][0].upper()
            for entry in json.loads((world / split / "textvqa_annotation.json").read_text())["data"]
        }
        never = {answers[name] for name in groups["words never seen"]}
        assert never
        assert not never & seen
        assert never <= set(WORDS_OF[split])


def test_splits_share_no_held_out_word():
    train, dev, test = (set(WORDS_OF[name]) for name in ("train", "dev", "test"))
    assert not train & dev
    assert not train & test
    assert not dev & test


def test_benchmark_files_read_as_textvqa_and_mmbench(world):
    folder = world / "test"
    reading = textvqa.read(
        BenchmarkSpec(
            "textvqa",
            str(folder / "textvqa_questions.jsonl"),
            annotation=str(folder / "textvqa_annotation.json"),
            images=str(world / "images"),
        )
    )
    assert all(len(question.answers) == 10 for question in reading)
    said = {question.id: question.answers[0] for question in reading}
    assert textvqa.score(reading, said, "auto").fields["score"] == 1.0
    choices = mmbench.read(BenchmarkSpec("mmbench", str(folder / "mmbench.tsv")))
    right = {question.id: question.answers[0] for question in choices}
    fields = mmbench.score(choices, right, "auto").fields
    assert fields["score"] == 1.0
    assert fields["incomplete"] == 0


def test_every_rotation_moves_the_answer_and_keeps_the_options(world):
    text = (world / "test" / "mmbench.tsv").read_text(encoding="utf-8")
    groups: dict[int, list[dict]] = {}
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    assert len(groups) == SMALL.test_rows
    for rows in groups.values():
        options = [[row[letter] for letter in "ABCD" if row[letter]] for row in rows]
        assert len(rows) == len(options[0]) == len({tuple(option) for option in options})
        assert len({frozenset(option) for option in options}) == 1
        assert len({row[row["answer"]] for row in rows}) == 1


def test_marked_characters_lie_within_their_texts(world):
    for row in lines(world / "text.jsonl"):
        for start, end in row.get("supervised", ()):
            assert 0 <= start < end <= len(row["text"])
