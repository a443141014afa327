"""Embeddings are transformers' own, whatever the batch; folders that hold none are named."""

import numpy as np
import pytest
import torch
import transformers

from tests.inference import tiny_judges
from tests.inference.tiny import picture, tiny_folder
from vlforge.inference.embedders import CLASSES, open_embedder
from vlforge.inference.local import LocalModels
from vlforge.models.reading import read_config
from vlforge.types import Loading, ModelError

TEXTS = ["the cat", "a red horse on grass", "what is the blue cat", "a"]
PICTURES = [picture(n, (20 + 7 * n, 14)) for n in range(4)]
LAYOUTS = ["clip", "chinese_clip", "siglip", "siglip2"]


def folder(tmp_path, name):
    return getattr(tiny_judges, f"tiny_{name}")(tmp_path / name)


def models(**how):
    return LocalModels(device="cpu", **how)


def theirs(place, images, texts):
    """transformers' own features, one picture and one text at a time, made unit vectors."""
    kind = getattr(transformers, CLASSES[read_config(place)["model_type"]])
    model = kind.from_pretrained(place).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    seen, read = [], []
    with torch.inference_mode():
        for image in images:
            inputs = processor(images=[image], return_tensors="pt")
            seen.append(model.get_image_features(**inputs).pooler_output)
        for text in texts:
            if kind.__name__.startswith("Siglip"):
                inputs = tokenizer([text], padding="max_length", max_length=10, return_tensors="pt")
                inputs = {"input_ids": inputs["input_ids"]}
            else:
                inputs = tokenizer([text], return_tensors="pt")
            read.append(model.get_text_features(**inputs).pooler_output)
    return [torch.nn.functional.normalize(torch.cat(made), dim=-1).numpy() for made in (seen, read)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_embeddings_are_transformers_own_whatever_the_batch(tmp_path, name):
    place = folder(tmp_path, name)
    seen, read = theirs(place, PICTURES, TEXTS)
    for batch in (1, 3, 32):
        embedder = models(batch=batch).embedder(str(place))
        np.testing.assert_allclose(embedder.embed_images(PICTURES), seen, atol=1e-5)
        np.testing.assert_allclose(embedder.embed_texts(TEXTS), read, atol=1e-5)
    assert np.ptp(seen, axis=0).max() > 0.01
    assert np.ptp(read, axis=0).max() > 0.01


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_text_longer_than_the_model_reads_is_cut(tmp_path, name):
    embedder = models().embedder(str(folder(tmp_path, name)))
    long = " ".join(["cat"] * 14)
    same, other = embedder.embed_texts([long, f"{long} horse horse"])
    np.testing.assert_allclose(same, other, atol=1e-6)


@pytest.mark.parametrize("name", ["dinov2", "siglip_vision"])
def test_encoders_of_pictures_alone_give_what_they_pool(tmp_path, name):
    place = folder(tmp_path, name)
    model = transformers.AutoModel.from_pretrained(place).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
    with torch.inference_mode():
        seen = [
            model(**processor(images=[image], return_tensors="pt")).pooler_output
            for image in PICTURES
        ]
    expected = torch.nn.functional.normalize(torch.cat(seen), dim=-1).numpy()
    embedder = models(batch=3).embedder(str(place))
    np.testing.assert_allclose(embedder.embed_images(PICTURES), expected, atol=1e-5)
    with pytest.raises(ModelError, match="encodes pictures alone; give the folder of a CLIP"):
        embedder.embed_texts(["a"])


@pytest.mark.parametrize(("name", "has_bias"), [("clip", False), ("siglip", True)])
def test_scale_and_bias_make_the_models_logits_of_cosines(tmp_path, name, has_bias):
    place = folder(tmp_path, name)
    embedder = models().embedder(str(place))
    model = getattr(transformers, CLASSES[name]).from_pretrained(place).eval()
    ids = embedder.tokenizer([TEXTS[0]], padding="max_length", max_length=10, return_tensors="pt")
    given = {"input_ids": ids["input_ids"]} if has_bias else dict(ids)
    with torch.inference_mode():
        out = model(**given, **embedder.pixels(PICTURES[:1]))
    cosine = float(embedder.embed_images(PICTURES[:1])[0] @ embedder.embed_texts(TEXTS[:1])[0])
    told = embedder.scale * cosine + embedder.bias
    assert told == pytest.approx(out.logits_per_text.item(), abs=1e-4)
    assert bool(embedder.bias) == has_bias


def test_embeddings_are_unit_vectors_of_float32_in_any_precision(tmp_path):
    place = str(folder(tmp_path, "clip"))
    for precision in ("fp32", "bf16"):
        made = models(loading=Loading(precision)).embedder(place).embed_images(PICTURES)
        assert made.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(made, axis=-1), 1, atol=1e-5)


def test_a_folder_is_opened_once_and_nothing_to_embed_needs_no_forward(tmp_path):
    place, source = str(folder(tmp_path, "clip")), models()
    assert source.embedder(place) is source.embedder(place) is source.scorer(place).embedder
    assert len(source.embedder(place).embed_images([])) == 0


def refusal(path):
    with pytest.raises(ModelError) as error:
        open_embedder(models(), str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_encoder_is_called_by_its_name(tmp_path):
    assert "no model at openai/clip-vit-base-patch32; give the folder" in refusal(
        "openai/clip-vit-base-patch32"
    )
    assert "has no config.json" in refusal(tmp_path)
    assert "a model of type 'vlforge_llava'" in refusal(tiny_folder(tmp_path / "ours"))
    assert "has no preprocessor_config.json" in refusal(_without(tmp_path, "preprocessor_config"))
    assert "has no tokenizer" in refusal(_without(tmp_path, "tokenizer"))
    assert "cannot be loaded" in refusal(_without(tmp_path, "model.safetensors"))


def _without(tmp_path, name):
    place = folder(tmp_path / name, "clip")
    for file in place.glob(f"{name}*"):
        file.unlink()
    return place
