"""LLaVA's own tiny models: features, splice, logits, losses, gradients, greedy answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.golden.recorded import followed
from vlforge.checkpoints.llava import read_llava
from vlforge.checkpoints.llava_fields import our_name
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.base import PARTS
from vlforge.models.parts.anyres import BLANK
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze

GOLDEN = {"model_golden": "llava_xtuner/llava_model/*/golden.json"}
IGNORE = -100


def opened(golden: Path):
    """The model, the reference's batch and its recorded numbers."""
    torch.set_num_threads(1)
    model = read_llava(golden.parent)
    numbers = json.loads(golden.read_text(encoding="utf-8"))
    tensors = load_file(golden.parent / "golden.safetensors")
    batch = {key[6:]: value for key, value in tensors.items() if key.startswith("batch.")}
    if "images" not in batch:
        batch["images"], batch["sizes"] = tiles_of(model, golden, numbers["row_json"])
    return model, batch, numbers, tensors


def processor_of(model, golden: Path) -> ImageProcessor:
    file = next(golden.parent.glob("*/preprocessor_config.json"))
    fields = json.loads(file.read_text(encoding="utf-8"))
    return model.adapt_processor(ImageProcessor.from_json(fields, model.config.image_aspect_ratio))


def pixels_of(model, golden: Path, name: str):
    """Pixels of a picture, or of its tiles, [T, 3, S, S], and its size."""
    processor = processor_of(model, golden)
    with Image.open(golden.parents[2] / "images" / name) as image:
        fitted = torch.tensor(processor.fit(image))
        side = fitted.shape[-2]
        return processor.normalise(fitted.reshape(-1, side, side, 3)), image.size


def tiles_of(model, golden: Path, rows):
    """What the reference's collator makes of rows: a picture's tiles, or one tile of zeros."""
    side = model.image_size
    made = [
        pixels_of(model, golden, row["image"])
        if row.get("image")
        else (torch.zeros(1, 3, side, side), BLANK)
        for row in rows
    ]
    return torch.cat([pixels for pixels, _ in made]), [size for _, size in made]


def one_row(model, batch, row: int):
    """One row of a batch, as a batch."""
    one = {key: value[row : row + 1] for key, value in batch.items()}
    if "sizes" in batch:
        counts = [model.tiling.tiles(size) for size in batch["sizes"]]
        one["images"] = batch["images"].split(counts)[row]
    return one


def spliced(model, batch):
    """The reference gives each row a picture, rows without `<image>` too."""
    return model.splice(
        batch["input_ids"],
        batch["images"],
        sizes=batch.get("sizes"),
        labels=batch["labels"],
        mask=batch["attention_mask"],
        dummy_images=True,
    )


def mean_loss(model, batch):
    made = spliced(model, batch)
    return model.loss_sum(made) / supervised_tokens(made.plan.labels)


def test_forward_is_the_references(model_golden: Path):
    model, batch, _, golden = opened(model_golden)
    with torch.no_grad():
        made = spliced(model, batch)
        logits = model.language(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask,
            position_ids=made.plan.positions,
        ).logits
    if "vision.selected_features" in golden:  # not where a picture is several tiles
        with torch.no_grad():
            features = model.vision(batch["images"])
            projected = model.connector(features)
        torch.testing.assert_close(features, golden["vision.selected_features"], atol=1e-5, rtol=0)
        torch.testing.assert_close(projected, golden["vision.projected"], atol=1e-5, rtol=0)
    real = golden["spliced.attention_mask"].bool()
    assert torch.equal(made.plan.mask, real)
    assert torch.equal(made.plan.labels, golden["spliced.labels"])
    torch.testing.assert_close(
        made.embeds[..., :16], golden["spliced.inputs_embeds_first16"], atol=1e-5, rtol=0
    )
    found = logits.logsumexp(-1)[real]
    torch.testing.assert_close(found, golden["logits.logsumexp"][real], atol=1e-4, rtol=0)
    following = made.plan.labels[:, 1:]
    wanted = following != IGNORE
    chosen = logits[:, :-1].gather(-1, following.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(
        chosen[wanted], golden["logits.of_next_label"][wanted], atol=1e-4, rtol=0
    )
    assert torch.equal(logits.argmax(-1)[real], golden["logits.argmax"][real])


def test_losses_are_the_references(model_golden: Path):
    model, batch, numbers, _ = opened(model_golden)
    with torch.no_grad():
        assert mean_loss(model, batch).item() == pytest.approx(numbers["loss"], abs=1e-5)
        for row, wanted in enumerate(numbers["per_row_loss"]):
            one = one_row(model, batch, row)
            assert mean_loss(model, one).item() == pytest.approx(wanted, abs=1e-5)


def test_gradients_are_the_references(model_golden: Path):
    model, batch, numbers, golden = opened(model_golden)
    mean_loss(model, batch).backward()
    found = dict(model.named_parameters())
    for theirs, norm in numbers["grad_norms"].items():
        grad = found[our_name(theirs)].grad
        assert (0.0 if grad is None else grad.norm().item()) == pytest.approx(norm, abs=1e-5)
    for key, wanted in golden.items():
        if key.startswith("grad."):
            grad = found[our_name(key.removeprefix("grad."))].grad
            torch.testing.assert_close(grad, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("curve", "train"),
    [
        ("sgd_projector_lr0.05_losses", ("connector",)),
        ("adamw_novision_lr1e-3_clip1_losses", ("connector", "language", "image_newline")),
    ],
)
def test_training_follows_the_references_curve(model_golden: Path, tmp_path, curve, train):
    model, batch, numbers, _ = opened(model_golden)
    train = [name for name in train if name != "image_newline" or model.needs_sizes]
    freeze(model, train, PARTS)
    settings = Optimiser(lr=1e-3, groups="llava", schedule="constant")
    if curve.startswith("sgd"):
        settings = Optimiser(type="sgd", lr=0.05, max_grad_norm=0.0, schedule="constant")
    steps = len(numbers[curve])
    seen = followed(model, lambda: spliced(model, batch), settings, steps, tmp_path)
    assert seen.losses == pytest.approx(numbers[curve], abs=1e-4)


def test_greedy_answers_are_the_references(model_golden: Path):
    model, _, numbers, golden = opened(model_golden)
    for number, case in enumerate(numbers["greedy"]):
        pixels, sizes = None, None
        if case.get("image"):
            pixels, size = pixels_of(model, model_golden, case["image"])
            sizes = [size]
        ids = torch.tensor([case["input_ids"]])
        with torch.no_grad():
            logits = model(ids, pixels, sizes=sizes).logits[0, -1]
        wanted = golden.get(f"gen.{number}.last_logits")
        if wanted is not None:
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
        answer = case["output_ids"][1:]
        found = model.generate(
            ids, pixels, sizes=sizes, max_new_tokens=len(answer), do_sample=False, pad_token_id=0
        )
        assert found[0].tolist()[: len(answer)] == answer
