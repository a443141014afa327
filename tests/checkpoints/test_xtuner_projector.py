"""A model of parts begins with the connector that a pretraining of XTuner left."""

import pytest
import torch

from tests.checkpoints import test_internlm2, tiny_xtuner
from tests.tiny_model import write_data, write_parts
from vlforge.checkpoints.xtuner_projector import assemble_parts
from vlforge.inference.placing import quantised_share
from vlforge.models.config import ModelSpec
from vlforge.training.config import TrainConfig
from vlforge.training.quantised import quantised_parts
from vlforge.types import ModelError


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    _, language = write_parts(folder, write_data(folder / "data", rows=3))
    run = tiny_xtuner.run(folder, llm="frozen", vision="frozen")
    torch.manual_seed(5)
    width = torch.nn.Linear(run.model.projector.model[0].in_features, 16)
    run.model.projector.model = torch.nn.Sequential(width, torch.nn.GELU(), torch.nn.Linear(16, 16))
    return folder, run, {"vision": str(run.clip), "language": str(language)}


@pytest.mark.parametrize("form", ["pth", "zero", "hf"])
def test_each_form_of_a_pretraining_gives_its_connector(parts, form):
    folder, run, spec = parts
    made = {
        "pth": lambda: tiny_xtuner.write_pth(folder / "iter_7.pth", run),
        "zero": lambda: tiny_xtuner.write_zero(folder / "zero" / "iter_7.pth", run, 2, 2),
        "hf": lambda: tiny_xtuner.write_hf(folder / "iter_7_hf", run),
    }[form]()
    tiny_xtuner.forget_foreign()
    model = assemble_parts(ModelSpec(**spec, connector_weights=str(made))).model
    state = run.model.projector.model.state_dict()
    for name, tensor in model.connector.state_dict().items():
        assert torch.equal(tensor, state[name].float()), name


def test_a_checkpoint_with_more_in_it_says_what_to_do(parts):
    folder, run, spec = parts
    state = run.state() | {"llm.base_model.model.x.lora_A.default.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": state, "meta": {}}, folder / "more.pth")
    with pytest.raises(ModelError, match=r"more than a connector.*vlforge convert-model .*more"):
        assemble_parts(ModelSpec(**spec, connector_weights=str(folder / "more.pth")))


def test_other_files_of_a_connector_are_read_as_before(parts):
    folder, run, spec = parts
    state = run.model.projector.model.state_dict()
    torch.save({f"model.mm_projector.{name}": one for name, one in state.items()}, folder / "p.bin")
    model = assemble_parts(ModelSpec(**spec, connector_weights=str(folder / "p.bin"))).model
    assert torch.equal(model.connector.state_dict()["0.weight"], state["0.weight"])
    with pytest.raises(ModelError, match="no weights at"):
        assemble_parts(ModelSpec(**spec, connector_weights=str(folder / "absent.pth")))


def test_an_internlm2_is_quantised_as_the_llama_that_it_is(parts, tmp_path):
    _, _, spec = parts
    fields = test_internlm2.fields_of(vocab_size=96)
    state = test_internlm2.state_of(fields)
    for name in ("model.tok_embeddings.weight", "output.weight"):
        state[name] = torch.randn(96, fields["hidden_size"]) / 5
    llm = test_internlm2.write_internlm2(tmp_path / "llm", state, fields)
    parted = ModelSpec(vision=spec["vision"], language=str(llm), tokenizer=spec["language"])
    config = TrainConfig(model=parted, data="x", quantise="8bit", precision="fp32")
    how = quantised_parts(config, parted, torch.device("cpu"))
    language = assemble_parts(parted, **how).model.language
    plain = assemble_parts(parted).model.language
    assert quantised_share(language) > 0
    assert quantised_share(plain) == 0
    ids = torch.tensor([[1, 5, 7, 9]])
    difference = (language(ids).logits - plain(ids).logits).abs().max()
    assert difference < 0.1 * plain(ids).logits.abs().max()
