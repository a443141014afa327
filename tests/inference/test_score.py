import json
import math

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, BlipForImageTextRetrieval, CLIPModel

from tests.inference.test_load import tiny_clip
from tests.inference.tiny import picture, tiny_folder, tiny_tokenizer
from tests.inference.tiny_judges import tiny_chinese_clip, tiny_matching, tiny_siglip
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalModels
from vlforge.inference.prompts import pixels_of
from vlforge.inference.score import LOWEST, LikelihoodScorer, local_scorer
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.tags import Tagger
from vlforge.models.reading import write_json
from vlforge.types import ModelError

TEXTS = ["the cat", "a red horse on grass", "what is the blue cat", "the cat"]


def test_cosines_are_those_of_clip_itself(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    loaded = load_model(folder, "cpu")
    pictures = [picture(n, (16, 16)) for n in range(4)]
    scores = local_scorer(loaded, 3).score(pictures, TEXTS)
    model = CLIPModel.from_pretrained(folder).eval()
    for image, text, score in zip(pictures, TEXTS, scores, strict=True):
        inputs = loaded.tokenizer([text], return_tensors="pt")
        with torch.inference_mode():
            output = model(**inputs, pixel_values=pixels_of(loaded, [image]))
        expected = output.logits_per_image.item() / model.logit_scale.exp().item()
        assert score == pytest.approx(expected, abs=1e-5)


def test_a_text_longer_than_clip_reads_is_cut(tmp_path):
    scorer = local_scorer(load_model(tiny_clip(tmp_path / "clip"), "cpu"))
    long = " ".join(["cat"] * 12)
    image = picture(0)
    assert scorer.score([image], [long]) == scorer.score([image], [long + " horse horse"])


@pytest.mark.parametrize("template", ["plain", "v1"])
def test_likelihood_does_not_depend_on_the_batch(tmp_path, template):
    loaded = load_model(tiny_folder(tmp_path / "model", template), "cpu")
    pictures = [picture(n) for n in range(4)]
    together = local_scorer(loaded, 4).score(pictures, TEXTS)
    for image, text, score in zip(pictures, TEXTS, together, strict=True):
        alone = local_scorer(loaded, 1).score([image], [text])
        assert alone == pytest.approx([score], abs=1e-5)
    assert together[0] != pytest.approx(together[3], abs=1e-4), "the picture must matter"


def test_a_blank_picture_adds_nothing_to_a_text(tmp_path):
    scorer = local_scorer(load_model(tiny_folder(tmp_path / "model"), "cpu"))
    blank = Image.new("RGB", (16, 16), (127, 127, 127))
    assert scorer.score([blank], ["the red cat"]) == pytest.approx([0.0], abs=1e-6)


def test_an_empty_text_has_the_lowest_score(tmp_path):
    scorer = local_scorer(load_model(tiny_folder(tmp_path / "model"), "cpu"))
    scores = scorer.score([picture(0), picture(1)], ["  ", "the cat"])
    assert scores[0] == LOWEST < scores[1]


def tiny_tagger(out):
    """Two tags, `cat` and `horse`, with prior log-odds of their own."""
    torch.manual_seed(0)
    vision = SmallVisionModel(SmallVisionConfig(image_size=16, channels=[8, 4], merge=2))
    tagger = Tagger(vision, ["cat", "horse"], torch.tensor([-1.0, 0.5]))
    torch.nn.init.normal_(tagger.head.weight)
    tagger.save(out)
    tiny_tokenizer().save_pretrained(out)
    write_json(out / "preprocessor_config.json", small_processor(16).to_json())
    return out


def test_a_text_without_a_tag_has_the_lowest_score(tmp_path):
    scorer = local_scorer(load_model(tiny_tagger(tmp_path / "tags"), "cpu"), 2)
    scores = scorer.score([picture(0)] * 3, ["on the grass", "a cat", ""])
    assert scores[0] == scores[2] == LOWEST < scores[1]


def test_a_tag_score_is_the_mean_rise_of_its_words_whatever_the_batch(tmp_path):
    loaded = load_model(tiny_tagger(tmp_path / "tags"), "cpu")
    image = picture(3)
    chances = torch.sigmoid(loaded.model(pixels_of(loaded, [image]))[0])
    raised = chances.log() - torch.sigmoid(loaded.model.prior).log()
    pictures = [picture(1), image, picture(2)]
    scores = local_scorer(loaded, 2).score(pictures, ["horse", "cat horse cat", "cat"])
    assert scores[1] == pytest.approx(raised.mean().item(), abs=1e-5)


def test_a_text_longer_than_the_model_is_scored_by_its_beginning(tmp_path):
    scorer = local_scorer(load_model(tiny_folder(tmp_path / "model", positions=24), "cpu"))
    (score,) = scorer.score([picture(0)], [" ".join(["the cat"] * 40)])
    assert math.isfinite(score)


def test_matching_is_blips_own_probability_whatever_the_batch(tmp_path):
    folder = tiny_matching(tmp_path / "blip")
    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pictures = [picture(n, (20 + n, 16)) for n in (0, 1, 0, 2)]
    texts = [*TEXTS[:3], "a " * 30]
    expected = []
    for image, text in zip(pictures, texts, strict=True):
        words = tiny_tokenizer()([text], truncation=True, max_length=12, return_tensors="pt")
        given = {name: words[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model(**given, **processor(images=[image], return_tensors="pt"))
        expected.append(output.itm_score.softmax(-1)[0, 1].item())
    for batch in (1, 3, 32):
        scorer = LocalModels(device="cpu", batch=batch).scorer(str(folder))
        assert scorer.score(pictures, texts) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01


def test_a_blip_that_captions_does_not_match(tmp_path):
    folder = tiny_matching(tmp_path / "blip")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", fields | {"architectures": ["BlipForConditionalGeneration"]})
    with pytest.raises(
        ModelError, match="holds a BlipForConditionalGeneration, which cannot match"
    ):
        LocalModels(device="cpu").scorer(str(folder))


@pytest.mark.parametrize("make", [tiny_siglip, tiny_chinese_clip])
def test_every_encoder_scores_by_cosine(tmp_path, make):
    models = LocalModels(device="cpu")
    folder = str(make(tmp_path / "model"))
    pictures = [picture(n) for n in range(4)]
    scores = models.scorer(folder).score(pictures, TEXTS)
    embedder = models.embedder(folder)
    expected = (embedder.embed_images(pictures) * embedder.embed_texts(TEXTS)).sum(-1)
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_folder_of_ours_is_scored_by_likelihood_still(tmp_path):
    models = LocalModels(device="cpu")
    assert isinstance(models.scorer(str(tiny_folder(tmp_path / "model"))), LikelihoodScorer)
    with pytest.raises(ModelError, match="no model at"):
        models.scorer(str(tmp_path / "gone"))
