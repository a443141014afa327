import pytest
import torch
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.inference.tiny import picture, tiny_language, tiny_tokenizer
from vlforge.inference.captioners import LocalCaptioner
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.score import local_scorer
from vlforge.types import DataError, ModelError, Sample, Turn

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}"
)


def widen(model):
    """Weights far enough from zero that pictures and words change what is said."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    return model


def tiny_blip2(out):
    torch.manual_seed(0)
    text = {
        "model_type": "opt",
        "vocab_size": 19,
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 200,
        "word_embed_proj_dim": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = Blip2Config(
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        qformer_config={**SMALL, "encoder_hidden_size": 16, "vocab_size": 20},
        text_config=text,
        num_query_tokens=3,
        image_token_index=18,
    )
    model = widen(Blip2ForConditionalGeneration(config))
    model.save_pretrained(out)
    images = BlipImageProcessorPil(size={"height": 16, "width": 16})
    Blip2Processor(images, tiny_tokenizer(), num_query_tokens=3).save_pretrained(out)
    return out


def tiny_llava_hf(out):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = CLIPVisionConfig(**SMALL, image_size=16, patch_size=8)
    config = LlavaConfig(
        vision_config=vision,
        text_config=tiny_language(vocab=19, positions=200).config,
        image_token_index=18,
        vision_feature_layer=-1,
    )
    widen(LlavaForConditionalGeneration(config)).save_pretrained(out)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(out)
    return out


def ask(path, words):
    return Sample(words, (str(path),), (Turn("user", f"<image>\n{words}"),))


def assert_same(left, right):
    assert [c.text for c in left] == [c.text for c in right]
    assert [c.confidence for c in left] == pytest.approx([c.confidence for c in right], abs=1e-4)


@pytest.mark.parametrize("build", [tiny_blip2, tiny_llava_hf])
def test_captions_depend_on_picture_and_key_only(tmp_path, build):
    loaded = load_model(build(tmp_path / "model"), "cpu")
    assert loaded.kind == "native"
    pictures, prompts = [picture(n) for n in range(4)], ["the cat", None, "the red horse", None]
    together = LocalCaptioner(loaded, 4).caption(pictures, prompts, 3, [7, 8, 9, 10])
    for place, captions in enumerate(together):
        alone = LocalCaptioner(loaded, 1).caption(
            [pictures[place]], [prompts[place]], 3, [7 + place]
        )
        assert_same(alone[0], captions)
    assert len({tuple(c.text for c in row) for row in together}) == 4


def test_a_conversation_follows_the_models_own_template(tmp_path):
    chat = LocalChat(tiny_llava_hf(tmp_path / "model"), device="cpu")
    picture(3).save(tmp_path / "p.png")
    asked = [ask(tmp_path / "p.png", "what is the cat"), ask(tmp_path / "p.png", "red")]
    together = chat.answer(asked, 6)
    for sample, answer in zip(asked, together, strict=True):
        inputs = chat.loaded.processor(
            images=Image.open(sample.images[0]),
            text="<image> " + sample.id + " ",
            return_tensors="pt",
        )
        ids = chat.loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert answer.text == chat.loaded.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert "".join(chat.stream(asked[0], 6)) == together[0].text


def test_a_model_without_conversations_refuses_one(tmp_path):
    chat = LocalChat(tiny_blip2(tmp_path / "model"), device="cpu")
    picture(3).save(tmp_path / "p.png")
    turns = (Turn("user", "<image>\nwhat"), Turn("assistant", "cat"), Turn("user", "what"))
    with pytest.raises(DataError, match="takes one question, not a conversation"):
        chat.answer([Sample("1", (str(tmp_path / "p.png"),), turns)], 4)


def test_a_native_model_does_not_score_yet(tmp_path):
    with pytest.raises(ModelError, match="a native model does not score"):
        local_scorer(load_model(tiny_blip2(tmp_path / "model"), "cpu"))
