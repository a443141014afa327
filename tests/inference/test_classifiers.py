"""Classifiers by path: transformers' own probabilities, whatever the batch."""

import pytest
import torch
import transformers

from tests.inference import tiny_judges
from tests.inference.tiny import picture, tiny_folder
from vlforge.inference.local import LocalModels
from vlforge.types import ModelError

PICTURES = [picture(n, (40 + 9 * n, 34)) for n in range(4)]
TEXTS = ["the cat", "a red horse on grass", "what is the blue cat " * 8, "a"]


def models(**how):
    return LocalModels(device="cpu", **how)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_convnext"])
def test_pictures_have_transformers_probabilities_whatever_the_batch(tmp_path, name):
    place = getattr(tiny_judges, name)(tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(place).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil")
    with torch.inference_mode():
        logits = [model(**processor(images=[p], return_tensors="pt")).logits for p in PICTURES]
    expected = torch.cat(logits).softmax(-1)
    assert expected[:, 0].max() - expected[:, 0].min() > 1e-3
    for batch in (1, 3, 32):
        classifier = models(batch=batch).classifier(str(place))
        found = torch.tensor(classifier.classify_images(PICTURES))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert classifier.labels[1] in ("nsfw", "watermark")


def text_logits(place):
    """Each text alone, cut at the model's 12 positions."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    how = {"truncation": True, "max_length": 12, "return_tensors": "pt"}
    with torch.inference_mode():
        return torch.cat([model(**tokenizer([text], **how)).logits for text in TEXTS])


@pytest.mark.parametrize(
    ("how", "squash"),
    [
        ({"num_labels": 3}, lambda logits: logits.softmax(-1)),
        ({"num_labels": 1}, torch.sigmoid),
        ({"num_labels": 1, "problem_type": "regression"}, lambda logits: logits),
        ({"num_labels": 2, "problem_type": "multi_label_classification"}, torch.sigmoid),
    ],
)
def test_texts_have_transformers_probabilities_whatever_the_batch(tmp_path, how, squash):
    place = tiny_judges.tiny_bert(tmp_path, **how)
    expected = squash(text_logits(place))
    for batch in (1, 3, 32):
        found = torch.tensor(models(batch=batch).classifier(str(place)).classify_texts(TEXTS))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


def refusal(path, use="classify_images", given=PICTURES):
    with pytest.raises(ModelError) as error:
        getattr(models().classifier(str(path)), use)(given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_classify_is_called_by_its_name(tmp_path):
    assert "no model at Falconsai/nsfw_image_detection; give" in refusal(
        "Falconsai/nsfw_image_detection"
    )
    assert "does not classify" in refusal(tiny_folder(tmp_path / "ours"))
    assert "a CLIPModel, which does not classify" in refusal(tiny_judges.tiny_clip(tmp_path / "c"))
    vit = tiny_judges.tiny_vit(tmp_path / "vit")
    assert "classifies pictures, not texts" in refusal(vit, "classify_texts", TEXTS)
    bert = tiny_judges.tiny_bert(tmp_path / "bert")
    assert "classifies texts, not pictures" in refusal(bert)
    (vit / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in refusal(vit)
