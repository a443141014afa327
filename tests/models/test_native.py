"""Image-text models of transformers: the same ids, losses and answers as its own classes give."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.models.tiny_native import (
    idefics,
    internvl,
    llava,
    onevision,
    qwen,
    qwen2,
    qwen3,
    smolvlm,
)
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.models.native import NativeModel
from vlforge.models.parts.native_processor import open_processor
from vlforge.types import DataError, ModelError, Sample, Turn

MAKERS = {
    "qwen2-vl": qwen2,
    "qwen2.5-vl": qwen,
    "qwen3-vl": qwen3,
    "llava": llava,
    "llava-onevision": onevision,
    "idefics3": idefics,
    "smolvlm": smolvlm,
    "internvl": internvl,
}
ASKED = (
    Turn("user", "<image>\nwhat colour is the car?"),
    Turn("assistant", "it is red."),
    Turn("user", "what?"),
    Turn("assistant", "it"),
)
END = "<|im_end|>"


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(params=MAKERS, scope="module")
def folder(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def native(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return NativeModel(model, open_processor(folder))


def mixed_rows(native):
    """Rows of one picture, none, and one of another shape in the middle of a turn."""
    text_only = Sample("b", (), (Turn("user", "what?"), Turn("assistant", "the car")))
    within = Sample("c", ("y",), (Turn("user", "what <image> colour"), Turn("assistant", "red.")))
    return [
        native.encode(Sample("a", ("x",), ASKED), [picture(90, 50)]),
        native.encode(text_only, []),
        native.encode(within, [picture(40, 120, seed=1)]),
    ]


def test_ids_are_those_of_the_models_own_processor(native):
    image = picture(90, 50)
    row = native.encode(Sample("a", ("x",), ASKED), [image])
    text = native._render(ASKED, False)
    wanted = native.processor(images=[image], text=[text], return_tensors="pt")
    assert row.ids == wanted["input_ids"][0].tolist()
    for key, value in row.inputs.items():
        assert torch.equal(value, wanted[key])


def test_answers_and_their_ends_are_supervised_and_nothing_else(native):
    row = native.encode(Sample("a", ("x",), ASKED), [picture(90, 50)])
    kept = [token for token, label in zip(row.ids, row.labels, strict=True) if label != -100]
    assert native.tokenizer.decode(kept) == f"it is red.{END}it{END}"


def test_count_tells_the_image_tokens_from_sizes(native):
    sizes = [(90, 50), (40, 120), (28, 28)]
    token = native.model.config.image_token_id
    for size, told in zip(sizes, native.count(sizes), strict=True):
        row = native.encode(Sample("a", ("x",), ASKED), [picture(*size)])
        (span,) = row.image_spans
        # Idefics3 counts the marks of its rows too, which stand within the span.
        assert row.ids.count(token) <= told <= span[1] - span[0]


def test_the_loss_of_a_mixed_batch_is_transformers_own(native):
    batch = native.collate(mixed_rows(native))
    supervised = (batch["labels"][:, 1:] != -100).sum()
    with torch.no_grad():
        wanted = native.model(**batch).loss * supervised
        torch.testing.assert_close(native.loss_sum(batch), wanted, atol=1e-3, rtol=1e-5)


def test_the_head_on_supervised_rows_changes_neither_loss_nor_gradient(native):
    batch = native.collate(mixed_rows(native))
    embeddings = native.model.get_input_embeddings().weight

    def loss(lean):
        native.zero_grad()
        value = native.loss_sum(batch, lean=lean)
        value.backward()
        return value.detach(), embeddings.grad.clone()

    for lean, full in zip(loss(True), loss(False), strict=True):
        torch.testing.assert_close(lean, full, atol=1e-4, rtol=1e-5)


def test_greedy_answers_are_transformers_own_alone_and_in_a_batch(folder, tmp_path):
    loaded = load_model(folder, "cpu")
    samples = []
    for number, size in enumerate([(90, 50), (40, 120), (60, 60)]):
        picture(*size, seed=number).save(tmp_path / f"{number}.png")
        turn = Turn("user", "<image>\n" + "what colour is the car? " * (number + 1))
        samples.append(Sample(str(number), (str(tmp_path / f"{number}.png"),), (turn,)))
    together = LocalChat(loaded).answer(samples, 8)
    for sample, answer in zip(samples, together, strict=True):
        text = NativeModel(loaded.model, loaded.processor)._render(sample.turns, True)
        with Image.open(sample.images[0]) as image:
            inputs = loaded.processor(
                images=[image.convert("RGB")], text=[text], return_tensors="pt"
            )
        ids = loaded.model.generate(
            **inputs, max_new_tokens=8, do_sample=False, eos_token_id=loaded.tokenizer.eos_token_id
        )
        new = ids[0, inputs["input_ids"].shape[1] :]
        wanted = loaded.tokenizer.decode(new, skip_special_tokens=True)
        assert answer.text == wanted.strip()


def test_every_parameter_belongs_to_one_noun(native):
    parts = native.parts()
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(list(native.parameters()))


def test_a_row_is_cut_behind_its_pictures_only(native):
    whole = native.encode(Sample("a", ("x",), ASKED), [picture(90, 50)])
    end = whole.image_spans[-1][1]
    cut = native.encode(Sample("a", ("x",), ASKED), [picture(90, 50)], max_length=end + 2)
    assert cut.ids == whole.ids[: end + 2]
    assert cut.problem
    with pytest.raises(DataError, match=f"pictures end at token {end} and {end - 1} fit"):
        native.encode(Sample("a", ("x",), ASKED), [picture(90, 50)], max_length=end - 1)


def test_tags_and_pictures_must_agree(native):
    with pytest.raises(DataError, match="hold 1 <image> and the sample has 2 images"):
        native.encode(Sample("a", ("x", "y"), ASKED), [picture(9, 9), picture(9, 9)])


def test_a_template_that_writes_the_past_anew_is_refused(native):
    native.processor.chat_template = (
        "{% for m in messages %}[{{ loop.revindex }}]{{ m['role'] }}{% endfor %}"
    )
    turns = (Turn("user", "what?"), Turn("assistant", "a"), Turn("user", "what?"))
    with pytest.raises(DataError, match="give a template"):
        native.encode(Sample("a", (), turns), [])


def test_a_folder_without_a_processor_is_named(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match="processor cannot be read"):
        open_processor(tmp_path)
