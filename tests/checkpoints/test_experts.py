import pytest
import torch
from transformers import CLIPVisionConfig, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from tests.tiny_model import CLIP
from vlforge.checkpoints.checkpoint import Checkpoint, expected
from vlforge.checkpoints.weights import open_weights
from vlforge.models.llava import LlavaConfig, LlavaModel

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "num_experts": 3, "num_local_experts": 3, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize("kind", [MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig])
def test_files_have_the_names_that_transformers_writes_and_build_the_same_model(tmp_path, kind):
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=CLIPVisionConfig(**CLIP), text_config=kind(**SIZES))
    model = LlavaModel(config).eval()
    model.save_pretrained(tmp_path)
    weights = open_weights(tmp_path)
    assert expected(config) == {name: lazy.shape for name, lazy in weights.items()}
    built = Checkpoint(tmp_path, "vlforge", config, weights).build()
    for name, tensor in model.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor), name
