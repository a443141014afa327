import pytest
from PIL import Image

from vlforge.inference.scripted import (
    ScriptedCaptioner,
    ScriptedChat,
    ScriptedModels,
    ScriptedScorer,
    fingerprint,
)
from vlforge.types import ModelError, Sample, Turn

RED = Image.new("RGB", (4, 3), "red")
BLUE = Image.new("RGB", (4, 3), "blue")


def test_candidates_come_in_order_and_start_again():
    model = ScriptedCaptioner({fingerprint(RED): ["a", "b"], fingerprint(BLUE): ["sea"]})
    made = model.caption([RED, BLUE], [None, "Say:"], 3, [0, 1])
    assert [[caption.text for caption in row] for row in made] == [
        ["a", "b", "a"],
        ["sea [prompt=Say:]"] * 3,
    ]


def test_a_picture_is_known_by_its_pixels_not_by_its_file(tmp_path):
    RED.save(tmp_path / "red.png")
    RED.save(tmp_path / "copy.bmp")
    model = ScriptedCaptioner.of_files({tmp_path / "red.png": ["red"]})
    with Image.open(tmp_path / "copy.bmp") as copy:
        assert model.caption([copy], [None], 1, [0])[0][0].text == "red"


def test_a_picture_without_a_caption_is_an_error():
    with pytest.raises(ModelError, match="no scripted caption"):
        ScriptedCaptioner({}).caption([RED], [None], 1, [0])


def test_scores_go_by_text():
    assert ScriptedScorer({"a": 0.5}).score([RED, RED], ["a", "b"]) == [0.5, 0.0]


def test_answers_go_by_the_last_question():
    chat = ScriptedChat({"Which?": "the cat"}, otherwise="no idea")
    which = Sample("1", ("x.png",), (Turn("user", "<image>\nWhich?"),))
    other = Sample("2", (), (Turn("user", "Who?"),))
    assert [c.text for c in chat.answer([which, other], 5)] == ["the cat", "no idea"]
    assert list(chat.stream(which, 5)) == ["the", " cat"]


def test_an_unknown_model_names_the_known_ones():
    models = ScriptedModels(captioners={"blip": ScriptedCaptioner({})})
    assert models.captioner("blip") is models.captioners["blip"]
    with pytest.raises(ModelError, match="'blop'; there are: blip"):
        models.captioner("blop")
