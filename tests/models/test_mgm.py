import json
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import ConvNextConfig, ConvNextModel, GemmaConfig

from tests.tiny_mgm import mgm, mgm_config, write_towers
from tests.tiny_model import llama_config, write_data, write_parts
from vlforge.checkpoints.checkpoint import meta_model
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.base import PARTS
from vlforge.models.config import ModelSpec
from vlforge.models.folder import assemble, read_folder, write_folder
from vlforge.models.mgm import MgmModel, low_views
from vlforge.models.parts import convnext
from vlforge.models.parts.convnext import ConvNextTower
from vlforge.training.freezing import freeze
from vlforge.types import ModelError

IDS = torch.tensor([[1, 5, -200, 7, 8, 9], [1, 6, 7, -200, 3, 3], [1, 6, 7, 8, 0, 0]])
MASK = torch.tensor([[True] * 6, [True] * 6, [True] * 4 + [False] * 2])
GRIDS = [(1, False), (2, False), (2, True)]


def pictures(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def published_tokens(model: MgmModel, pixels: torch.Tensor) -> torch.Tensor:
    """`encode_images` of the reference, restated: tiles cut from the map, then windows of each."""
    g, low, miner = model.config.image_grid, model.vision.low, model.connector.miner
    views = low_views(pixels, low.image_size, g, model.config.image_global)
    maps = [m.float() for m in model.vision.high(pixels)]
    side = maps[0].shape[-1]
    joined = torch.cat([F.interpolate(m, (side, side), mode="bilinear") for m in maps], 1)

    def mine(tokens, image):
        n, width = math.isqrt(tokens.shape[1]), tokens.shape[-1]
        w = image.shape[-1] // n
        windows = F.unfold(image, w, stride=w).view(len(image), image.shape[1], w * w, n * n)
        windows = windows.permute(0, 3, 2, 1)
        query, key, value = miner.query(tokens), miner.key(windows), miner.value(windows)
        scores = torch.einsum("bnc,bnpc->bnp", query, key) / width**0.5
        return tokens + torch.einsum("bnp,bnpc->bnc", scores.softmax(-1), value)

    found = []
    if model.config.image_global:
        small = F.interpolate(joined, scale_factor=1 / g, mode="bilinear")
        found.append(mine(low(views[:, -1]), small))
    tile = side // g
    for number in range(g * g):
        row, column = divmod(number, g)
        rows, columns = (
            slice(row * tile, (row + 1) * tile),
            slice(column * tile, (column + 1) * tile),
        )
        found.append(mine(low(views[:, number]), joined[:, :, rows, columns]))
    return model.connector.projector(torch.cat(found, 1))


@pytest.mark.parametrize("order", ["folded", "published"])
@pytest.mark.parametrize(("grid", "has_global"), GRIDS)
@torch.no_grad()
def test_tokens_are_those_of_the_published_steps(grid, has_global, order):
    model = mgm(image_grid=grid, image_global=has_global)
    model.connector.miner.order = order
    found = model.encode_images(pictures())
    assert found.shape == (2, model.image_tokens, 16)
    assert model.image_tokens == 16 * (grid**2 + has_global)
    torch.testing.assert_close(found, published_tokens(model, pictures()), atol=1e-5, rtol=0)


def test_views_are_crops_of_one_resized_picture_and_then_the_whole():
    pixels = pictures(1, 40)
    views = low_views(pixels, 8, 2, True)
    small = F.interpolate(pixels, (16, 16), mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(views[0, 1], small[0, :, :8, 8:])
    assert torch.equal(views[0, 2], small[0, :, 8:, :8])
    assert torch.equal(views[0, 4], F.interpolate(small, (8, 8), mode="bilinear")[0])


def test_views_are_cut_before_pixels_are_rounded():
    half = mgm().to(torch.bfloat16)
    seen = []
    half.vision.low.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    half.encode_images(pictures())
    exact = low_views(pictures(), 16)[:, 0]
    assert torch.equal(seen[0], exact.to(torch.bfloat16))


def test_convnext_is_the_published_network():
    """Restated: stem, then blocks of depthwise 7 x 7, norm, two linear layers, scale, sum."""
    tower = ConvNextTower(ConvNextConfig(**(mgm_config().vision_high_config.to_dict()))).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        theirs = {convnext.timm_name(n): p for n, p in tower.tower.state_dict().items()}

        def norm(x, name):
            weight, bias = theirs[f"{name}.weight"], theirs[f"{name}.bias"]
            return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, 1e-6)

        def put(x):
            return x.permute(0, 3, 1, 2)

        x = F.conv2d(pictures(), theirs["stem.0.weight"], theirs["stem.0.bias"], 4)
        x, wanted = put(norm(x, "stem.1")), []
        for stage, depth in enumerate([1, 1, 2, 1]):
            if stage:
                name = f"stages.{stage}.downsample"
                x = put(norm(x, f"{name}.0"))
                x = F.conv2d(x, theirs[f"{name}.1.weight"], theirs[f"{name}.1.bias"], 2)
            for block in range(depth):
                n = f"stages.{stage}.blocks.{block}"
                weight, bias = theirs[f"{n}.conv_dw.weight"], theirs[f"{n}.conv_dw.bias"]
                y = norm(F.conv2d(x, weight, bias, padding=3, groups=len(bias)), f"{n}.norm")
                y = F.gelu(F.linear(y, theirs[f"{n}.mlp.fc1.weight"], theirs[f"{n}.mlp.fc1.bias"]))
                y = F.linear(y, theirs[f"{n}.mlp.fc2.weight"], theirs[f"{n}.mlp.fc2.bias"])
                x = x + put(y * theirs[f"{n}.gamma"])
            wanted.append(x)
        for found, known in zip(tower(pictures()), wanted, strict=True):
            torch.testing.assert_close(found, known, atol=1e-5, rtol=0)


def test_names_of_timm_go_there_and_back():
    names = list(ConvNextTower(mgm_config().vision_high_config).tower.state_dict())
    theirs = [convnext.timm_name(name) for name in names]
    assert [convnext.our_name(name) for name in theirs] == names
    assert [convnext.our_name(f"vision_{name}") for name in theirs] == names
    assert theirs[4] == "stages.0.blocks.0.gamma"
    assert convnext.our_name("head.norm.weight") is None
    assert convnext.our_name("norm_pre.weight") is None


@pytest.mark.parametrize(
    ("widths", "depths", "eps", "sum_of_widths"),
    [
        ((192, 384, 768, 1536), (3, 3, 27, 3), 1e-6, 2880),
        ((128, 256, 512, 1024), (3, 3, 27, 3), 1e-6, 1920),
        ((384, 768, 1536, 3072), (3, 4, 30, 3), 1e-5, 5760),
    ],
)
def test_published_encoders_are_known_by_their_shapes(widths, depths, eps, sum_of_widths):
    with torch.device("meta"):
        config = ConvNextConfig(hidden_sizes=widths, depths=depths)
        shapes = {n: tuple(p.shape) for n, p in ConvNextTower(config).tower.named_parameters()}
        found = convnext.config_of(shapes)
        tower = ConvNextTower(found)
    assert (tuple(found.hidden_sizes), tuple(found.depths)) == (widths, depths)
    assert tower.width == sum_of_widths
    norms = [m for m in tower.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {eps}


def test_drop_path_rises_linearly_and_works_only_in_training_and_where_asked():
    asked = mgm(high={"drop_path_rate": 0.4})
    rates = [m.p if hasattr(m, "p") else m.drop_prob for m in asked.modules()
             if type(m).__name__ == "ConvNextDropPath"]  # fmt: skip
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])  # the first block's is 0
    freeze(asked, ("connector",), PARTS)
    plain = mgm(high={"drop_path_rate": 0.0})
    freeze(plain, ("connector",), PARTS)
    with torch.no_grad():
        assert torch.equal(plain.encode_images(pictures()), plain.encode_images(pictures()))
        drawn = {asked.encode_images(pictures()).sum().item() for _ in range(8)}
        assert len(drawn) > 1
        asked.eval()
        assert torch.equal(asked.encode_images(pictures()), plain.eval().encode_images(pictures()))


def test_clips_last_layer_is_not_run():
    model = mgm()
    ran = []
    for number, layer in enumerate(model.vision.low.tower.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.encode_images(pictures())
    assert ran == [0, 1]
    assert any("encoder.layers.2." in name for name in model.unused_parameters)


@pytest.mark.parametrize("kind", ["llama", "gemma", "gemma_tanh", "mistral", "mixtral"])
def test_rows_of_a_batch_are_what_they_are_alone(kind):
    model = mgm(kind)
    with torch.no_grad():
        together = model(IDS, pictures(), MASK).logits
        for row, (seen, count) in enumerate([(pictures()[:1], 6), (pictures()[1:], 6), (None, 4)]):
            alone = model(IDS[row : row + 1, :count], seen).logits[0]
            assert (together[row, : len(alone)] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["llama", "gemma", "mistral", "mixtral"])
def test_greedy_answers_need_no_cache_and_no_neighbours(kind):
    model = mgm(kind, image_grid=2, image_global=True)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(IDS, pictures(), MASK, **options)
    alone = model.generate(IDS[2:, :4], None, use_cache=False, **options)
    assert together[2].tolist() == alone[0].tolist()
    first = model.generate(IDS[:1], pictures()[:1], use_cache=False, **options)
    assert together[0].tolist() == first[0].tolist()


def test_gemma_reads_pictures_scaled_like_words():
    model = mgm("gemma")
    with torch.no_grad():
        tokens = model.connector(model.vision(pictures()))
        made = model.splice(IDS[:2], pictures())
    assert torch.equal(made.embeds[0, 2:18], tokens[0] * 4.0)


def test_two_pictures_in_a_row_stand_in_their_order():
    model = mgm()
    ids = torch.tensor([[1, -200, 5, -200, 6]])
    with torch.no_grad():
        made = model.splice(ids, pictures())
        tokens = model.encode_images(pictures())
    assert torch.equal(made.embeds[0, 1:17], tokens[0])
    assert torch.equal(made.embeds[0, 18:34], tokens[1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_cuts_through_a_picture(side):
    model = mgm()
    made = model.splice(IDS[:2], pictures(), max_length=10, padding_side=side)
    assert made.embeds.shape[1] == 10
    assert made.plan.lengths.tolist() == [10, 10]


def test_both_orders_of_mining_give_the_same_loss_and_gradients():
    losses, gradients = [], []
    for order in ("folded", "published"):
        model = mgm(image_grid=2, image_global=True)
        model.connector.miner.order = order
        labels = IDS.masked_fill(~MASK | (IDS == -200), -100)
        spliced = model.splice(IDS, pictures(), labels=labels, mask=MASK)
        loss = model.loss_sum(spliced) / supervised_tokens(spliced.plan.labels)
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_an_adapter_on_the_key_is_not_folded_away():
    model = mgm()
    wanted = model.encode_images(pictures())

    class Adapted(torch.nn.Linear):
        def forward(self, patches):
            return super().forward(patches) + patches[..., :16]

    key = model.connector.miner.key
    adapted = Adapted(28, 16)
    adapted.load_state_dict(key[1].state_dict())
    key[1] = adapted
    assert (model.encode_images(pictures()) - wanted).abs().max() > 1e-3


def test_published_stages_train_what_they_trained():
    model = mgm()
    learns = freeze(model, model.stages["align"], PARTS, model.unused_parameters)
    assert {name.split(".")[1] for name in learns} == {"miner", "projector"}
    towers = model.published_towers()
    learns = freeze(model, (*model.stages["align"], *towers), PARTS, model.unused_parameters)
    layers = {name.split(".layers.")[0] + f".{name.split('.layers.')[1].split('.')[0]}"
              for name in learns if ".layers." in name}  # fmt: skip
    assert layers == {
        "vision.low.tower.encoder.1",
        "vision.high.tower.encoder.stages.0.0",
        "vision.high.tower.encoder.stages.1.0",
        "vision.high.tower.encoder.stages.2.1",
        "vision.high.tower.encoder.stages.3.0",
    }
    low_only = model.published_towers(high=False)
    assert all(r"vision\.low" in name for name in low_only)


@pytest.mark.parametrize(("grid", "has_global"), GRIDS)
def test_a_saved_model_is_the_same_model(tmp_path, grid, has_global):
    model = mgm("gemma", image_grid=grid, image_global=has_global)
    model.save_pretrained(tmp_path)
    back, info = MgmModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert back.config.text_config.hidden_act == "gelu"
    with torch.no_grad():
        wanted = model(IDS, pictures(), MASK).logits
        assert torch.equal(back.eval()(IDS, pictures(), MASK).logits, wanted)


def parts_of(tmp_path):
    """Folders of two encoders and a language model, and what they were made of."""
    made = mgm()
    low, high = write_towers(tmp_path, made)
    data = write_data(tmp_path / "data")
    _, language = write_parts(tmp_path, data)
    return made, low, high, language


def test_parts_become_a_model_whose_pictures_are_high(tmp_path):
    made, low, high, language = parts_of(tmp_path)
    spec = ModelSpec(
        family="mgm", vision=str(low), vision_high=str(high), language=str(language),
        image_size_high=64, image_aspect_ratio="pad", drop_path=0.1,
    )  # fmt: skip
    folder = assemble(spec)
    assert (folder.processor.size, folder.processor.fit_mode) == (64, "pad")
    assert folder.model.config.vision_high_config.drop_path_rate == 0.1
    with torch.no_grad():
        seen, known = folder.model.eval().vision(pictures()), made.vision(pictures())
    assert torch.equal(seen.tokens, known.tokens)
    assert all(torch.equal(a, b) for a, b in zip(seen.maps, known.maps, strict=True))
    write_folder(folder, tmp_path / "out")
    back = read_folder(tmp_path / "out")
    assert back.processor == folder.processor
    with torch.no_grad():
        wanted = folder.model.eval().encode_images(pictures())
        assert torch.equal(back.model.eval().encode_images(pictures()), wanted)


def test_a_connector_trained_before_brings_the_encoders_it_holds(tmp_path):
    made, low, high, language = parts_of(tmp_path)
    other = mgm(seed=1)
    names = {
        "projector": "mm_projector",
        "miner.query": "vlm_uni_query_projector",
        "miner.key": "vlm_uni_aux_projector",
        "miner.value": "vlm_uni_val_projector",
    }
    weights = {}
    for name, tensor in other.connector.state_dict().items():
        part = next(part for part in names if name.startswith(part))
        weights[f"model.{names[part]}{name.removeprefix(part)}"] = tensor
    for name, tensor in other.vision.low.tower.state_dict().items():
        weights[f"model.vision_tower.vision_tower.vision_model.{name}"] = tensor
    torch.save(weights, tmp_path / "mm_projector.bin")
    spec = ModelSpec(
        family="mgm", vision=str(low), vision_high=str(high), language=str(language),
        image_size_high=64, connector_weights=str(tmp_path / "mm_projector.bin"),
    )  # fmt: skip
    model = assemble(spec).model
    assert torch.equal(model.connector.miner.key[1].weight, other.connector.miner.key[1].weight)
    assert torch.equal(model.connector.projector[2].bias, other.connector.projector[2].bias)
    for name, tensor in model.vision.state_dict().items():
        of = other if name.startswith("low.") else made
        assert torch.equal(tensor, of.vision.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_global": True}, "image_global needs image_grid of 2"),
        ({"image_size_high": 72}, "take a multiple of 16"),
        ({"image_grid": 3}, "take a multiple of 48"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(changes, says):
    with pytest.raises(ModelError, match=says):
        MgmModel(mgm_config(**changes))


def test_wrong_encoder_folders_give_one_line(tmp_path):
    _, low, high, language = parts_of(tmp_path)
    spec = ModelSpec(family="mgm", vision=str(low), language=str(language), image_size_high=64)
    with pytest.raises(ModelError, match="needs vision_high"):
        assemble(spec)
    fields = json.loads((high / "open_clip_config.json").read_text())
    fields["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (high / "open_clip_config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="both look at the same pixels"):
        convnext.openclip_weights_file(high)
    (high / "open_clip_config.json").write_text("{}")
    (high / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="lacks open_clip_pytorch_model"):
        convnext.openclip_weights_file(high)


REAL_TEXT = {
    "2B": GemmaConfig(
        vocab_size=256_000, hidden_size=2048, intermediate_size=16_384, num_hidden_layers=18,
        num_attention_heads=8, num_key_value_heads=1, head_dim=256,
    ),
    "7B": llama_config(
        32_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32,
        num_attention_heads=32, max_position_embeddings=4096,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("size", "stage_1"), [("2B", 13_259_008), ("7B", 27_943_168)])
def test_published_sizes_have_the_published_parameters(size, stage_1):
    config = mgm_config(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
        high={"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
        text_config=REAL_TEXT[size], image_size_high=1536, image_grid=2, image_global=True,
    )  # fmt: skip
    model = meta_model(config)
    assert model.image_tokens == 2880
    learns = freeze(model, model.stages["align"], PARTS, model.unused_parameters)
    shapes = dict(model.named_parameters())
    width = config.text_config.hidden_size
    mining = 2 * (1024 + 2880 * 2) + (1024 + 2 * 2880 + 3) * 1024
    assert mining == sum(shapes[n].numel() for n in learns if ".miner." in n)
    assert stage_1 == sum(shapes[n].numel() for n in learns)
    assert stage_1 == mining + 1025 * width + (width + 1) * width
    assert shapes["connector.miner.key.1.weight"].shape == (1024, 2880)


def test_a_convnext_of_transformers_can_be_the_high_encoder(tmp_path):
    made, low, _, language = parts_of(tmp_path)
    theirs = ConvNextModel(made.config.vision_high_config)
    theirs.save_pretrained(tmp_path / "convnext")
    spec = ModelSpec(
        family="mgm", vision=str(low), vision_high=str(tmp_path / "convnext"),
        language=str(language), image_size_high=64,
    )  # fmt: skip
    model = assemble(spec).model.eval()
    with torch.no_grad():
        wanted = theirs.eval()(pictures()).last_hidden_state
        torch.testing.assert_close(model.vision.high(pictures())[-1], wanted)
    spec = ModelSpec(family="mgm", vision=str(low), vision_high=str(low), language=str(language))
    with pytest.raises(ModelError, match=r"neither an OpenCLIP folder .* nor a ConvNeXt"):
        assemble(spec)
