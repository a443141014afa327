"""Benchmarks are kept out of the data: pictures by their looks, texts by runs of words."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from PIL import Image

from tests.engine.made import config, lines, write_picture, write_rows
from tests.ops.told_vectors import Models
from vlforge.engine.local import run_process
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import DataError, Drop, RecipeError

OP = "benchmark_overlap_filter"
QUESTION = "Which of the three red buses stands nearest to the old stone bridge by the river?"


def measured(rows, **keys):
    """What the filter finds of each row, and whether it stays."""
    (bound,) = bind([{OP: keys}])
    batch = Batch([Item(f"u{n}", n, r) for n, r in enumerate(rows)], Context(models=Models()))
    batch.files.viewers = (bound.op,)
    (found,) = bound.op.measure(batch)
    return found, [not isinstance(one, Drop) and bound.op.keep(one) for one in found]


def row(text="", *images):
    return {"text": text, "images": list(map(str, images))}


def noisy(path, target, seed=0):
    """The picture with a little noise, as another jpeg."""
    pixels = np.asarray(Image.open(path).convert("RGB"), float)
    noise = np.random.default_rng(seed).normal(size=pixels.shape) * 3
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(target, quality=60)
    return target


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "bench").mkdir()
    ours = [write_picture(tmp_path / "bench" / f"{n}.png", seed=n) for n in (0, 4, 8)]
    return [*ours, write_picture(tmp_path / "other.png", (60, 90), seed=15)]


def forms(tmp_path, pictures):
    """The same benchmark as a folder, MMBench's table and a question file."""
    table = tmp_path / "mmbench.tsv"
    coded = base64.b64encode(pictures[1].read_bytes()).decode()
    table.write_text(f"index\tquestion\tA\timage\n1\t{QUESTION}\tleft\t{coded}\n2\tq\tb\t1\n")
    questions = tmp_path / "pope.jsonl"
    told = {"question_id": 1, "image": "4.png", "text": QUESTION}
    questions.write_text(json.dumps(told) + "\n")
    llava = tmp_path / "llava.json"
    said = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": "It."}]
    llava.write_text(json.dumps([{"id": "1", "image": "bench/4.png", "conversations": said}]))
    return {
        "folder": str(tmp_path / "bench"),
        "table": str(table),
        "questions": f"{questions}={tmp_path / 'bench'}",
        "dataset": str(llava),
    }


@pytest.mark.parametrize("form", ["folder", "table", "questions", "dataset"])
def test_a_picture_of_any_form_of_benchmark_is_found_again_after_a_new_encoding(
    tmp_path, pictures, form
):
    again = noisy(pictures[1], tmp_path / "copy.jpg")
    rows = [row("a", again), row("b", pictures[3]), row("c"), row("d", pictures[3], pictures[1])]
    found, stays = measured(rows, benchmarks=[forms(tmp_path, pictures)[form]])
    assert stays == [False, True, True, False]
    assert found[0][0].startswith("picture: ")
    assert found[3][0].endswith("(0 bits)")


def test_a_text_is_found_by_a_run_of_its_words(tmp_path, pictures):
    told = forms(tmp_path, pictures)["questions"]
    rows = [row(f"[[human]]: <__dj__image>\n{QUESTION.upper()} !"),
            row(QUESTION.replace("three", "two")),
            row("Which of the three red buses?")]  # fmt: skip
    found, stays = measured(rows, benchmarks=[told], by="texts")
    assert stays == [False, True, True]
    assert found[0] == ["text: pope.jsonl row 1"]
    assert measured(rows, benchmarks=[told], by="texts", ngram=8)[1] == [False, False, True]
    assert measured(rows, benchmarks=[told], by="texts", ngram=5, min_words=5)[1] == [False] * 3


def test_both_asks_for_picture_and_text_together(tmp_path, pictures):
    told = forms(tmp_path, pictures)["questions"]
    rows = [row(QUESTION, pictures[1]), row(QUESTION, pictures[3]), row("x", pictures[1]), row("x")]
    for by, stays in (("both", [0, 1, 1, 1]), ("either", [0, 0, 0, 1]), ("images", [0, 1, 0, 1])):
        assert measured(rows, benchmarks=[told], by=by)[1] == list(map(bool, stays))


def test_embeddings_find_what_the_hash_does_not(tmp_path, pictures):
    turned = tmp_path / "turned.png"
    Image.open(pictures[1]).rotate(180).save(turned)
    told = forms(tmp_path, pictures)["questions"]
    assert measured([row("x", turned)], benchmarks=[told])[1] == [True]
    found, stays = measured([row("x", turned)], benchmarks=[told], hf_clip="clip",
                            max_similarity=0.999)  # fmt: skip
    assert stays == [False]
    assert "cosine 1.000" in found[0][0]


def test_the_run_says_which_benchmark_and_a_bad_picture_costs_its_row(tmp_path, pictures):
    rows = [{"id": str(n), **row("x", one)} for n, one in enumerate([*pictures, "gone.jpg"])]
    path = write_rows(tmp_path / "a.jsonl", rows)
    settings = config(path, {OP: {"benchmarks": [forms(tmp_path, pictures)["table"]]}})
    run_process(settings, tmp_path / "out")
    assert [one["id"] for one in lines(tmp_path / "out" / "data.jsonl")] == ["0", "2", "3"]
    dropped = [(d["reason"], d["value"]) for d in lines(tmp_path / "out" / "dropped.jsonl")]
    assert dropped[0] == ("in a benchmark", ["picture: mmbench.tsv row 2 (0 bits)"])
    assert dropped[1][0] == "missing image"


def test_a_benchmark_that_is_not_there_or_holds_nothing_is_told(tmp_path):
    with pytest.raises(RecipeError, match=r"no such file or folder: gone\.tsv"):
        bind([{OP: {"benchmarks": ["gone.tsv"]}}])
    empty = tmp_path / "q.jsonl"
    empty.write_text('{"question_id": 1, "text": "short one"}\n')
    with pytest.raises(RecipeError, match="holds nothing to compare by images"):
        measured([row("x")], benchmarks=[str(empty)])


def test_a_picture_of_a_benchmark_that_cannot_be_read_ends_the_run(tmp_path):
    questions = tmp_path / "pope.jsonl"
    questions.write_text('{"question_id": 1, "image": "gone.png", "text": "Is there a cat?"}\n')
    with pytest.raises(DataError, match=r"pope\.jsonl row 1: .*gone\.png.*PATH=FOLDER"):
        measured([row("x")], benchmarks=[str(questions)])
