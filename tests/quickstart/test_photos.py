import json

import pytest
from PIL import Image

from vlforge.quickstart.config import PhotosConfig
from vlforge.quickstart.photos import prepare_photos
from vlforge.types import DataError

SEED = [
    '{"id": "0", "text": "<__dj__image> a cat\\n <|__dj__eoc|>", "images": ["images/cat.png"]}',
    '{"id": "1", "text": "<__dj__image> gone\\n <|__dj__eoc|>", "images": ["images/no.jpg"]}',
    "{not json",
    '{"id": "3", "text": ""}',
]


def photo_folder(folder, entries=None):
    (folder / "images").mkdir(parents=True)
    for name in ("cat", "sky"):
        Image.new("RGB", (8, 6)).save(folder / "images" / f"{name}.png")
    if entries is None:
        cat = [
            {"question": "Which animal?", "answer": "cat"},
            {"question": "How many?", "answer": "1"},
        ]
        entries = [
            {"image": "images/cat.png", "caption_en": "A cat.", "questions": cat},
            {"image": "images/sky.png", "caption_en": "A Sky.", "questions": []},
        ]
    (folder / "photos.json").write_text(json.dumps(entries), encoding="utf-8")
    (folder / "seed.jsonl").write_text("\n".join(SEED) + "\n", encoding="utf-8")
    return PhotosConfig(path=str(folder))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_question_is_taught_and_asked_in_the_same_words(tmp_path):
    config = photo_folder(tmp_path / "photos")
    counts = prepare_photos(config, tmp_path / "out")
    assert counts == {"pictures": 2, "questions": 2, "seed_rows": 4}
    taught = json.loads((tmp_path / "out/instruct.json").read_text(encoding="utf-8"))
    values = {row["conversations"][0]["value"] for row in taught}
    for question in lines(tmp_path / "out/textvqa_questions.jsonl"):
        assert f"<image>\n{question['text']}" in values
        assert question["image"] == str(tmp_path / "photos/images/cat.png")
    assert "<image>\nWhich animal?" in values


def test_questions_and_annotation_join_on_picture_and_words(tmp_path):
    prepare_photos(photo_folder(tmp_path / "photos"), tmp_path / "out")
    annotation = json.loads((tmp_path / "out/textvqa_annotation.json").read_text())["data"]
    keys = {(row["image_id"], row["question"].lower()) for row in annotation}
    for row in lines(tmp_path / "out/textvqa_questions.jsonl"):
        assert (row["image_id"], row["text"].splitlines()[0].lower()) in keys
    assert [row["answers"] for row in annotation] == [["cat"] * 10, ["1"] * 10]


def test_groups_name_each_question_once(tmp_path):
    prepare_photos(photo_folder(tmp_path / "photos"), tmp_path / "out")
    assert json.loads((tmp_path / "out/groups.json").read_text()) == {"numbers": [2], "words": [1]}


def test_seed_rows_name_pictures_by_absolute_path_and_bad_lines_pass(tmp_path):
    config = photo_folder(tmp_path / "photos")
    prepare_photos(config, tmp_path / "out")
    written = (tmp_path / "out/seed.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(written[0])["images"] == [str(tmp_path / "photos/images/cat.png")]
    assert json.loads(written[1])["images"] == [str(tmp_path / "photos/images/no.jpg")]
    assert written[2:] == SEED[2:]


def test_a_missing_folder_is_one_line_that_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"no photographs at .*: the folder itself is missing") as e:
        prepare_photos(PhotosConfig(path=str(tmp_path / "none")), tmp_path / "out")
    assert "stages.photos.path=DIR" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"image": "images/cat.png", "questions": []}, "entry 0: no usable 'caption_en'"),
        ({"image": "images/x.png", "caption_en": "", "questions": []}, "entry 0: no picture"),
        ("cat", "entry 0: no usable"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, entry, says):
    with pytest.raises(DataError, match=says):
        prepare_photos(photo_folder(tmp_path / "photos", [entry]), tmp_path / "out")
