"""Heads on embeddings: each published layout gives what its own forward gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.inference.tiny import picture
from tests.inference.tiny_judges import VISION, square, tiny_clip
from vlforge.inference.local import LocalModels
from vlforge.models.reading import write_json
from vlforge.types import ModelError

D = 8
VECTORS = torch.nn.functional.normalize(torch.randn(5, D, generator=torch.manual_seed(3)), dim=-1)


def linear_stack():
    """LAION's improved aesthetic predictor, linear: dropout between layers and nothing else."""
    return nn.Sequential(
        nn.Linear(D, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
        nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip


def relu_stack():
    """The same with ReLU."""
    return nn.Sequential(
        nn.Linear(D, 1024), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1024, 128), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 16),
        nn.ReLU(), nn.Linear(16, 1),
    )  # fmt: skip


def h14_stack():
    """LAION's NSFW detector for H/14: no ReLU before the last layer. Narrower here."""
    return nn.Sequential(
        nn.Linear(D, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 64), nn.ReLU(),
        nn.Dropout(0.2), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip


def plain_stack():
    """Anyone's own: one hidden layer."""
    return nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, 1))


class NsfwHead(nn.Module):
    """LAION's NSFW heads for B/32 and L/14: normalised by mean and variance, a sigmoid at last."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.randn(D))
        self.norm.register_buffer("variance", torch.rand(D) + 0.1)
        self.linear_1, self.linear_2 = nn.Linear(D, 16), nn.Linear(16, 12)
        self.linear_3 = nn.Linear(12, 1)

    def forward(self, x):
        x = (x - self.norm.mean) / (self.norm.variance.sqrt() + 1e-10)
        x = self.linear_2(self.linear_1(x).relu()).relu()
        return self.linear_3(x).sigmoid()


def wide(make):
    """The module with weights that make its answers differ."""
    torch.manual_seed(0)
    made = make()
    for weight in made.parameters():
        weight.data *= 2
    return made.eval().requires_grad_(False)


def head_of(path):
    return LocalModels(device="cpu").head(str(path))


@pytest.mark.parametrize("make", [linear_stack, relu_stack, h14_stack, plain_stack, NsfwHead])
@pytest.mark.parametrize("prefix", ["", "layers."])
def test_a_published_head_gives_what_its_forward_gives(tmp_path, make, prefix):
    head = wide(make)
    prefix = "" if make is NsfwHead else prefix
    torch.save({prefix + n: v for n, v in head.state_dict().items()}, tmp_path / "head.pth")
    found = head_of(tmp_path / "head.pth").judge(VECTORS.numpy())
    assert found == pytest.approx(head(VECTORS)[:, 0].tolist(), abs=1e-4)
    assert np.ptp(found) > 0.01


def test_laions_first_head_is_one_linear_layer_and_may_be_safetensors(tmp_path):
    head = wide(lambda: nn.Linear(D, 1))
    torch.save(head.state_dict(), tmp_path / "head.pth")
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    for name in ("head.pth", "head.safetensors"):
        found = head_of(tmp_path / name).judge(list(VECTORS.numpy()))
        assert found == pytest.approx(head(VECTORS)[:, 0].tolist(), abs=1e-6)


class V1(CLIPVisionModelWithProjection):
    """The layout of aesthetics-predictor-v1: encoder and head in one folder."""

    def __init__(self, config):
        super().__init__(config)
        self.predictor = nn.Linear(config.projection_dim, 1)

    def judge(self, pixels):
        seen = self(pixel_values=pixels).image_embeds
        return self.predictor(seen / seen.norm(dim=-1, keepdim=True))


class V2(V1):
    """The layout of aesthetics-predictor-v2."""

    stack = staticmethod(linear_stack)

    def __init__(self, config):
        super().__init__(config)
        del self.predictor
        self.layers = self.stack()
        self.predictor = self.layers

    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        return {name: value for name, value in found.items() if not name.startswith("predictor")}


class V2ReLU(V2):
    """With ReLU."""

    stack = staticmethod(relu_stack)


def predictor(out: Path, kind):
    """A folder as on the hub: config, weights, processor; no code."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(**VISION, projection_dim=D)
    model = kind(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.data *= 3 if weight.dim() > 1 and "embed" not in name else 1
    square().save_pretrained(out)
    save_file(model.state_dict(), out / "model.safetensors", {"format": "pt"})
    name = {V1: "V1", V2: "V2Linear", V2ReLU: "V2ReLU"}[kind]
    fields = config.to_dict() | {"architectures": [f"AestheticsPredictor{name}"]}
    write_json(out / "config.json", fields | {"auto_map": {"AutoModel": f"modeling.{name}"}})
    return model


@pytest.mark.parametrize("kind", [V1, V2, V2ReLU])
def test_a_predictors_folder_is_encoder_and_head(tmp_path, kind):
    model = predictor(tmp_path, kind)
    source = LocalModels(device="cpu", batch=2)
    pictures = [picture(n) for n in range(3)]
    vectors = source.embedder(str(tmp_path)).embed_images(pictures)
    found = source.head(str(tmp_path)).judge(vectors)
    pixels = torch.from_numpy(np.stack(square()(images=pictures)["pixel_values"]))
    assert found == pytest.approx(model.judge(pixels)[:, 0].tolist(), abs=1e-4)
    with pytest.raises(ModelError, match="encodes pictures alone"):
        source.embedder(str(tmp_path)).embed_texts(["a"])


def refusal(path, vectors=VECTORS):
    with pytest.raises(ModelError) as error:
        head_of(path).judge(vectors)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_head_is_refused(tmp_path):
    assert "no weights at" in refusal(tmp_path / "gone.pth")
    assert "holds no head" in refusal(tiny_clip(tmp_path / "clip"))
    torch.save(nn.Linear(D, 3).state_dict(), tmp_path / "three.pth")
    assert "(3, 8) are no head that gives one number" in refusal(tmp_path / "three.pth")
    torch.save({"layers.0.weight": torch.ones(1, D)}, tmp_path / "half.pth")
    assert "has no bias" in refusal(tmp_path / "half.pth")
    torch.save({"conv.weight": torch.ones(1, D)}, tmp_path / "other.pth")
    assert "conv.weight belongs to no head" in refusal(tmp_path / "other.pth")
    torch.save(linear_stack(), tmp_path / "code.pth")
    assert "nothing of it was run" in refusal(tmp_path / "code.pth")
    torch.save(nn.Linear(D, 1).state_dict(), tmp_path / "fine.pth")
    assert "of width 8, the encoder gives 6" in refusal(tmp_path / "fine.pth", VECTORS[:, :6])
