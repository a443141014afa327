from dataclasses import replace

import pytest
import torch

from tests.models.plain_minigpt4 import tiny as tiny_minigpt4
from tests.tiny_mgm import mgm
from tests.tiny_model import llava, write_data, write_parts
from tests.tiny_qwen import model as qwen_vl
from vlforge.checkpoints.index import detect
from vlforge.models.config import ModelSpec
from vlforge.models.folder import read_folder
from vlforge.models.minigpt4 import connector_state
from vlforge.models.reading import read_tensors
from vlforge.training.config import Optimiser, TrainConfig
from vlforge.training.handover import CONNECTOR, write_connector
from vlforge.training.loop import train
from vlforge.types import ModelError


@pytest.mark.parametrize(
    ("make", "begin"),
    [(llava, "model.mm_projector.0."), (mgm, "model."), (qwen_vl, "transformer.visual.")],
)
def test_a_connector_is_written_by_its_published_names(tmp_path, make, begin):
    model = make()
    written = read_tensors(write_connector(model, tmp_path))
    assert len(written) == len(model.connector.state_dict())
    assert any(name.startswith(begin) for name in written)


def test_minigeminis_file_has_projector_and_mining(tmp_path):
    model, other = mgm(), mgm(seed=1)
    path = write_connector(model, tmp_path)
    names = {name.split(".")[1] for name in read_tensors(path)}
    assert names == {
        "mm_projector", "vlm_uni_query_projector", "vlm_uni_aux_projector",
        "vlm_uni_val_projector",
    }  # fmt: skip
    other.load_connector(path)
    for name, tensor in model.connector.state_dict().items():
        assert torch.equal(other.connector.state_dict()[name], tensor)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    spec = ModelSpec(vision=str(vision), language=str(language))
    return TrainConfig(
        model=spec,
        data=str(data),
        samples=8,
        batch=4,
        template="vicuna",
        train="align",
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


@pytest.mark.parametrize(
    ("export", "files"),
    [("model", {"model"}), ("connector", {"connector"}), ("both", {"model", "connector"})],
)
def test_a_stage_leaves_a_model_a_connector_or_both(tmp_path, made, export, files):
    train(replace(made, export=export), tmp_path, device="cpu")
    found = {"model": "model.safetensors", "connector": CONNECTOR}
    assert {name for name, file in found.items() if (tmp_path / file).exists()} == files


def test_a_connector_alone_and_a_whole_model_are_the_same_start(tmp_path, made):
    train(replace(made, export="both"), tmp_path / "align", device="cpu")
    second = replace(made, train="instruct", export="model")
    whole = replace(second, model=str(tmp_path / "align"))
    spec = replace(made.model, connector_weights=str(tmp_path / "align" / CONNECTOR))
    for name, config in (("whole", whole), ("parts", replace(second, model=spec))):
        train(config, tmp_path / name, device="cpu")
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts")]
    assert metrics[0] == metrics[1]


def test_a_later_stage_may_fit_pictures_in_another_way(tmp_path, made):
    train(made, tmp_path / "align", device="cpu")
    second = replace(made, model=str(tmp_path / "align"), image_aspect_ratio="pad")
    train(second, tmp_path / "instruct", device="cpu")
    assert read_folder(tmp_path / "align").processor.fit_mode == "stretch"
    folder = read_folder(tmp_path / "instruct")
    assert folder.processor.fit_mode == folder.model.config.image_aspect_ratio == "pad"


def test_a_connector_of_another_model_is_refused(tmp_path):
    path = write_connector(llava(), tmp_path)
    with pytest.raises(ModelError, match=r"0\.weight has shape .* this model's connector has"):
        llava("clip", text={"hidden_size": 8}).load_connector(path)
    torch.save({"x": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"it is no mm_projector\.bin"):
        llava().load_connector(path)


def test_minigpt4s_checkpoint_is_what_its_own_code_takes(tmp_path):
    model = tiny_minigpt4()
    path = write_connector(model, tmp_path, 5)
    assert path.name == "checkpoint_4.pth"
    held = torch.load(path)
    assert set(held["model"]) == {"llama_proj.weight", "llama_proj.bias"}
    assert held["epoch"] == 4
    assert detect(path).name == "minigpt4"
    again = connector_state(read_tensors(path), path, model.config.text_config.hidden_size)
    assert torch.equal(again["connector.weight"], model.connector.weight)
    assert write_connector(model, tmp_path).name == "checkpoint_0.pth"
