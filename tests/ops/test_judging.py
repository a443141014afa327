"""Filters by what models see: scores go where they belong, one forward serves all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Transpose

from vlforge.data.images import load_rgb
from vlforge.engine.block import BlockRun, Track
from vlforge.engine.plan import make_plan
from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop, ModelError, RecipeError

PICTURES = Path(__file__).parent / "pictures"
A, B, CUT = (str(PICTURES / name) for name in ("photo_a.jpg", "wide.jpg", "truncated.jpg"))
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"


class Counting:
    """Embeds by mean colours of the quarters of a picture and by letters; notes what it saw."""

    scale, bias = 50.0, -2.0

    def __init__(self):
        self.images = []
        self.texts = []

    def embed_images(self, images):
        self.images += [image.tobytes() for image in images]
        return unit([np.asarray(image.resize((2, 2))).ravel() for image in images])

    def embed_texts(self, texts):
        self.texts += texts
        return unit([[text.count(letter) + 0.1 for letter in "abcdefghijkl"] for text in texts])


def unit(vectors):
    made = np.asarray(vectors, np.float32)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


class Told:
    """A head and a classifier by fixed rules."""

    labels = ("NSFW", "normal", "watermark")

    def judge(self, vectors):
        return [10 * float(vector[0]) for vector in vectors]

    def classify_images(self, images):
        return [[image.width / 1000, 0.1, 0.9 - image.width / 1000] for image in images]


def row(text, *images, **more):
    return {"text": text, "images": list(images), **more}


def batch_of(rows, models):
    items = [Item(f"u{n}", n, dict(one)) for n, one in enumerate(rows)]
    return Batch(items, Context(models=models))


def measured(name, rows, models=None, **params):
    (bound,) = bind([{name: params}])
    models = models or ScriptedModels(others={"m": Counting(), "h": Told(), "c": Told()})
    return bound.op, bound.op.measure(batch_of(rows, models))[0]


def reasons(values):
    return [value.reason if isinstance(value, Drop) else value for value in values]


ROWS = [
    row(f"{IMAGE} abc", A),
    row(f"{IMAGE}{IMAGE} bb {EOC} {IMAGE} cab", A, B, B),
    row("no picture"),
    row(f"{IMAGE} abc", CUT),
    row(f"{IMAGE}{IMAGE} two", A, B),
]
FAMILY = [
    {"image_text_similarity_filter": {"hf_clip": "m", "min_score": -1}},
    {"image_text_similarity_filter": {"hf_clip": "m", "min_score": -1, "horizontal_flip": True}},
    {"image_aesthetics_filter": {"hf_clip": "m", "head": "h", "min_score": -1}},
    {"image_nsfw_filter": {"hf_clip": "m", "head": "h", "max_score": 99}},
    {"image_watermark_filter": {"hf_clip": "m", "head": "h", "prob_threshold": 99}},
    {"image_pair_similarity_filter": {"hf_clip": "m", "min_score": -1}},
]


def through(process, rows, embedder):
    """A block of rows taken through operators, as the engine does."""
    models = ScriptedModels(others={"m": embedder, "h": Told()})
    plan = make_plan(bind(process))
    tracks = [Track(Item(f"u{n}", n, dict(one))) for n, one in enumerate(rows)]
    (only,) = plan.passes
    run = BlockRun(tracks, Context(models=models), only.steps)
    run.run()
    return run.tracks


def test_one_forward_per_distinct_picture_serves_all_operators_of_a_block():
    embedder = Counting()
    alive = [track for track in through(FAMILY, ROWS, embedder) if track.drop is None]
    assert len(alive[0].item.stats) == 5
    assert sorted(embedder.images) == sorted(
        image.tobytes()
        for path in (A, B)
        for image in (load_rgb(path), load_rgb(path).transpose(Transpose.FLIP_LEFT_RIGHT))
    )
    assert embedder.texts == ["abc", "bb", "cab", "two"]
    through(FAMILY, ROWS, embedder)
    assert len(embedder.images) == 8, "the next block starts with no memory"


def test_operators_together_measure_what_each_measures_alone():
    together = through(FAMILY, ROWS, Counting())
    for entry in FAMILY:
        alone = through([entry], ROWS, Counting())
        for track, other in zip(together, alone, strict=True):
            for name in set(track.item.stats) & set(other.item.stats):
                if name != "image_text_similarity":  # measured twice, the flipped one last
                    assert track.item.stats[name] == other.item.stats[name]


def cosine(text, *paths, turn=None):
    """Cosines of a text with pictures, worked out apart."""
    images = [load_rgb(path) for path in paths]
    images = [image.transpose(turn) for image in images] if turn is not None else images
    return (Counting().embed_images(images) @ Counting().embed_texts([text])[0]).tolist()


@pytest.mark.parametrize("mode", ["avg", "max", "min"])
def test_a_chunks_cosine_is_that_of_its_own_pictures(mode):
    _, found = measured("image_text_similarity_filter", ROWS, hf_clip="m", reduce_mode=mode)
    pair = cosine("bb", A, B)
    reduced = {"avg": sum(pair) / 2, "max": max(pair), "min": min(pair)}[mode]
    assert found[1] == pytest.approx([reduced, *cosine("cab", B)])
    assert found[0] == pytest.approx(cosine("abc", A))
    assert found[2] == []
    assert found[3].reason == "truncated image"


@pytest.mark.parametrize(
    ("key", "turn"),
    [
        ("horizontal_flip", Transpose.FLIP_LEFT_RIGHT),
        ("vertical_flip", Transpose.FLIP_TOP_BOTTOM),
    ],
)
def test_a_flipped_picture_is_another_picture(key, turn):
    _, found = measured("image_text_similarity_filter", ROWS[:1], hf_clip="m", **{key: True})
    assert found[0] == pytest.approx(cosine("abc", A, turn=turn))
    assert found[0] != pytest.approx(cosine("abc", A), abs=1e-3)


def test_data_juicers_similarity_is_the_logit_over_a_hundred_and_takes_chunks_without_words():
    rows = [row(f"{IMAGE} abc", A), row(f"{IMAGE} {EOC}", A)]
    _, ours = measured("image_text_similarity_filter", rows, hf_clip="m")
    _, theirs = measured("image_text_similarity_filter", rows, hf_clip="m", compat="data_juicer")
    assert theirs[0] == pytest.approx([(50 * ours[0][0] - 2) / 100])
    assert ours[1] == []
    assert theirs[1] == pytest.approx([(50 * cosine("", A)[0] - 2) / 100])


def test_any_or_all_chunks_must_fit():
    for mode, stays in (("any", True), ("all", False)):
        (bound,) = bind([{"image_text_similarity_filter": {"any_or_all": mode}}])
        assert bound.op.keep([0.05, 0.3]) is stays
        assert bound.op.keep([]) is True


def test_two_pictures_are_compared_and_rows_with_others_dropped():
    rows = [row("", A, B), row("", A), row("", A, A), row("", A, CUT), row("", A, B, B), row("")]
    _, found = measured("image_pair_similarity_filter", rows, hf_clip="m")
    left, right = Counting().embed_images([load_rgb(A), load_rgb(B)])
    assert found[0] == pytest.approx([float(left @ right)])
    two = "row does not have exactly two different images"
    assert reasons(found[1:]) == [two, two, "truncated image", two, two]


def test_two_texts_are_compared_and_a_row_without_both_stays():
    rows = [row("abc", other="cab"), row("abc"), row("", other="x"), row("abc", other=3)]
    op, found = measured("text_pair_similarity_filter", rows, hf_clip="m", text_key_second="other")
    assert found == [pytest.approx([1.0]), [], [], []]
    assert op.keep([]) is True
    with pytest.raises(RecipeError, match="needs text_key_second"):
        bind(["text_pair_similarity_filter"])


def test_aesthetics_go_to_one_and_by_compat_only_with_the_name():
    rows = [row("", A, B), row(""), row("", CUT)]
    models = ScriptedModels(others={"m": Counting(), "h": Told()})
    heads = [10 * float(v[0]) for v in Counting().embed_images([load_rgb(A), load_rgb(B)])]
    both = {"hf_clip": "m", "head": "h"}
    _, found = measured("image_aesthetics_filter", rows, models, **both)
    assert found[0] == pytest.approx([score / 10 for score in heads])
    assert reasons(found[1:]) == [[], "truncated image"]
    for name, share in (("x/aesthetics-predictor-v1", 10), ("x/beauty", 1)):
        whole = ScriptedModels(others={name: Whole()})
        _, found = measured(
            "image_aesthetics_filter", rows[:1], whole, hf_scorer_model=name, compat="data_juicer"
        )
        assert found[0] == pytest.approx([score / share for score in heads])


class Whole(Counting, Told):
    """Encoder and head in one folder."""


def test_classes_are_found_by_name_and_by_compat_by_place():
    rows = [row("", A, B), row("", CUT), row("")]
    _, found = measured("image_nsfw_filter", rows, hf_nsfw_model="c")
    assert found[0] == pytest.approx([0.2, 0.3])
    assert reasons(found[1:]) == ["truncated image", []]
    _, found = measured("image_nsfw_filter", rows, hf_nsfw_model="c", compat="data_juicer")
    assert found[0] == [0.1, 0.1]
    many = {"hf_nsfw_model": "c", "nsfw_labels": ["normal", "nsfw"]}
    _, found = measured("image_nsfw_filter", rows, **many)
    assert found[0] == pytest.approx([0.3, 0.4])
    op, found = measured("image_watermark_filter", rows, hf_watermark_model="c")
    assert found[0] == pytest.approx([0.7, 0.6])
    assert op.keep([0.8])
    assert not op.keep([0.81])


def test_a_class_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ModelError, match="has no class 'porn'; set nsfw_labels to some of NSFW, n"):
        measured("image_nsfw_filter", ROWS[:1], hf_nsfw_model="c", nsfw_labels=["porn"])


def test_a_head_wants_its_encoder():
    with pytest.raises(RecipeError, match="image_nsfw_filter: head alone says too little"):
        bind([{"image_nsfw_filter": {"head": "h"}}])
    with pytest.raises(RecipeError, match="image_aesthetics_filter: hf_clip alone"):
        bind([{"image_aesthetics_filter": {"hf_clip": "m"}}])


class Widths:
    """Scores by width; notes which pictures are the same object."""

    def __init__(self):
        self.seen = []

    def score(self, images, texts):
        self.seen.append(len({id(image) for image in images}))
        return [image.width / 1000 for image in images]


def test_a_picture_that_stands_in_several_pairs_reaches_the_matcher_as_one():
    scorer = Widths()
    models = ScriptedModels(scorers={"m": scorer})
    rows = [row(f"{IMAGE} {n}", A, id=n) for n in range(3)] + [row(f"{IMAGE} x", B)]
    flipped = {"horizontal_flip": True, "hf_blip": "m"}
    _, found = measured("image_text_matching_filter", rows, models, **flipped)
    assert found == [[0.2], [0.2], [0.2], [0.3]]
    assert scorer.seen == [2]


def test_a_name_of_the_hub_is_what_its_cache_holds_and_else_stays_a_name(monkeypatch, tmp_path):
    cached = tmp_path / "models--openai--clip-vit-base-patch32"
    folder = cached / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    models = ScriptedModels(others={str(folder): Counting()})
    _, found = measured("image_text_similarity_filter", ROWS[:1], models)
    assert found[0] == pytest.approx(cosine("abc", A))
    with pytest.raises(ModelError, match="no scripted embedder called 'openai/other'"):
        measured("image_text_similarity_filter", ROWS[:1], models, hf_clip="openai/other")
