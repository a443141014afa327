"""The captioning mapper: Data-Juicer's ways, provenance, captions without words, looking ahead."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from vlforge.data.ahead import one_ahead
from vlforge.ops.base import Grown
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.synthesis.prompt_files import Prompt
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.types import Caption, Drop, RecipeError, Refusal

PICTURES = Path(__file__).parents[1] / "pictures"
A, B = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")  # 200 and 300 pixels wide
IMAGE, EOC = "<__dj__image>", "<|__dj__eoc|>"
OP = "image_captioning_mapper"


class Said:
    """Candidates of a picture are `width:place`, or what `say` makes of both."""

    def __init__(self, say="{}:{}".format):
        self.say = say
        self.sizes = []
        self.drawn = []

    def captioner(self, path):
        return self

    def caption(self, images, prompts, count, keys, all_drawn=False):
        self.sizes.append(len(images))
        self.drawn.append(all_drawn)
        made = [[self.say(image.width, k) for k in range(count)] for image in images]
        return [
            next((one for one in row if isinstance(one, Refusal)), [Caption(t, -1.0) for t in row])
            for row in made
        ]


def run(rows, told=None, seed=0, **params):
    (bound,) = bind([{OP: params}])
    told = told or Said()
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    return bound.op.apply(Batch(items, Context(seed=seed, models=told))), told, bound


def row(text: str, *images: str, **more):
    return {"text": text, "images": list(images), **more}


def texts(grown):
    return [made["text"] for made in grown.rows]


def test_by_compat_all_captions_of_a_chunk_follow_its_first_token():
    rows = [
        row(f"{IMAGE}{IMAGE} both {EOC}  {EOC}<__dj__video> no picture {EOC}{IMAGE} x", A, B, A)
    ]
    (grown,), told, _ = run(rows, compat="data_juicer", keep_original_sample=False)
    expected = f"{IMAGE} 300:0  200:0 {IMAGE}{EOC}<__dj__video>{EOC}{IMAGE} 200:0 {EOC}"
    assert texts(grown) == [expected]
    assert grown.rows[0].keys() == {"text", "images"}
    assert told.drawn == [True]


def test_by_compat_candidates_are_drawn_as_pythons_random_does_row_after_row():
    rows = [row(f"{IMAGE} one {EOC}{IMAGE}", A, B), row("none"), row(IMAGE, B)]
    draws = {"caption_num": 4, "compat": "data_juicer", "keep_original_sample": False}
    for seed in (0, 1, 7):
        found, _, _ = run(rows, seed=seed, **draws)
        reference = random.Random(seed)
        first, second, third = (reference.choice(range(4)) for _ in range(3))
        assert texts(found[0]) == [f"{IMAGE} 200:{first} {EOC}{IMAGE} 300:{second} {EOC}"]
        assert texts(found[2]) == [f"{IMAGE} 300:{third} {EOC}"]


def test_rows_at_fault_are_dropped_where_the_reference_loses_the_batch():
    rows = [row(f"{IMAGE}{IMAGE}", A), row("none"), row(IMAGE, A, B), row(IMAGE, A), row(IMAGE)]
    wrong, nothing = "image tokens do not match images", "no image to caption"
    ways = {
        ("", True): [wrong, Grown(True), wrong, None, wrong],
        ("", False): [wrong, nothing, wrong, None, wrong],
        # Pictures left over are ignored there, and rows without pictures never looked at.
        ("data_juicer", True): [wrong, Grown(True), None, None, Grown(True)],
        ("data_juicer", False): [wrong, nothing, None, None, nothing],
    }
    for (compat, keeps), expected in ways.items():
        found, _, _ = run(rows, compat=compat, keep_original_sample=keeps)
        told = [f.reason if isinstance(f, Drop) else None if f.rows else f for f in found]
        assert told == expected, (compat, keeps)
    found, _, _ = run(rows, compat="data_juicer", keep_original_sample=False)
    assert texts(found[2]) == [f"{IMAGE} 200:0 {EOC}"]


def test_new_rows_tell_where_they_come_from():
    rows = [row(f"{IMAGE} x {EOC}{IMAGE}", A, B, q="Why?", provenance=[{"op": "before"}])]
    params = {"hf_img2seq": "models/b", "prompt_key": "q", "caption_num": 2}
    (grown,), _, _ = run(rows, seed=5, keep_candidate_mode="all", **params)
    told = [made[PROVENANCE] for made in grown.rows]
    prompt = Prompt("", "Why?").hash
    entry = {"op": OP, "source": "u0", "model": "models/b", "prompt": prompt, "seed": 5}
    assert told == [[{"op": "before"}, {**entry, "candidate": [k, k]}] for k in range(2)]
    (plain,), _, _ = run([row(IMAGE, A)])
    assert "prompt" not in plain.rows[0][PROVENANCE][0]


def test_the_nearest_candidate_is_told_by_its_place():
    say = lambda width, k: ["a cat in a house", "a dog on the sandy beach", "hills"][k]  # noqa: E731
    (grown,), _, _ = run([row(f"{IMAGE} a dog on the beach", A)], Said(say), caption_num=3,
                         keep_candidate_mode="similar_one_simhash")  # fmt: skip
    assert texts(grown) == [f"{IMAGE} a dog on the sandy beach {EOC}"]
    assert grown.rows[0][PROVENANCE][0]["candidate"] == [1]


def test_candidates_without_words_are_left_out():
    silent = lambda width, k: " " if (width, k) == (300, 1) else f"{width}:{k}"  # noqa: E731
    rows = [row(f"{IMAGE}{IMAGE}", A, B)]
    (grown,), _, _ = run(rows, Said(silent), caption_num=3, keep_candidate_mode="all")
    assert texts(grown) == [f"{IMAGE} 200:{k} {IMAGE} 300:{k} {EOC}" for k in (0, 2)]
    (theirs,), _, _ = run(rows, Said(silent), caption_num=3, keep_candidate_mode="all",
                          compat="data_juicer")  # fmt: skip
    assert len(theirs.rows) == 3
    for seed in range(8):
        (grown,), _, _ = run([row(IMAGE, B)], Said(silent), seed, caption_num=2)
        assert texts(grown) == [f"{IMAGE} 300:0 {EOC}"]
    nothing = Said(lambda width, k: "")
    assert run([row(IMAGE, A)], nothing)[0] == [Grown(True)]
    (drop,), _, _ = run([row(IMAGE, A)], nothing, keep_original_sample=False)
    assert drop == Drop("", "the model wrote no caption")


def test_what_a_model_refuses_costs_its_row_only():
    refusing = Said(lambda width, k: Refusal("unsafe", "400") if width == 300 else "fine")
    found, _, _ = run([row(IMAGE, A), row(IMAGE, B)], refusing)
    assert texts(found[0]) == [f"{IMAGE} fine {EOC}"]
    assert found[1] == Drop("", "unsafe", None, "400", None)


def test_a_mode_that_is_none_is_named_with_those_there_are():
    with pytest.raises(RecipeError, match=r"keep_candidate_mode is 'bad'.*random_any"):
        bind([{OP: {"keep_candidate_mode": "bad"}}])


def test_parameters_without_full_effect_are_told_of():
    (bound,) = bind([{OP: {"prompt": "a photo of", "prompt_key": "q", "trust_remote_code": True}}])
    assert bound.notes == (
        f"{OP}: without effect here: trust_remote_code",
        f"{OP}: prompt is for rows without a text in 'q'",
    )
    (bound,) = bind([{OP: {"prompt_key": "q", "trust_remote_code": False}}])
    assert bound.notes == ()


class Ready(Said):
    """Takes pictures ready; notes which thread made them so, and what was ready when."""

    portion = 0

    def __init__(self, total):
        super().__init__()
        self.total = total
        self.threads = set()
        self.ready = 0
        self.ahead = []
        self.come = threading.Semaphore(0)

    def prepare(self, image):
        self.threads.add(threading.current_thread().name)
        self.ready += 1
        self.come.release()
        return image

    def caption(self, images, *how, **more):
        done = sum(self.sizes) + len(images)
        for _ in range(len(images)):
            self.come.acquire()
        if done < self.total:  # the next portion comes while this one is captioned
            assert self.come.acquire(timeout=60)
            self.come.release()
        self.ahead.append(self.ready - done)
        return super().caption(images, *how, **more)


def test_the_next_pictures_are_made_ready_while_these_are_captioned():
    told = Ready(7)
    found, _, _ = run([row(IMAGE, A if n % 2 else B) for n in range(7)], told, gpu_batch_size=2)
    assert told.sizes == [2, 2, 2, 1]
    assert all(name.startswith("ahead") for name in told.threads)
    assert all(1 <= ahead <= 2 for ahead in told.ahead[:-1])
    assert [texts(grown) for grown in found] == [
        [f"{IMAGE} {200 if n % 2 else 300}:0 {EOC}"] for n in range(7)
    ]


def test_a_captioner_may_ask_for_larger_portions():
    told = Ready(6)
    told.portion = 5
    run([row(IMAGE, A) for _ in range(6)], told, gpu_batch_size=2)
    assert told.sizes == [5, 1]


def test_a_captioner_may_take_files_as_they_are():
    class Taking(Said):
        portion = 0

        def prepare_file(self, content):
            return content if content == Path(A).read_bytes() else None

        def prepare(self, image):
            return image

        def caption(self, images, prompts, count, keys, **how):
            return [[Caption(type(image).__name__, 0.0)] for image in images]

    rows = [row(IMAGE, A), row(IMAGE, B), row(IMAGE, str(PICTURES / "truncated.jpg")),
            row(IMAGE, "gone.jpg")]  # fmt: skip
    found, _, _ = run(rows, Taking())
    assert texts(found[0]) == [f"{IMAGE} bytes {EOC}"]
    assert texts(found[1]) != texts(found[0])
    assert [one.reason for one in found[2:]] == ["truncated image", "missing image"]


def test_huge_pictures_wait_in_small_portions(monkeypatch):
    monkeypatch.setattr("vlforge.ops.synthesis.captioning._PORTION_BYTES", 200 * 150 * 3)
    rows = [row(IMAGE, A) for _ in range(3)]
    _, told, _ = run(rows, gpu_batch_size=8)
    assert told.sizes == [1, 1, 1]


def test_what_goes_wrong_ahead_is_raised_where_it_is_wanted():
    def values():
        yield 1
        raise RecipeError("no")

    found = one_ahead(values())
    assert next(found) == 1
    with pytest.raises(RecipeError, match="no"):
        next(found)
