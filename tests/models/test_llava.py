import pytest
import torch
from transformers import LlavaConfig as TransformersLlavaConfig
from transformers import LlavaForConditionalGeneration

from tests.tiny_model import llava
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.encoding import encode_sample
from vlforge.models.llava import LlavaModel
from vlforge.text.templates import find_template
from vlforge.types import DataError, ModelError, Sample, Turn

IDS = torch.tensor([[1, 5, -200, 7, 8, 9], [1, 6, 7, -200, 3, 3], [1, 6, 7, 8, 0, 0]])
MASK = torch.tensor([[True] * 6, [True] * 6, [True] * 4 + [False] * 2])


def batch(vision: str = "small"):
    model = llava(vision)
    side = model.vision.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    labels = IDS.masked_fill(~MASK | (IDS == -200), -100)
    return model, pixels, labels


@pytest.mark.parametrize("vision", ["small", "clip"])
def test_rows_of_a_batch_are_what_they_are_alone(vision):
    model, pixels, _ = batch(vision)
    together = model(IDS, pixels, MASK).logits
    for row, (picture, count) in enumerate([(pixels[:1], 6), (pixels[1:], 6), (None, 4)]):
        alone = model(IDS[row : row + 1, :count], picture).logits[0]
        assert (together[row, : len(alone)] - alone).abs().max() < 1e-5


def test_the_lean_loss_is_the_loss_of_the_logits():
    model, pixels, labels = batch()
    spliced = model.splice(IDS, pixels, labels=labels, mask=MASK)
    mean = model.loss_sum(spliced) / supervised_tokens(spliced.plan.labels)
    assert abs(mean - model(IDS, pixels, MASK, labels=labels).loss) < 1e-5


def test_padding_on_either_side_gives_the_same_loss():
    model, pixels, labels = batch()
    losses = [
        model.loss_sum(model.splice(IDS, pixels, labels=labels, mask=MASK, padding_side=side))
        for side in ("left", "right")
    ]
    assert abs(losses[0] - losses[1]) < 1e-4


def test_features_from_a_cache_give_the_same_loss_and_gradients():
    model, pixels, labels = batch()
    losses, gradients = [], []
    features = model.vision(pixels).detach()
    for given in ({"pixels": pixels}, {"features": features}):
        model.zero_grad()
        loss = model.loss_sum(model.splice(IDS, labels=labels, mask=MASK, **given))
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.connector[0].weight.grad.clone())
    assert abs(losses[0] - losses[1]) < 1e-5
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_generation_continues_each_row_as_alone():
    model, pixels, _ = batch()
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(IDS, pixels, MASK, **options)
    assert together.shape == (3, 4)
    alone = model.generate(IDS[2:, :4], None, **options)
    assert together[2].tolist() == alone[0].tolist()


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_is_the_same_model(tmp_path, tied):
    model = llava(text={"tie_word_embeddings": tied})
    model.save_pretrained(tmp_path)
    back, info = LlavaModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(back.eval()(IDS, pixels, MASK).logits, model(IDS, pixels, MASK).logits)


def test_half_precision_stays_near():
    model, pixels, _ = batch()
    wanted = model(IDS, pixels, MASK).logits
    found = model.to(torch.bfloat16)(IDS, pixels, MASK).logits
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted)[MASK.all(1)].abs().max() < 0.2


@pytest.mark.parametrize("select_feature", ["patch", "cls_patch"])
def test_logits_are_those_of_transformers_llava(select_feature):
    model = llava("clip", select_feature=select_feature)
    count = model.image_tokens
    strategy = {"patch": "default", "cls_patch": "full"}[select_feature]
    config = TransformersLlavaConfig(
        vision_config=model.config.vision_config,
        text_config=model.config.text_config,
        image_token_index=39,
        image_seq_length=count,
        vision_feature_select_strategy=strategy,
    )
    theirs = LlavaForConditionalGeneration(config).eval()
    names = {
        "vision.tower.": "model.vision_tower.",
        "connector.0.": "model.multi_modal_projector.linear_1.",
        "connector.2.": "model.multi_modal_projector.linear_2.",
        "language.model.": "model.language_model.",
        "language.lm_head.": "lm_head.",
    }
    state = {}
    for name, tensor in model.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        state[names[prefix] + name.removeprefix(prefix)] = tensor
    theirs.load_state_dict(state)
    pixels = torch.randn(1, 3, 8, 8)
    expanded = torch.tensor([[1, 5, *[39] * count, 7, 8, 9]])
    with torch.no_grad():
        wanted = theirs(input_ids=expanded, pixel_values=pixels).logits
        found = model(IDS[:1], pixels).logits
    assert (found - wanted).abs().max() < 1e-5


class Letters:
    """A tokenizer with an id per letter, no special tokens."""

    bos_token_id = eos_token_id = pad_token_id = unk_token_id = None
    eos_token = None
    adds_bos = False
    legacy = None

    def ids(self, text):
        return [ord(letter) for letter in text]

    def ids_and_offsets(self, text):
        return self.ids(text), [(n, n + 1) for n in range(len(text))]


def caption(text: str, images: int = 1) -> Sample:
    turns = (Turn("user", "<image>" * images), Turn("assistant", text))
    return Sample("0", tuple(f"{n}.png" for n in range(images)), turns)


def encoded(sample, **options):
    return encode_sample(sample, find_template("plain"), Letters(), image_tokens=8, **options)


def test_encoding_counts_pictures_as_the_tokens_they_take():
    row = encoded(caption("abc"))
    assert row.ids == [-200, *b"abc", 10]
    assert row.labels == [-100, *b"abc", 10]
    assert (row.length, row.image_spans, row.problem) == (12, ((0, 8),), None)


def test_a_row_cut_to_nothing_says_so():
    assert encoded(caption("abc"), max_length=9).ids == [-200, 97]
    assert "cut" in encoded(caption("abc"), max_length=8).problem


def test_a_picture_that_does_not_fit_whole_is_left_out():
    row = encoded(caption("abc"), max_length=7)
    assert (row.ids, row.images) == ([], ())


def test_more_tags_than_pictures_are_an_error():
    sample = Sample("0", (), (Turn("user", "<image>"), Turn("assistant", "a")))
    two = Sample("0", ("a.png", "b.png"), sample.turns)
    with pytest.raises(DataError):
        encoded(two)


def test_pictures_without_tags_are_an_error():
    model, pixels, _ = batch()
    with pytest.raises(ModelError, match="0 <image> tags in 1 rows and 2 pictures"):
        model.splice(torch.tensor([[1, 2]]), pixels)
