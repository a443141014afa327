import pickle

import pytest
import torch
from PIL import Image

from tests.inference.tiny import picture, tiny_folder
from vlforge.engine.config import ProcessConfig
from vlforge.inference.captioners import LocalCaptioner
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat, LocalModels
from vlforge.inference.prompts import Batches, embed, pixels_of, prompt_of
from vlforge.recipe.typed import build
from vlforge.types import DataError, ModelError, Sample, Turn


def samples(folder, count=7):
    """Conversations with no, one or two pictures."""
    made = []
    for number in range(count):
        pictures = []
        for place in range(number % 3):
            path = folder / f"{number}-{place}.png"
            picture(10 * number + place).save(path)
            pictures.append(str(path))
        text = "<image>\n" * len(pictures) + " ".join(["what is the cat"] * (1 + number % 2))
        made.append(Sample(str(number), tuple(pictures), (Turn("user", text),)))
    return made


def test_answers_do_not_depend_on_the_batch(tmp_path):
    folder = tiny_folder(tmp_path / "model", template="v1")
    asked = samples(tmp_path)
    together = LocalChat(folder, batch=7).answer(asked, 12)
    alone = [LocalChat(folder, batch=1).answer([sample], 12)[0] for sample in asked]
    assert [a.text for a in together] == [a.text for a in alone]
    for left, right in zip(together, alone, strict=True):
        assert left.confidence == pytest.approx(right.confidence, abs=1e-5)
    assert len({a.text for a in together}) > 2, "the case must hold different answers"


def test_embeddings_are_what_the_model_splices_by_itself(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model", template="v1"))
    for sample in samples(tmp_path):
        prompt = prompt_of(loaded, sample)
        pixels = pixels_of(loaded, sample.images) if sample.images else None
        expected = loaded.model.splice(torch.tensor([prompt.ids]), pixels).embeds[0]
        assert torch.equal(embed(loaded, [prompt])[0], expected)


def test_greedy_answers_equal_generate_of_the_model(tmp_path):
    chat = LocalChat(tiny_folder(tmp_path / "model", template="v1"))
    for sample, answer in zip(samples(tmp_path), chat.answer(samples(tmp_path), 10), strict=True):
        prompt = prompt_of(chat.loaded, sample)
        pixels = pixels_of(chat.loaded, sample.images) if sample.images else None
        ids = chat.loaded.model.generate(
            torch.tensor([prompt.ids]), pixels, max_new_tokens=10, do_sample=False, pad_token_id=0
        )[0]
        assert answer.text == chat.loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_the_streamed_pieces_are_the_answer(tmp_path):
    chat = LocalChat(tiny_folder(tmp_path / "model", template="v1"))
    for sample in samples(tmp_path):
        assert "".join(chat.stream(sample, 10)) == chat.answer([sample], 10)[0].text


def test_captions_depend_on_the_picture_and_its_key_only(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    pictures = [picture(n) for n in range(6)]
    keys = [100 + n for n in range(6)]
    together = LocalCaptioner(load_model(folder), 6).caption(pictures, [None] * 6, 3, keys)
    order = [4, 2, 0, 5, 1, 3]
    mixed = LocalCaptioner(load_model(folder), 2).caption(
        [pictures[n] for n in order], [None] * 6, 3, [keys[n] for n in order]
    )
    for place, number in enumerate(order):
        assert [c.text for c in mixed[place]] == [c.text for c in together[number]]
    assert len({tuple(c.text for c in row) for row in together}) == 6


def test_the_first_candidate_is_the_greedy_caption(tmp_path):
    captioner = LocalCaptioner(load_model(tiny_folder(tmp_path / "model")))
    (several,) = captioner.caption([picture(1)], [None], 4, [5])
    (one,) = captioner.caption([picture(1)], [None], 1, [9])
    assert len(several) == 4
    assert several[0].text == one[0].text
    assert "\n" not in "".join(c.text for c in several)


def test_a_prompt_begins_the_caption(tmp_path):
    captioner = LocalCaptioner(load_model(tiny_folder(tmp_path / "model")))
    image, loaded = picture(1), captioner.loaded
    prompt = captioner._prompt(image, "the cat")
    assert loaded.tokenizer.decode(prompt.ids[-2:]) == "the cat"
    assert prompt.ids[:-2] == captioner._prompt(image, None).ids


def test_a_broken_picture_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    chat = LocalChat(tiny_folder(tmp_path / "model", template="v1"))
    with pytest.raises(DataError, match=r"broken\.png"):
        chat.answer([Sample("1", (str(path),), (Turn("user", "<image>\nwhat"),))], 4)


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "P", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_answered_about(tmp_path, mode):
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    Image.new(mode, (40, 9)).save(path)
    chat = LocalChat(tiny_folder(tmp_path / "model", template="v1"))
    chat.answer([Sample("1", (str(path),), (Turn("user", "<image>\nwhat"),))], 4)


def test_models_travel_without_their_weights_and_open_each_folder_once(tmp_path):
    models = LocalModels(device="cpu", threads=1, batch=4)
    folder = str(tiny_folder(tmp_path / "model"))
    assert models.captioner(folder).loaded is models.captioner(folder).loaded
    copied = pickle.dumps(models)
    assert len(copied) < 500
    assert pickle.loads(copied) == models


def test_a_model_that_compares_cannot_chat(tmp_path):
    loaded = load_model(tiny_folder(tmp_path / "model"))
    object.__setattr__(loaded, "kind", "clip")
    with pytest.raises(ModelError, match="holds a clip model, which cannot answer questions"):
        LocalChat(loaded)


def test_a_batch_that_does_not_fit_is_halved_and_results_keep_their_order():
    sizes = []

    def work(group):
        if len(group) > 3:
            raise torch.OutOfMemoryError
        sizes.append(len(group))
        return [item * 10 for item in group]

    batches = Batches(16)
    items = [5, 3, 9, 1, 7, 2, 8]
    assert batches.run(items, work, length=lambda item: item) == [item * 10 for item in items]
    assert sizes == [3, 3, 1]


def test_a_sample_that_does_not_fit_alone_is_an_error():
    def work(group):
        raise torch.OutOfMemoryError

    with pytest.raises(ModelError, match="no memory left for a single sample"):
        Batches(4).run([1, 2, 3], work, length=int)


def test_models_of_operators_are_loaded_as_the_recipe_says(tmp_path):
    config = build(ProcessConfig, {"models": {"precision": "bf16", "attention": "eager"}}, str)
    models = LocalModels(device="cpu", loading=config.models)
    copied = pickle.loads(pickle.dumps(models))
    for source in (models, copied):
        loaded = source.captioner(str(tiny_folder(tmp_path / "model"))).loaded
        assert loaded.model.dtype == torch.bfloat16
        assert loaded.language.config._attn_implementation == "eager"
