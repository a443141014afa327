"""Boxes are those of transformers' own forward and post-processing, whatever the batch."""

import pytest
import torch
import transformers
from transformers.utils.import_utils import BACKENDS_MAPPING, SCIPY_IMPORT_ERROR

from tests.inference.tiny import picture
from tests.inference.tiny_judges import tiny_clip, tiny_owl
from vlforge.inference.local import LocalModels
from vlforge.types import ModelError

PICTURES = [picture(n, size) for n, size in enumerate([(40, 30), (30, 50), (32, 32)])]
PHRASES = [["the cat"], ["a red horse", "grass", "cat on grass is blue cat cat cat"], ["a", "red"]]


def models(**how):
    return LocalModels(device="cpu", **how)


def theirs(folder, kind, processor):
    """One picture at a time through transformers' processor, model and post-processing."""
    model = getattr(transformers, f"{kind}ForObjectDetection").from_pretrained(folder).eval()
    finish = getattr(transformers, f"{kind}ImageProcessorPil").post_process_object_detection
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for image, phrases in zip(PICTURES, PHRASES, strict=True):
        how = {"padding": "max_length", "max_length": 6, "truncation": True}
        words = tokenizer(phrases, **how, return_tensors="pt")
        words = {name: words[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            output = model(**words, **processor(images=[image], return_tensors="pt"))
        sizes = torch.tensor([image.size[::-1]])
        (found,) = finish(processor, output, -1.0, sizes)
        order = found["scores"].argsort(descending=True, stable=True)
        yield found["boxes"][order], found["scores"][order], found["labels"][order]


@pytest.mark.parametrize("kind", ["OwlViT", "Owlv2"])
def test_boxes_are_transformers_own_whatever_the_batch(tmp_path, kind):
    folder = tiny_owl(tmp_path, kind.lower())
    squares = transformers.OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    expected = list(theirs(folder, kind, squares))
    for batch in (1, 2, 32):
        grounder = models(batch=batch).grounder(str(folder))
        # OWLv2's own processor needs scipy, which is in no extra: its squares are made here.
        grounder.processor = squares if kind == "Owlv2" else grounder.processor
        found = grounder.ground(PICTURES, PHRASES)
        for rows, (boxes, scores, labels) in zip(found, expected, strict=True):
            told = torch.tensor([[b.left, b.top, b.right, b.bottom] for b in rows])
            torch.testing.assert_close(told, boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(
                torch.tensor([b.score for b in rows]), scores, atol=1e-5, rtol=0
            )
            assert [b.phrase for b in rows] == labels.tolist()
    assert {b.phrase for b in found[1]} > {0}


def test_a_picture_that_nothing_is_asked_of_has_no_boxes(tmp_path):
    grounder = models().grounder(str(tiny_owl(tmp_path)))
    one, none = grounder.ground(PICTURES[:2], [["the cat"], []])
    assert len(one) == 16
    assert none == []
    assert grounder.ground([], []) == []


def test_what_finds_no_words_is_called_by_its_name(tmp_path):
    for path, said in (
        ("google/owlvit-base-patch32", "no model at google/owlvit-base-patch32; give the folder"),
        (tiny_clip(tmp_path), "of type 'clip', which finds no words in pictures"),
    ):
        with pytest.raises(ModelError, match=said) as error:
            models().grounder(str(path))
        assert "\n" not in str(error.value)


def test_a_library_that_a_processor_lacks_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS_MAPPING, "scipy", (lambda: False, SCIPY_IMPORT_ERROR))
    grounder = models().grounder(str(tiny_owl(tmp_path, "owlv2")))
    with pytest.raises(ModelError, match="its image processor needs scipy: pip install scipy"):
        grounder.ground(PICTURES[:1], [["cat"]])
