"""A recipe of judging filters over real folders: one forward per picture, the same any way."""

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.made import config, lines, write_rows
from tests.inference.tiny import picture
from tests.inference.tiny_judges import tiny_clip, tiny_matching, tiny_vit
from vlforge.engine.local import run_process
from vlforge.inference.local import LocalModels

IMAGE = "<__dj__image>"


def rows_of(folder, count=11):
    """Rows whose third pictures repeat, one of them with two pictures."""
    for n in range(count):
        picture(n, (20 + n, 18)).save(folder / f"{n}.png")
    made = [
        {"id": f"r{n}", "text": f"{IMAGE} a red cat {'on grass ' * n}", "images": [f"{n % 8}.png"]}
        for n in range(count)
    ]
    made.append({"id": "two", "text": f"{IMAGE}{IMAGE} horse", "images": ["1.png", "2.png"]})
    return write_rows(folder / "rows.jsonl", made)


def recipe_of(folder):
    """Six filters; the first five know pictures by one CLIP."""
    clip = str(tiny_clip(folder / "clip"))
    torch.manual_seed(1)
    head = str(folder / "head.safetensors")
    save_file({"weight": torch.randn(1, 8), "bias": torch.zeros(1)}, head)
    both, wide = {"hf_clip": clip, "head": head}, {"min_score": -9, "max_score": 9}
    return [
        {"image_text_similarity_filter": {"hf_clip": clip, **wide}},
        {"image_aesthetics_filter": {**both, **wide}},
        {"image_nsfw_filter": {**both, **wide}},
        {"image_watermark_filter": {**both, "prob_threshold": 9}},
        {"text_pair_similarity_filter": {"hf_clip": clip, "text_key_second": "id", **wide}},
        {"image_text_matching_filter": {"hf_blip": str(tiny_matching(folder / "blip")), **wide}},
        {"image_nsfw_filter": {"hf_nsfw_model": str(tiny_vit(folder / "vit")), "max_score": 1}},
    ]


def measured(source, process, out, batch):
    """The statistics of all rows, and how many pictures the encoder saw."""
    models = LocalModels(device="cpu", batch=batch)
    clip = models.embedder(process[0]["image_text_similarity_filter"]["hf_clip"]).model
    seen = []
    clip.vision_model.register_forward_hook(lambda _model, _in, out: seen.append(len(out[0])))
    run_process(config(source, *process), out, models=models)
    return lines(out / "stats.jsonl"), sum(seen)


def test_one_forward_of_clip_per_picture_and_the_same_values_whatever_the_batch(tmp_path):
    source, process = rows_of(tmp_path), recipe_of(tmp_path)
    alone, seen = measured(source, process, tmp_path / "out1", 1)
    assert len(alone) == 12
    assert seen == 8
    for batch in (5, 32):
        together, seen = measured(source, process, tmp_path / f"out{batch}", batch)
        assert seen == 8
        for one, other in zip(alone, together, strict=True):
            assert numbers(one) == pytest.approx(numbers(other), abs=1e-5)


def numbers(stats):
    """All values of one row by name."""
    return {
        f"{name} {place}": number
        for name, value in stats.items()
        if isinstance(value, list)
        for place, number in enumerate(value)
    }
