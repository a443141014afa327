import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.small_stage import stopped_before
from tests.tiny_model import COLOURS, SPEC, write_data, write_parts
from vlforge.data.images import load_rgb
from vlforge.models.config import ModelSpec, SmallLanguageSpec
from vlforge.models.folder import assemble
from vlforge.models.parts.image_processor import small_processor
from vlforge.models.parts.tags import Tagger
from vlforge.models.reading import read_tokenizer
from vlforge.training.config import AugmentSpec, Mixture, Optimiser, PretrainConfig
from vlforge.training.pretrain import pretrain
from vlforge.types import DataError, ModelError, RecipeError

LANGUAGE = SmallLanguageSpec(
    hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=32
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tag stage over pictures of one colour."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    _, tokenizer = write_parts(folder, data)
    return PretrainConfig(
        objective="tags",
        data=str(data),
        tokenizer=str(tokenizer),
        samples=240,
        batch=4,
        vision=SPEC,
        language=LANGUAGE,
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
    )


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tagged(made, tmp_path_factory):
    """The folder of a trained tagger and its summary."""
    out = tmp_path_factory.mktemp("tagged")
    return out, pretrain(made, out, device="cpu")


def test_a_tagger_learns_which_word_is_on_which_picture(made, tagged):
    out, summary = tagged
    assert summary["data_rows"] == 12
    tagger = Tagger.load(out).eval()
    processor = small_processor(16)
    for number, colour in enumerate(COLOURS):
        picture = processor.fit(load_rgb(str(Path(made.data).parent / f"images/{number}.png")))
        with torch.no_grad():
            logits = tagger(processor.normalise(torch.tensor(picture)[None]))[0]
        scores = {name: logits[tagger.tags.index(name)].item() for name in COLOURS}
        assert max(scores, key=scores.get) == colour


def test_a_tagger_is_a_vision_folder_with_its_tokenizer(made, tagged):
    out, _ = tagged
    folder = assemble(ModelSpec(vision=str(out), language=made.tokenizer))
    tagger = Tagger.load(out)
    assert torch.equal(folder.model.vision.tower.position, tagger.vision.position)
    assert folder.processor.fit_mode == "stretch"
    assert len(read_tokenizer(out)) == len(read_tokenizer(Path(made.tokenizer)))


def test_text_teaches_a_decoder_to_write(tmp_path, made):
    config = replace(made, objective="text", samples=400, group_by_length=True)
    summary = pretrain(config, tmp_path, device="cpu")
    steps = lines(tmp_path)
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert summary["data_rows"] == 24
    language = LlamaForCausalLM.from_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    ids = tokenizer("It is", return_tensors="pt").input_ids
    text = tokenizer.decode(language.generate(ids, max_new_tokens=3, do_sample=False)[0])
    assert text.startswith("<s>It is ")
    assert text.split()[2].strip(".</s>") in COLOURS


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "text"},
        {"objective": "tags", "augment": True},
        {"objective": "tags", "augment": AugmentSpec(shift=0.1, noise=0.0)},
        {"objective": "tags", "vision": replace(SPEC, norm="batch"), "tag_sharpness": 4.0},
    ],
)
def test_an_interrupted_stage_ends_with_the_same_bytes(tmp_path, made, change):
    config = replace(made, samples=24, save_every_samples=8, **change)
    pretrain(config, tmp_path / "whole", device="cpu")
    with stopped_before(5):
        pretrain(config, tmp_path / "cut", device="cpu")
    pretrain(config, tmp_path / "cut", device="cpu")
    for file in sorted((tmp_path / "whole").iterdir()):
        if file.name != "timing.json":
            assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes(), file.name


def test_rows_without_picture_or_known_word_are_counted(tmp_path, made):
    data = write_data(tmp_path)
    rows = json.loads(data.read_text())
    del rows[0]["image"]
    rows[0]["conversations"][0]["value"] = "no picture"
    rows[1]["conversations"][1]["value"] = "!?"
    data.write_text(json.dumps(rows))
    (tmp_path / "images/2.png").write_bytes(b"")
    summary = pretrain(replace(made, data=str(data), samples=8), tmp_path / "out", device="cpu")
    assert summary["data_rows"] == 9
    assert summary["dropped"] == {"not one picture": 1, "no tag": 1, "unreadable picture": 1}


def test_rare_words_can_be_left_out_of_the_tags(tmp_path, made):
    pretrain(replace(made, samples=4, tag_min_count=5), tmp_path / "often", device="cpu")
    pretrain(replace(made, samples=4), tmp_path / "all", device="cpu")
    often, every = Tagger.load(tmp_path / "often").tags, Tagger.load(tmp_path / "all").tags
    assert set(often) == {"It", "is"}
    assert set(every) == {"It", "is", *COLOURS}


def test_tied_embeddings_share_one_matrix(tmp_path, made):
    config = replace(
        made, objective="text", samples=8, language=replace(LANGUAGE, tie_embeddings=True)
    )
    tied = pretrain(config, tmp_path / "tied", device="cpu")
    loose = pretrain(replace(config, language=LANGUAGE), tmp_path / "loose", device="cpu")
    vocabulary = len(read_tokenizer(tmp_path / "tied"))
    assert loose["parameters"] - tied["parameters"] == vocabulary * LANGUAGE.hidden_size


def test_mixtures_are_drawn_by_weight(tmp_path, made):
    text = tmp_path / "text.txt"
    text.write_text("It is red.\n")
    parts = (Mixture(made.data, 1.0), Mixture(str(text), 1.0))
    config = replace(made, objective="text", data=parts, samples=20)
    assert pretrain(config, tmp_path / "out", device="cpu")["data_rows"] == 25


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"samples": 0}, RecipeError, "give at least 1"),
        ({"tokenizer": "nowhere"}, ModelError, "nowhere has no tokenizer"),
        ({"data": "nowhere.json"}, DataError, "nowhere.json"),
        ({"data": "nowhere.jsonl", "objective": "text"}, DataError, "nowhere.jsonl"),
        ({"vision": replace(SPEC, merge=3)}, ModelError, "take a multiple of"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, made, change, error, match):
    with pytest.raises(error, match=match) as caught:
        pretrain(replace(made, **change), tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
