"""DataComp's baselines, and the hardest rows by a function of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.engine.made import lines, write_rows
from tests.ops.told_vectors import Models, Told
from vlforge.engine.config import ProcessConfig
from vlforge.engine.in_memory import run_in_memory
from vlforge.engine.local import run_process
from vlforge.ops.batch import Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes" / "datacomp"
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
SAID = ("a photo of the old town by the river", "two men with a dog on the beach", "ein Hund")


class Judging(Told):
    """The encoder of colours; a text is redder the more often it says a."""

    def embedder(self, path):
        """Itself."""
        return self

    def embed_texts(self, texts):
        """[N, 3] unit vectors."""
        return super().embed_texts([f"{text.count('a')} {len(text) / 9} 1" for text in texts])


def picture(path: Path, colour: str, seed: int = 0, size: tuple[int, int] = (240, 220)) -> str:
    draw = np.random.default_rng(seed)
    pixels = np.asarray(COLOURS[colour]) + draw.integers(-9, 9, size=(*size[::-1], 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return str(path)


def pool(folder: Path, count: int = 60) -> Path:
    """Rows of three colours and three captions, some pictures too small or too wide."""
    rows = []
    for at in range(count):
        colour, size = list(COLOURS)[at % 3], (240, 220)
        if at % 10 == 7:
            size = (190, 300) if at % 20 == 7 else (700, 210)
        image = picture(folder / f"{at}.png", colour, at, size)
        text = f"<__dj__image>\n{SAID[at * 7 % 5 % 3]} {'a ' * (at % 4)}<|__dj__eoc|>"
        rows.append({"id": str(at), "text": text, "images": [image]})
    (folder / "imagenet" / "train").mkdir(parents=True)
    for at, colour in enumerate(("red", "red", "blue")):
        picture(folder / "imagenet" / "train" / f"{at}.png", colour, 100 + at, (30, 30))
    (folder / "imagenet_classes.txt").write_text("Dog\nold  town\n\n")
    return write_rows(folder / "pool.jsonl", rows)


def kept(folder: Path, name: str) -> set[str]:
    """Ids of the rows that a recipe of the repository keeps."""
    settings = YAML(typ="safe").load(RECIPES / f"{name}.yaml")
    settings["process"] = tuple(settings["process"])
    for entry in settings["process"]:
        entry.get("image_cluster_selector", {}).pop("n_clusters", None)
    out = folder / f"out_{name}"
    run_process(ProcessConfig(**settings), out, models=Judging(), workers=1)
    return {row["id"] for row in lines(out / "data.jsonl")}


def test_the_recipes_keep_what_their_thresholds_say_and_the_last_is_an_intersection(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = lines(pool(tmp_path))
    english = {row["id"] for row in rows if "ein Hund" not in row["text"]}
    odd = {row["id"] for row in rows if int(row["id"]) % 10 == 7}
    assert kept(tmp_path, "basic") == english - odd
    top = kept(tmp_path, "clip_score")
    assert len(top) == 18
    near = kept(tmp_path, "image_based")
    assert near == {one for one in english if int(one) % 3 != 1}
    assert kept(tmp_path, "image_based_and_clip_score") == near & top
    assert top - near
    assert near - top
    assert near & top
    assert kept(tmp_path, "text_based") == english


def test_reference_vectors_do_in_place_of_pictures_and_must_fit(tmp_path):
    path = pool(tmp_path)
    (tmp_path / "x").mkdir()
    for name, table in (("ok", [[1.0, -1, -1]]), ("not", [[1.0, 0]])):
        np.save(tmp_path / f"{name}.npy", np.asarray(table, np.float32))
    items = [Item(row["id"], 0, row) for row in lines(path)]
    op = {"image_cluster_selector": {"reference": str(tmp_path / "ok.npy")}}
    ran = run_in_memory(bind([op]), items, Context(models=Models()))
    assert {int(item.uid) % 3 for item in ran.kept} == {0}
    op["image_cluster_selector"]["reference"] = str(tmp_path / "not.npy")
    with pytest.raises(RecipeError, match=r"vectors of 2 numbers, but openai/\S+ gives 3"):
        run_in_memory(bind([op]), items, Context(models=Models()))

    (tmp_path / "none.jsonl").write_text('{"question_id": 1, "image": "gone.png"}')
    op["image_cluster_selector"]["reference"] = str(tmp_path / "none.jsonl")
    with pytest.raises(RecipeError, match="holds no picture that can be read"):
        run_in_memory(bind([op]), items, Context(models=Models()))


def test_words_of_a_list_are_counted_whatever_their_case_and_marks(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("golden retriever\ncat\nBUS\n")
    (bound,) = bind([{"word_list_filter": {"words_file": str(words)}}])
    texts = ["Golden-Retriever and bus, bus", "a golden cat", "catalogue of retrievers"]
    items = [Item(str(n), n, {"text": text}) for n, text in enumerate(texts)]
    ran = run_in_memory([bound], items, Context())
    assert [item.stats["listed_entries"] for item in items] == [2, 1, 0]
    assert [item.uid for item in ran.kept] == ["0", "1"]
    with pytest.raises(RecipeError, match=r"gone\.txt cannot be read"):
        bind([{"word_list_filter": {"words_file": "gone.txt"}}])


SCORES = """
import numpy as np

def model_factory(scale=1):
    return scale

def score_fn(model, samples, images, device, power=1, bad=""):
    if any(sample["id"] == bad for sample in samples):
        raise ValueError("no loss for it")
    found = [model * np.asarray(row[0]).mean() ** power for row in images]
    return np.array([[float("nan") if s["id"] == "nan" else v] for s, v in zip(samples, found)])
"""


def test_the_hardest_rows_stay_and_a_row_that_cannot_be_scored_is_told(tmp_path):
    file = tmp_path / "loss.py"
    file.write_text(SCORES)
    grey = [40, 200, 90, 160, 10, 120]
    for at, level in enumerate(grey):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{at}.png")
    rows = [{"id": str(at), "images": [str(tmp_path / f"{at}.png")]} for at in range(6)]
    rows += [{"id": "gone", "images": ["gone.png"]}, {"id": "nan", "images": rows[0]["images"]}]
    items = [Item(row["id"], at, row) for at, row in enumerate(rows)]
    op = {"image_ohem_selector": {
        "score_file": str(file), "top_ratio": 0.9, "topk": 3, "batch_size": 3,
        "model_kwargs": {"scale": 2}, "score_kwargs": {"bad": "3"}}}  # fmt: skip
    ran = run_in_memory(bind([op]), items, Context(models=Models()))
    assert [item.uid for item in ran.kept] == ["1", "5", "2"]
    assert ran.kept[0].stats == {"image_ohem_loss": 400.0}
    reasons = {item.uid: drop.reason for item, drop in ran.dropped}
    assert reasons["3"].startswith("ValueError in loss.py, line ")
    assert reasons["gone"] == "missing image"
    assert reasons["nan"] == "loss is no finite number"
    assert reasons["0"] == reasons["4"] == "not selected"


@pytest.mark.parametrize(("keys", "said"), [
    ({}, "needs top_ratio or topk"),
    ({"topk": 3, "score_fn": None}, "needs score_file"),
    ({"topk": 3, "score_fn": "f"}, "write a score_file"),
    ({"topk": 3, "score_file": "x.txt"}, r"is not a \.py file"),
])  # fmt: skip
def test_a_selector_of_hard_rows_says_what_it_lacks(keys, said):
    with pytest.raises(RecipeError, match=said):
        bind([{"image_ohem_selector": keys}])
