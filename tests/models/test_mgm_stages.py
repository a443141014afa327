"""Mini-Gemini through both of its stages, and out again in its own layout."""

import json

import pytest
import torch
from PIL import Image

from tests.tiny_mgm import mgm, write_towers
from tests.tiny_model import write_data, write_parts
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.mgm import MgmLayout
from vlforge.inference.load import load_model
from vlforge.inference.prompts import Prompt, embed
from vlforge.models.config import ModelSpec
from vlforge.models.folder import read_folder
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.loop import train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Parts, and data of which every fourth row has no picture."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    rows = json.loads(data.read_text())
    for row in rows[::4]:
        del row["image"]
        row["conversations"][0]["value"] = "What colour is it?"
    data.write_text(json.dumps(rows))
    low, high = write_towers(folder, mgm())
    _, language = write_parts(folder, data)
    spec = ModelSpec(
        family="mgm", vision=str(low), vision_high=str(high), language=str(language),
        image_size_high=64, image_aspect_ratio="pad",
    )  # fmt: skip
    return spec, str(data)


def stage(model, data, **changes):
    fields = {
        "model": model, "data": data, "samples": 240, "batch": 4, "template": "vicuna",
        "max_length": 64, "optimiser": Optimiser(lr=1e-2, warmup_ratio=0.1),
    }  # fmt: skip
    return TrainConfig(**(fields | changes))


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_stages_learn_and_leave_the_encoders_as_they_were(tmp_path, made, precision):
    spec, data = made
    torch.manual_seed(0)
    before = mgm().vision.state_dict()
    align, instruct = tmp_path / "align", tmp_path / "instruct"
    train(stage(spec, data, precision=precision), align, device="cpu")
    learned = stage(str(align), data, train=("connector", "language"), precision=precision)
    train(learned, instruct, device="cpu")
    assert losses(align)[-1] < losses(align)[0]
    assert losses(instruct)[-1] < 0.5 * losses(align)[0]
    model = read_folder(instruct).model
    for name, tensor in model.vision.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_trained_model_goes_out_in_its_own_layout_and_answers_alike(tmp_path, made):
    spec, data = made
    train(stage(spec, data, train=("connector", "language")), tmp_path / "ours", device="cpu")
    (tmp_path / "mgm").mkdir()
    MgmLayout().write(read_checkpoint(tmp_path / "ours"), tmp_path / "mgm", Writing())
    theirs = read_checkpoint(tmp_path / "mgm")
    ours = load_model(tmp_path / "ours", device="cpu")
    assert theirs.processor == ours.processor
    picture = torch.tensor(ours.processor.fit(Image.new("RGB", (20, 16), (220, 30, 30))))[None]
    pixels = ours.processor.normalise(picture)
    ids = torch.tensor([[1, 5, -200, 7, 8]])
    with torch.no_grad():
        assert torch.equal(theirs.build()(ids, pixels).logits, ours.model(ids, pixels).logits)


def test_prompts_of_a_loaded_model_hold_its_tokens(tmp_path, made):
    spec, data = made
    train(stage(spec, data, samples=4), tmp_path, device="cpu")
    loaded = load_model(tmp_path, device="cpu")
    picture = Image.new("RGB", (20, 16), (30, 200, 30))
    with_picture, without = embed(loaded, [Prompt((1, -200, 5), (picture,)), Prompt((1, 5))])
    assert (len(with_picture), len(without)) == (18, 2)
    torch.testing.assert_close(with_picture[-1], without[-1])
