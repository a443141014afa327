"""Prompt-to-prompt on a tiny random SDXL: what is shared stays, what is not is drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.inference.test_painting import tokenizer_of
from tests.made_pictures import noise
from vlforge.inference import paired_painting
from vlforge.inference.local import LocalModels
from vlforge.inference.paired_painting import Pair, aligned, paint_pair

pytest.importorskip("diffusers")


def write_sdxl(folder):
    """The folder of a tiny SDXL."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    text = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                          num_attention_heads=2, vocab_size=60, max_position_embeddings=16,
                          bos_token_id=0, eos_token_id=1, projection_dim=16)  # fmt: skip
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = UNet(sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
                block_out_channels=(8, 16), norm_num_groups=4, down_block_types=down,
                up_block_types=up, cross_attention_dim=32, attention_head_dim=(2, 2),
                use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=16 + 6 * 4)  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, sample_size=32,
                        up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer_of(folder.parent / "one"),
        tokenizer_2=tokenizer_of(folder.parent / "two"),
        scheduler=EulerDiscreteScheduler(num_train_timesteps=100),
        add_watermarker=False)  # fmt: skip
    pipe.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return LocalModels(device="cpu").painter(write_sdxl(tmp_path_factory.mktemp("xl") / "sdxl"))


def halves(painter, first, second, key=1, **how):
    """Both pictures as numbers."""
    blank = Image.new("RGB", (1, 1))
    (both,) = painter.paint([blank], [first], [key], **{"second": second, "steps": 6, **how})
    pixels = np.asarray(both, float)
    return pixels[:, : both.width // 2], pixels[:, both.width // 2 :]


def test_tokens_that_both_prompts_share_are_found_in_order():
    source, is_shared = aligned([0, 7, 8, 9, 1], [0, 7, 5, 6, 9, 1], 8)
    assert is_shared.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    shared = [at for at in range(8) if is_shared[at]]
    assert source[shared].tolist() == [0, 1, 3, 4, 6, 7]


def test_weights_follow_in_the_first_steps_only():
    pair = Pair(torch.tensor([0, 2, 2]), torch.tensor([1.0, 1, 0]), steps=10)
    weights = torch.rand(4, 2, 5, 3)
    words = pair.followed(weights, is_cross=True)
    assert torch.equal(words[:3], weights[:3])
    assert torch.equal(words[3, ..., :2], weights[2][..., [0, 2]])
    assert torch.equal(words[3, ..., 2], weights[3, ..., 2])
    assert torch.equal(pair.followed(weights, is_cross=False)[3], weights[2])
    pair.step = 4
    assert torch.equal(pair.followed(weights, is_cross=False), weights)
    pair.step = 10
    assert torch.equal(pair.followed(weights, is_cross=True), weights)


def test_equal_prompts_give_equal_pictures_and_other_noise_others(painter):
    first, second = halves(painter, "a cat", "a cat")
    assert np.array_equal(first, second)
    assert not np.array_equal(first, halves(painter, "a cat", "a cat", key=2)[0])


def test_the_first_picture_is_the_prompts_own_and_the_second_stays_near_to_it(painter):
    first, second = halves(painter, "a red cat sits", "a blue cat sits")
    pipe = painter._pipe("fp32", "AutoPipelineForText2Image")
    noise = paired_painting._noise(pipe.unet, 1).repeat(2, 1, 1, 1)
    prompts = ["a red cat sits", "a blue cat sits"]
    with torch.inference_mode():
        free = pipe(prompts, latents=noise, num_inference_steps=6, guidance_scale=7.5).images
    alone = [np.asarray(image, float) for image in free]
    assert np.abs(first - alone[0]).max() <= 1
    assert 0 < np.abs(second - first).mean() < np.abs(alone[1] - alone[0]).mean()


def test_the_pipeline_is_left_as_it_was_also_after_an_error(painter, monkeypatch):
    pipe = painter._pipe("fp32", "AutoPipelineForText2Image")
    before = {name: type(one) for name, one in pipe.unet.attn_processors.items()}
    monkeypatch.setattr(paired_painting, "_noise", lambda unet, key: torch.zeros(1, 9, 4, 4))
    with pytest.raises((ValueError, RuntimeError)):
        paint_pair(pipe, ("a", "b"), 1, 2, 5.0)
    assert {name: type(one) for name, one in pipe.unet.attn_processors.items()} == before


def test_without_guidance_there_are_only_the_two(painter):
    first, second = halves(painter, "a cat", "a cat", guidance_scale=1.0)
    assert np.array_equal(first, second)


def test_the_same_folder_draws_from_pictures_too(painter):
    made = painter.paint([noise((60, 40))], ["a cat"], [1], steps=4, strength=0.5)
    assert [one.size for one in made] == [(60, 40)]
