"""Faces are counted, measured and blurred; what is missing for that is named at load."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vlforge.ops.batch import Batch, Context, Files, Item
from vlforge.ops.bind import bind
from vlforge.ops.image import faces
from vlforge.types import RecipeError

PICTURES = Path(__file__).parent / "pictures"
ONE, TWO, NONE = (str(PICTURES / name) for name in ("face1.png", "face2.jpg", "photo_a.jpg"))
FACE_OPERATORS = ["image_face_count_filter", "image_face_ratio_filter", "image_face_blur_mapper"]


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def batch_of(rows: list[list[str]], *viewers, produced: str = "") -> Batch:
    items = [Item(str(n), n, {"text": "", "images": paths}) for n, paths in enumerate(rows)]
    return Batch(items, Context(produced=produced), Files(viewers))


def test_faces_are_counted_per_picture():
    op = op_of("image_face_count_filter")
    columns = op.measure(batch_of([[ONE], [TWO], [NONE], [TWO, ONE], []], op))
    assert columns == ([[1], [2], [0], [2, 1], []],)
    assert op.keep_all(columns) == [True, False, False, True, True]


def test_the_ratio_is_that_of_the_largest_face():
    op = op_of("image_face_ratio_filter", min_ratio=0.1, max_ratio=0.5, any_or_all="all")
    columns = op.measure(batch_of([[ONE], [TWO], [NONE], []], op))
    assert columns == ([[pytest.approx(0.525625)], [pytest.approx(0.23964497)], [0.0], []],)
    assert op.keep_all(columns) == [False, True, False, True]


def test_opencvs_own_keys_reach_it():
    few = op_of("image_face_count_filter", minSize=[121, 121])
    assert few.measure(batch_of([[ONE]], few)) == ([[0]],)
    small = op_of("image_face_count_filter", maxSize=[70, 70], minNeighbors=1, scaleFactor=1.05)
    assert small.measure(batch_of([[TWO]], small)) == ([[2]],)


def test_operators_with_the_same_keys_search_once(monkeypatch):
    searches = []
    really_search = faces._search
    monkeypatch.setattr(faces, "_search", lambda *a: searches.append(1) or really_search(*a))
    count, ratio = op_of("image_face_count_filter"), op_of("image_face_ratio_filter")
    other = op_of("image_face_count_filter", minNeighbors=4)
    batch = batch_of([[ONE], [TWO]], count, ratio, other)
    assert count.measure(batch) == ([[1], [2]],)
    assert ratio.measure(batch)[0][0] == [pytest.approx(0.525625)]
    assert len(searches) == 4


def test_a_huge_picture_is_searched_at_half_its_size(monkeypatch):
    op, theirs = (op_of("image_face_ratio_filter", compat=c) for c in ("", "data_juicer"))
    monkeypatch.setitem(faces.MOST_PIXELS, "", 120 * 120 // 3)
    batch = batch_of([[ONE]], op, theirs)
    assert op.measure(batch)[0] == [[pytest.approx(0.525625, rel=0.15)]]
    assert theirs.measure(batch)[0] == [[0.525625]]


def test_what_opencv_cannot_search_costs_the_row(monkeypatch):
    import cv2

    class Failing:
        """A cascade that always runs out of memory."""

        def detectMultiScale(self, *args, **kwargs):
            raise cv2.error("Insufficient memory")

    op = op_of("image_face_count_filter")
    with monkeypatch.context() as patch:
        patch.setattr(faces._finder(op._path), "_cascade", Failing())
        (drop,) = op.measure(batch_of([[ONE]], op))[0]
    assert drop.reason == "faces cannot be searched"
    assert drop.value == f"image {ONE} is 120 x 120 pixels: OpenCV gave up on it"
    assert op.measure(batch_of([[ONE]], op)) == ([[1]],)


def test_a_strip_and_a_tower_do_not_add_up(monkeypatch):
    made = []
    cv2 = faces.load_opencv()
    really_make = cv2.CascadeClassifier
    monkeypatch.setattr(cv2, "CascadeClassifier", lambda path: made.append(1) or really_make(path))
    finder = faces._Finder(op_of("image_face_count_filter")._path)
    for size in ((60_000, 30), (30_000, 30), (30, 60_000), (30, 50_000), (40_000, 30)):
        assert len(finder.find(np.zeros(size[::-1], np.uint8))) == 0
    assert len(made) == 3


def test_faces_are_blurred_and_the_rest_stays(tmp_path):
    op = op_of("image_face_blur_mapper", blur_type="box", radius=9)
    batch = batch_of([[ONE], [NONE]], op, produced=str(tmp_path))
    blurred, untouched = op.apply(batch)
    assert untouched["images"] == untouched["__dj__source_file__"] == [NONE]
    assert blurred["__dj__source_file__"] == [ONE]
    (path,) = map(Path, blurred["images"])
    assert path.parent == tmp_path / "image_face_blur_mapper"
    before, after = (np.asarray(Image.open(p).convert("RGB"), dtype=int) for p in (ONE, path))
    ((left, top, width, height),) = op.faces(Image.open(ONE))
    is_inside = np.zeros(before.shape[:2], dtype=bool)
    is_inside[top : top + height, left : left + width] = True
    assert (before == after)[~is_inside].all()
    assert np.abs(before - after)[is_inside].mean() > 5


@pytest.mark.parametrize("name", FACE_OPERATORS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cv_classifier": "gone.xml"}, "cv_classifier is 'gone.xml', which is no file"),
        ({"cv_classifier": __file__}, "which is no cascade"),
        ({"scaleFactor": 1.0}, "scaleFactor above 1"),
        ({"minSize": [30]}, "minSize"),
    ],
)
def test_keys_that_make_no_sense_are_refused_at_load(name, params, message):
    with pytest.raises(RecipeError, match=message) as raised:
        op_of(name, **params)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", [*FACE_OPERATORS, "image_subplot_filter", "image_qrcode_filter"])
def test_without_opencv_one_line_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(RecipeError) as raised:
        op_of(name)
    assert str(raised.value) == f"process[0]: {name} needs OpenCV: pip install 'vlforge[ops]'"


def test_an_opencv_without_cascades_is_named(monkeypatch, tmp_path):
    bare = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: bare)
    with pytest.raises(RecipeError, match=r"comes without haarcascade_frontalface_alt\.xml"):
        op_of("image_face_count_filter")


@pytest.mark.parametrize("name", FACE_OPERATORS)
def test_binding_does_not_load_opencv(name):
    code = f"import sys; from vlforge.ops.bind import bind; bind(['{name}'])"
    code += "; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
