"""Native models under three nouns: every weight once, costs counted, adapters in their place."""

import pytest
from transformers import AutoModelForImageTextToText

from tests.models.test_native import MAKERS
from tests.models.tiny_native import qwen3
from vlforge.models.native import NativeModel
from vlforge.models.native_cost import full_config, is_counted, native_cost
from vlforge.models.native_parts import NativeParts, their_name
from vlforge.models.parts.native_processor import open_processor
from vlforge.runs.model_plan import Lora, plan_model


@pytest.fixture(params=MAKERS, scope="module")
def parts(request, tmp_path_factory):
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return NativeParts(NativeModel(model, open_processor(folder)))


def test_every_weight_is_found_under_its_noun_and_once(parts):
    ours = dict(parts.named_parameters())
    theirs = dict(parts.whole.model.named_parameters())
    assert {name.partition(".")[0] for name in ours} == {"vision", "connector", "language"}
    assert {their_name(name): id(weight) for name, weight in ours.items()} == {
        name: id(weight) for name, weight in theirs.items()
    }


def test_a_module_replaced_in_a_branch_is_replaced_in_the_model(parts):
    layer = parts.whole.model.get_output_embeddings()
    name = next(name for name, module in parts.language.named_modules() if module is layer)
    new = type(layer)(layer.in_features, layer.out_features, bias=False)
    setattr(parts.language, name, new)
    assert parts.whole.model.get_output_embeddings() is new
    setattr(parts.language, name, layer)


def test_the_cost_counts_every_weight(parts):
    cost = native_cost(parts.config.to_dict())
    sizes = dict.fromkeys(("vision", "connector", "language"), 0)
    for name, weight in parts.named_parameters():
        sizes[name.partition(".")[0]] += weight.numel()
    assert cost.by_part() == sizes
    assert parts.cost() == cost == native_cost(full_config(parts.config.to_diff_dict()))


def test_a_configuration_as_the_hub_has_it_is_counted():
    flat = {"model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960,
            "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
            "vocab_size": 151936, "tie_word_embeddings": True,
            "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16,
                              "hidden_size": 1536, "patch_size": 14}}  # fmt: skip
    # Qwen2-VL-2B-Instruct, whose files hold as many weights.
    cost = native_cost(full_config(flat))
    assert cost.parameters == 2_208_985_600
    assert round((cost.by_part()["vision"] + cost.by_part()["connector"]) / 1e6) == 665
    assert not is_counted({"model_type": "llava", "mm_vision_tower": "openai/clip"})


def test_a_folder_is_planned(tmp_path):
    plan = plan_model(qwen3(tmp_path), lora=Lora(rank=4))
    assert plan.family == "native"
    assert [stage.name for stage in plan.stages] == ["align", "instruct", "lora"]
    assert plan.stages[0].trained == plan.cost.by_part()["connector"]
