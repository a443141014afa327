"""Batched decoding gives the greedy answers that LLaVA gives one by one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from vlforge.checkpoints.llava import read_llava
from vlforge.inference.generate import Decoding, generate
from vlforge.inference.load import Loaded
from vlforge.inference.prompts import Prompt, embed
from vlforge.models.parts.image_processor import ImageProcessor

GOLDEN = {"model_golden": "llava_xtuner/llava_model/v15*/golden.json"}


class Numerals:
    """Writes ids as numbers: the answers are compared as ids."""

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


def test_a_batch_of_unlike_prompts_is_answered_as_the_reference_answers_each(model_golden: Path):
    torch.set_num_threads(1)
    folder = model_golden.parent
    model = read_llava(folder).eval()
    fields = json.loads((folder / "clip/preprocessor_config.json").read_text(encoding="utf-8"))
    loaded = Loaded(
        kind="llava",
        path=str(folder),
        model=model,
        tokenizer=Numerals(),
        processor=ImageProcessor.from_json(fields, model.config.image_aspect_ratio),
        device=torch.device("cpu"),
    )
    cases = json.loads(model_golden.read_text(encoding="utf-8"))["greedy"]
    prompts = []
    for case in cases:
        pictures = ()
        if case.get("image"):
            with Image.open(folder.parents[1] / "images" / case["image"]) as image:
                pictures = (image.convert("RGB"),)
        prompts.append(Prompt(tuple(case["input_ids"]), pictures))
    wanted = [case["output_ids"][1:] for case in cases]
    decoding = Decoding(max_new_tokens=max(map(len, wanted)), eos_ids=(2,))
    answers = generate(model.language, loaded.tokenizer, embed(loaded, prompts), decoding)
    for (answer,), ids in zip(answers, wanted, strict=True):
        drawn = [*answer.ids, *([2] if answer.is_finished else [])]
        assert drawn[: len(ids)] == ids
