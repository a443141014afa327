import pytest
import torch

from tests.tiny_model import SPEC, write_data, write_parts
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.tags import Tagger, tag_names, tag_targets
from vlforge.models.reading import read_tokenizer
from vlforge.types import ModelError


def tagger() -> Tagger:
    torch.manual_seed(0)
    vision = SmallVisionModel(SmallVisionConfig.of(SPEC))
    return Tagger(vision, ["red", "A"], torch.tensor([-1.0, 2.0])).eval()


def test_specials_spaces_and_marks_are_no_tags():
    assert tag_names(["<pad>", "▁", ".", "▁red", "red", "A", "\n", "7"]) == [
        None, None, None, "red", "red", "A", None, "7",
    ]  # fmt: skip


def test_an_untrained_tagger_answers_near_the_prior():
    logits = tagger()(torch.randn(4, 3, 16, 16))
    assert logits.shape == (4, 2)
    assert (logits - torch.tensor([-1.0, 2.0])).abs().max() < 0.5


def test_a_tag_has_to_be_somewhere_not_everywhere():
    made = tagger()
    with torch.no_grad():
        places = made.head(made.vision.map(torch.randn(1, 3, 16, 16)).permute(0, 2, 3, 1))
        made.head.weight.mul_(100)
        strong = made(torch.randn(1, 3, 16, 16))
    assert places.shape == (1, 4, 4, 2)
    assert (strong > made.bias).all()


def test_the_sharper_the_nearer_to_the_best_place():
    made, pixels = tagger(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        places = made.head(made.vision.map(pixels).permute(0, 2, 3, 1)).flatten(1, 2)
        made.sharpness = 500.0
        torch.testing.assert_close(made(pixels), places.amax(1) + made.bias, atol=0.01, rtol=0)
        made.sharpness = 1e-3
        torch.testing.assert_close(made(pixels), places.mean(1) + made.bias, atol=0.01, rtol=0)


def test_a_folder_gives_the_tagger_back(tmp_path):
    made = tagger()
    made.save(tmp_path)
    pixels = torch.randn(2, 3, 16, 16)
    back = Tagger.load(tmp_path).eval()
    assert torch.equal(back(pixels), made(pixels))
    assert back.tags == made.tags
    assert torch.equal(back.prior, made.prior)
    with pytest.raises(ModelError, match="has no tag head"):
        Tagger.load(tmp_path / "none")


def test_targets_are_the_known_words_of_a_text(tmp_path):
    _, language = write_parts(tmp_path, write_data(tmp_path))
    tokenizer = read_tokenizer(language)
    tags = ["green", "red", "C", "A", "T"]
    found = tag_targets(["It is red, red. CAT", "nothing known"], tokenizer, tags)
    assert found == [[1, 2, 3, 4], []]
