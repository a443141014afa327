"""A tiny random Stable Diffusion in diffusers' folder layout, opened by path as users do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.made_pictures import noise
from vlforge.inference.local import LocalModels
from vlforge.inference.painting import UNSAFE
from vlforge.inference.prompts import Batches
from vlforge.types import ModelError, Refusal

diffusers = pytest.importorskip("diffusers")
WORDS = ("<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz")


def tokenizer_of(folder):
    """CLIP's tokenizer with letters for a vocabulary."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [*WORDS, *(f"{word}</w>" for word in WORDS[2:])]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"),
                         model_max_length=16, unk_token="<|endoftext|>")  # fmt: skip


def checker_of(threshold):
    """A safety checker that holds back what is nearer to its concepts than a threshold."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    config = CLIPConfig(vision_config={**sizes, "image_size": 16, "patch_size": 8},
                        text_config={**sizes, "vocab_size": 60}, projection_dim=8)  # fmt: skip
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(threshold)
    checker.special_care_embeds_weights.data.fill_(9.0)
    return checker


def write_pipeline(folder, threshold: float | None = None):
    """The folder of a whole pipeline, with a safety checker where a threshold is given."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = UNet(sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
                block_out_channels=(8, 16), norm_num_groups=4, down_block_types=down,
                up_block_types=up, cross_attention_dim=16, attention_head_dim=4)  # fmt: skip
    vae = AutoencoderKL(in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
                        down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4)  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=60, max_position_embeddings=16, bos_token_id=0, eos_token_id=1))  # fmt: skip
    with_checker = threshold is not None
    pipe = StableDiffusionImg2ImgPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer_of(folder.parent / "letters"),
        scheduler=DDIMScheduler(num_train_timesteps=100, steps_offset=1, clip_sample=False),
        safety_checker=checker_of(threshold) if with_checker else None,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        requires_safety_checker=with_checker)  # fmt: skip
    pipe.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("plain") / "sd")


def painted(folder, images, words, keys, **how):
    painter = LocalModels(device="cpu").painter(folder)
    return painter.paint(images, words, keys, **{"steps": 3, "strength": 0.7, **how})


def test_pictures_of_any_size_come_back_in_their_size_whatever_their_company(folder):
    images = [noise((50, 40)), noise((30, 90)), noise((50, 40), seed=9)]
    words, keys = ["a cat", "a dog", "a bus"], [1, 2, 3]
    made = painted(folder, images, words, keys)
    assert [one.size for one in made] == [(50, 40), (30, 90), (50, 40)]
    for at in range(3):
        (alone,) = painted(folder, images[at : at + 1], words[at : at + 1], keys[at : at + 1])
        assert alone.tobytes() == made[at].tobytes()
    assert made[0].tobytes() != images[0].tobytes()


def test_pictures_of_one_size_that_are_drawn_together_come_out_as_alone(folder):
    images = [noise((40, 40), seed=seed) for seed in range(5)]
    words, keys = [f"a {letter}" for letter in "abcde"], list(range(5))
    alone = painted(folder, images, words, keys)
    painter = LocalModels(device="cpu").painter(folder)
    painter.batches = Batches(3)  # as on a GPU
    together = painter.paint(images, words, keys, steps=3, strength=0.7)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_words_noise_and_strength_change_what_is_drawn(folder):
    image = noise((48, 48))
    seen = {
        one.tobytes()
        for one in (
            painted(folder, [image], ["a cat"], [1])[0],
            painted(folder, [image], ["a cat"], [2])[0],
            painted(folder, [image], ["dogs run"], [1], guidance_scale=30.0)[0],
            painted(folder, [image], ["a cat"], [1], strength=1.0)[0],
            painted(folder, [image], ["a cat"], [1], is_square=True)[0],
        )
    }
    assert len(seen) >= 4


def test_the_safety_checker_holds_pictures_back(tmp_path):
    never = write_pipeline(tmp_path / "never" / "sd", threshold=9.0)
    always = write_pipeline(tmp_path / "always" / "sd", threshold=-9.0)
    images = [noise((40, 40)), noise((40, 60))]
    assert all(isinstance(one, Image.Image) for one in painted(never, images, ["a", "b"], [1, 2]))
    assert painted(always, images, ["a", "b"], [1, 2]) == [Refusal(UNSAFE)] * 2


def test_the_operator_draws_with_a_folder(tmp_path, folder):
    from vlforge.ops.batch import Batch, Context, Item
    from vlforge.ops.bind import bind

    path = tmp_path / "a.png"
    noise((44, 36)).save(path)
    (bound,) = bind([{"image_diffusion_mapper": {
        "hf_diffusion": folder, "caption_key": "text", "steps": 3, "aug_num": 2}}])  # fmt: skip
    items = [Item("u1", 1, {"text": "a cup", "images": [str(path)]})]
    context = Context(models=LocalModels(device="cpu"), produced=str(tmp_path / "produced"))
    (grown,) = bound.op.apply(Batch(items, context))
    drawn = [np.asarray(Image.open(row["images"][0])) for row in grown.rows]
    assert [one.shape for one in drawn] == [(36, 44, 3)] * 2
    assert not np.array_equal(*drawn)


def test_a_folder_of_something_else_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model_index\.json; give the folder"):
        LocalModels(device="cpu").painter(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(ModelError, match="cannot be opened as a model that draws"):
        painted(str(tmp_path), [noise((40, 40))], ["a"], [1])
