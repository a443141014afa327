"""LLaVA's own tiny models: features, splice, logits, losses, gradients, greedy answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vlforge.checkpoints.llava import read_llava
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze, optimiser_groups

GOLDEN = {
    "model_golden": "llava_xtuner/llava_model/v15*/golden.json",
    "preprocess_golden": "llava_xtuner/image_preprocess/golden.safetensors",
}
IGNORE = -100


def opened(golden: Path):
    """The model, the reference's batch and its recorded numbers."""
    torch.set_num_threads(1)
    model = read_llava(golden.parent)
    numbers = json.loads(golden.read_text(encoding="utf-8"))
    tensors = load_file(golden.parent / "golden.safetensors")
    batch = {key[6:]: value for key, value in tensors.items() if key.startswith("batch.")}
    return model, batch, numbers, tensors


def spliced(model, batch):
    """The reference gives each row a picture, rows without `<image>` too."""
    return model.splice(
        batch["input_ids"],
        batch["images"],
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
        features = model.vision(batch["images"])
        made = spliced(model, batch)
        logits = model.language(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask,
            position_ids=made.plan.positions,
        ).logits
    torch.testing.assert_close(features, golden["vision.selected_features"], atol=1e-5, rtol=0)
    projected = model.connector(features).detach()
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
            one = {key: value[row : row + 1] for key, value in batch.items()}
            assert mean_loss(model, one).item() == pytest.approx(wanted, abs=1e-5)


def test_gradients_are_the_references(model_golden: Path):
    model, batch, numbers, golden = opened(model_golden)
    mean_loss(model, batch).backward()
    names = {
        "model.mm_projector.": "connector.",
        "model.vision_tower.vision_tower.vision_model.": "vision.tower.",
    }
    found = dict(model.named_parameters())
    for theirs, norm in numbers["grad_norms"].items():
        ours = f"language.{theirs}"
        for prefix, part in names.items():
            if theirs.startswith(prefix):
                ours = part + theirs.removeprefix(prefix)
        grad = found[ours].grad
        assert (0.0 if grad is None else grad.norm().item()) == pytest.approx(norm, abs=1e-5)
    for key, wanted in golden.items():
        if key.startswith("grad.model.mm_projector."):
            grad = found["connector." + key.removeprefix("grad.model.mm_projector.")].grad
            torch.testing.assert_close(grad, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("curve", "train"),
    [
        ("sgd_projector_lr0.05_losses", ("connector",)),
        ("adamw_novision_lr1e-3_clip1_losses", ("connector", "language")),
    ],
)
def test_training_follows_the_references_curve(model_golden: Path, curve, train):
    model, batch, numbers, _ = opened(model_golden)
    freeze(model, train, ("vision", "connector", "language"))
    groups = optimiser_groups(model, Optimiser(lr=1e-3), ("vision", "connector", "language"))
    if curve.startswith("sgd"):
        optimiser = torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.05)
    else:
        optimiser = torch.optim.AdamW(groups, fused=True)
    losses = []
    for _ in numbers[curve]:
        loss = mean_loss(model, batch)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        if not curve.startswith("sgd"):
            torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
    assert losses == pytest.approx(numbers[curve], abs=1e-3)


def test_greedy_answers_are_the_references(model_golden: Path):
    model, _, numbers, golden = opened(model_golden)
    folder = model_golden.parent
    processor = ImageProcessor.from_json(
        json.loads((folder / "clip" / "preprocessor_config.json").read_text()),
        model.config.image_aspect_ratio,
    )
    images = folder.parents[1] / "images"
    for number, case in enumerate(numbers["greedy"]):
        pixels = None
        if case.get("image"):
            with Image.open(images / case["image"]) as image:
                pixels = processor.normalise(torch.tensor(processor.fit(image))[None])
        ids = torch.tensor([case["input_ids"]])
        with torch.no_grad():
            logits = model(ids, pixels).logits[0, -1]
        wanted = golden.get(f"gen.{number}.last_logits")
        if wanted is not None:
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
        answer = case["output_ids"][1:]
        found = model.generate(
            ids, pixels, max_new_tokens=len(answer), do_sample=False, pad_token_id=0
        )
        assert found[0].tolist()[: len(answer)] == answer


def test_pixels_are_the_references(preprocess_golden: Path):
    golden = load_file(preprocess_golden)
    folder = preprocess_golden.parents[1]
    clip = next(folder.glob("llava_model/*/clip/preprocessor_config.json"))
    fields = json.loads(clip.read_text())
    compared = 0
    for key, wanted in golden.items():
        name, mode = key.rsplit(".", 1)
        if mode not in ("pad", "square"):
            continue
        processor = ImageProcessor.from_json(fields, mode)
        path = next(folder.glob(f"images/**/{name.rsplit('/', 1)[-1]}"))
        with Image.open(path) as image:
            pixels = processor.normalise(torch.tensor(processor.fit(image))[None])[0]
        torch.testing.assert_close(pixels, wanted.reshape(pixels.shape), atol=1e-5, rtol=0)
        compared += 1
    assert compared
