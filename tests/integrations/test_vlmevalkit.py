"""Our models under VLMEvalKit's contract: a stand-in of its base class and its table of models."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from tests.inference.tiny import picture, tiny_folder
from vlforge.inference.local import LocalChat
from vlforge.types import ModelError, Sample, Turn

NAME = "vlforge.integrations.vlmevalkit"


class BaseModel:
    """What VLMEvalKit's base class promises of pictures and messages."""

    INTERLEAVE = False
    allowed_types = ("text", "image", "video")

    def __init__(self):
        self.dump_image_func = None

    def set_dump_image(self, dump_image_func):
        self.dump_image_func = dump_image_func

    def dump_image(self, line, dataset):
        return self.dump_image_func(line)

    def generate(self, message, dataset=None):
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)


@pytest.fixture
def kit(monkeypatch):
    """VLMEvalKit's modules as far as a model sees them, and ours imported beside them."""
    kinds = {"MMBench_DEV_EN": "MCQ", "TextVQA_VAL": "VQA"}
    contents = {
        "vlmeval": {},
        "vlmeval.vlm": {},
        "vlmeval.vlm.base": {"BaseModel": BaseModel},
        "vlmeval.config": {"supported_VLM": {"llava_v1.5_7b": object()}},
        "vlmeval.dataset": {"DATASET_TYPE": lambda name: kinds[name]},
    }
    for name, names in contents.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    import vlforge.integrations

    __import__(NAME)
    yield sys.modules[NAME]
    sys.modules.pop(NAME, None)
    vars(vlforge.integrations).pop("vlmevalkit", None)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"), template="v1", positions=256)


def test_a_registered_folder_answers_a_message_as_chat_does(kit, model, tmp_path):
    path = tmp_path / "a.png"
    picture(3).save(path)
    kit.register({"mine": model}, device="cpu", max_new_tokens=6)
    ours = sys.modules["vlmeval.config"].supported_VLM["mine"]()
    message = [{"type": "image", "value": str(path)}, {"type": "text", "value": "what is a cat"}]
    sample = Sample("0", (str(path),), (Turn("user", "<image>\nwhat is a cat"),))
    (expected,) = LocalChat(model, device="cpu").answer([sample], 6)
    assert expected.text
    assert ours.generate(message, dataset="TextVQA_VAL") == expected.text


def test_pictures_and_words_stay_in_their_order(kit):
    parts = [("text", "first"), ("image", "a.png"), ("text", "then"), ("image", "b.png")]
    message = [{"type": kind, "value": value} for kind, value in parts]
    assert kit._laid_out(message) == ("first\n<image>\nthen\n<image>", ("a.png", "b.png"))
    with pytest.raises(ModelError, match="a video cannot be shown"):
        kit._laid_out([{"type": "video", "value": "a.mp4"}])


def test_multiple_choice_is_asked_in_llavas_words(kit, model):
    ours = kit.VLForge(str(model), device="cpu")
    assert ours.use_custom_prompt("MMBench_DEV_EN")
    assert not ours.use_custom_prompt("TextVQA_VAL")
    assert not kit.VLForge(str(model), device="cpu", prompt="dataset").use_custom_prompt(
        "MMBench_DEV_EN"
    )
    ours.set_dump_image(lambda line: [f"{line['index']}.png"])
    line = {"index": 7, "question": "Which?", "hint": float("nan"), "A": "cat", "B": "None"}
    shown, words = ours.build_prompt(line, "MMBench_DEV_EN")
    assert shown == {"type": "image", "value": "7.png"}
    assert words["value"] == (
        "Which?\nA. cat\nB. None\nAnswer with the option's letter from the given choices directly."
    )
    (_, open_words) = ours.build_prompt({"index": 8, "question": "哪个？"}, "MMBench_DEV_EN")
    assert open_words["value"] == "哪个？\n请直接回答问题。"


def test_a_conversation_is_answered_at_its_last_turn(kit, model, tmp_path):
    picture(1).save(tmp_path / "a.png")
    ours = kit.VLForge(str(model), device="cpu", max_new_tokens=4)
    turns = [
        ("user", [{"type": "image", "value": str(tmp_path / "a.png")},
                  {"type": "text", "value": "what"}]),
        ("assistant", [{"type": "text", "value": "a cat"}]),
        ("user", [{"type": "text", "value": "is the horse red"}]),
    ]  # fmt: skip
    said = ours.chat_inner([{"role": role, "content": content} for role, content in turns])
    sample = Sample("0", (str(tmp_path / "a.png"),), (
        Turn("user", "<image>\nwhat"), Turn("assistant", "a cat"), Turn("user", "is the horse red"),
    ))  # fmt: skip
    assert said == LocalChat(model, device="cpu").answer([sample], 4)[0].text


def test_its_own_models_are_not_replaced(kit, model):
    with pytest.raises(ModelError, match=r"has a model called 'llava_v1\.5_7b'"):
        kit.register({"llava_v1.5_7b": model})
    kit.register({"mine": model})
    kit.register({"mine": model})


def test_its_program_is_run_with_the_models_in_place(kit, model, tmp_path, capsys):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom vlmeval.config import supported_VLM\n"
        "print(sys.argv[1:], supported_VLM['mine'].keywords['model_path'])\n"
    )
    before, path = list(sys.argv), list(sys.path)
    try:
        kit.main([f"mine={model}", "--", str(script), "--data", "MMBench_DEV_EN"])
    finally:
        sys.argv[:], sys.path[:] = before, path
    assert capsys.readouterr().out == f"['--data', 'MMBench_DEV_EN'] {model}\n"
    with pytest.raises(ModelError, match="give NAME=FOLDER"):
        kit.main([str(script)])
