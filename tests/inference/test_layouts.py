"""Models of other projects are talked to as they lie, tiles and all."""

import json
import shutil

import pytest
import torch

from tests.checkpoints import tiny_llava as tiny
from tests.inference.tiny import picture
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import find, read_checkpoint
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.prompts import embed, prompt_of, sized_pixels_of
from vlforge.types import ModelError, Sample, Turn

TILES = {
    "image_aspect_ratio": "anyres",
    "patch_merge": "spatial_unpad",
    "image_grid_pinpoints": [(8, 16), (16, 8), (16, 16)],
}


def asked(tmp_path, number: int, size=(20, 14)) -> Sample:
    path = tmp_path / f"{number}.png"
    picture(number, size).save(path)
    return Sample(str(number), (str(path),), (Turn("user", "<image>\nwhat is red ?"),))


def written(tmp_path, layout, **config):
    ours = tiny.folder(tmp_path / "ours", tiny.model(**config))
    out = tmp_path / layout
    out.mkdir()
    find(layout).write(read_checkpoint(ours), out, Writing())
    return ours, out


@pytest.mark.parametrize("config", [{}, TILES], ids=["one tile", "tiles"])
@pytest.mark.parametrize("layout", ["llava", "llava_hf_nested"])
def test_a_foreign_folder_answers_as_ours_does(tmp_path, layout, config):
    ours, out = written(tmp_path, layout, **config)
    samples = [asked(tmp_path, number, (20 + 9 * number, 31)) for number in range(3)]
    loaded = load_model(out, "cpu")
    assert loaded.kind == ("family" if layout == "llava" else "native")
    wanted = LocalChat(ours, device="cpu").answer(samples, 6)
    template = "auto" if layout == "llava" else "v1"
    found = LocalChat(out, device="cpu", template=template).answer(samples, 6)
    assert [one.text for one in found] == [one.text for one in wanted]


def test_tiles_of_several_pictures_stand_where_each_alone_would(tmp_path):
    ours, _ = written(tmp_path, "llava", **TILES)
    loaded = load_model(ours, "cpu")
    samples = [asked(tmp_path, 0, (40, 9)), asked(tmp_path, 1, (9, 40)), asked(tmp_path, 2)]
    prompts = [prompt_of(loaded, sample) for sample in samples]
    together = embed(loaded, prompts)
    for prompt, made, sample in zip(prompts, together, samples, strict=True):
        (alone,) = embed(loaded, [prompt])
        torch.testing.assert_close(made, alone, atol=1e-6, rtol=0)
        pixels, sizes = sized_pixels_of(loaded, sample.images)
        assert len(pixels) == loaded.model.tiling.tiles(sizes[0])
        assert len(made) == len(prompt.ids) - 1 + loaded.model.count(sizes)[0]


def test_tokens_of_a_sample_are_counted_from_sizes_alone(tmp_path):
    ours, _ = written(tmp_path, "llava", **TILES)
    loaded = load_model(ours, "cpu")
    sample = asked(tmp_path, 0, (40, 9))
    encoded = loaded.model.encode(
        sample, loaded.template, loaded.tokenizer, sizes=[(40, 9)], generation=True
    )
    (made,) = embed(loaded, [prompt_of(loaded, sample)])
    assert encoded.length == len(made)
    (span,) = encoded.image_spans
    assert span[1] - span[0] == loaded.model.count([(40, 9)])[0]
    with pytest.raises(ModelError, match="give sizes"):
        loaded.model.encode(sample, loaded.template, loaded.tokenizer)


def test_a_connector_file_is_opened_with_its_parts(tmp_path):
    ours, out = written(tmp_path, "llava_projector")
    model = load_model(ours, "cpu").model
    words, tower = tmp_path / "words", tmp_path / "tower"
    model.language.save_pretrained(words)
    model.vision.tower.save_pretrained(tower)
    for file in ours.glob("*token*"):
        shutil.copy(file, words)
    parts = Parts(base=words, vision=tower)
    sample = asked(tmp_path, 0)
    wanted = LocalChat(ours, device="cpu").answer([sample], 6)
    for path in (out, out / "mm_projector.bin"):
        found = LocalChat(path, device="cpu", template="v1", parts=parts).answer([sample], 6)
        assert found[0].text == wanted[0].text
    with pytest.raises(ModelError, match="name its folder with --base"):
        load_model(out, "cpu")


def test_answers_end_where_the_folder_says(tmp_path):
    _, out = written(tmp_path, "llava")
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert load_model(out, "cpu").decoding(4).eos_ids == (2, 5)


def test_a_folder_without_tokenizer_is_told_how_to_get_one(tmp_path):
    _, out = written(tmp_path, "llava")
    for file in out.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(out, "cpu")
