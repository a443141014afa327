"""LLaVA's LoRA folders: the adapter in its base gives the reference's weights and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, read_checkpoint
from vlforge.checkpoints.llava_fields import our_name
from vlforge.checkpoints.llava_lora import LlavaLoraLayout
from vlforge.kernels.lean_loss import supervised_tokens

GOLDEN = {"lora_golden": "llava_xtuner/llava_lora*/golden.json"}


def opened(golden: Path):
    """The merged checkpoint, the recorded numbers and the batch they are of."""
    torch.set_num_threads(1)
    numbers = json.loads(golden.read_text(encoding="utf-8"))
    base = golden.parents[1] / numbers["base"].split(" ")[0]
    folder = next(path for path in golden.parent.iterdir() if path.is_dir())
    checkpoint = read_checkpoint(folder, Parts(base=base))
    batch = load_file(base / "golden.safetensors")
    return checkpoint, numbers, batch


def test_the_folder_is_known_by_its_content(lora_golden: Path):
    checkpoint, numbers, _ = opened(lora_golden)
    assert checkpoint.layout == "llava_lora"
    assert len(checkpoint.extra["adapter"].pairs) * 2 == len(numbers["adapter_keys"])
    assert checkpoint.unused == ()


def test_merged_weights_are_the_references(lora_golden: Path):
    checkpoint, _, _ = opened(lora_golden)
    wanted = load_file(next(lora_golden.parent.glob("merged_linear_only*.safetensors")))
    for name, tensor in wanted.items():
        found = checkpoint.weights[our_name(name)].to(tensor.dtype).read()
        torch.testing.assert_close(found, tensor, atol=1e-6, rtol=0)
    assert wanted


def test_the_merged_model_gives_the_references_numbers(lora_golden: Path):
    checkpoint, numbers, batch = opened(lora_golden)
    model = checkpoint.build()
    with torch.no_grad():
        made = model.splice(
            batch["batch.input_ids"],
            batch["batch.images"],
            labels=batch["batch.labels"],
            mask=batch["batch.attention_mask"],
            dummy_images=True,
        )
        loss = model.loss_sum(made) / supervised_tokens(made.plan.labels)
        logits = model.language(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask,
            position_ids=made.plan.positions,
        ).logits
    key = next(key for key in numbers if key.startswith("merged_loss"))
    assert loss.item() == pytest.approx(numbers[key], abs=1e-5)
    golden, real = load_file(lora_golden.parent / "golden.safetensors"), made.plan.mask
    found = logits.logsumexp(-1)[real]
    torch.testing.assert_close(found, golden["logits.logsumexp"][real], atol=1e-4, rtol=0)
    assert torch.equal(logits.argmax(-1)[real], golden["logits.argmax"][real])


def test_the_adapter_is_written_as_it_was_read(lora_golden: Path, tmp_path: Path):
    checkpoint, numbers, _ = opened(lora_golden)
    folder = next(path for path in lora_golden.parent.iterdir() if path.is_dir())
    layout = LlavaLoraLayout()
    layout.write(checkpoint, tmp_path, Writing())
    assert detect(tmp_path).name == layout.name
    found, wanted = (load_file(path / "adapter_model.safetensors") for path in (tmp_path, folder))
    assert set(found) == set(wanted) == set(numbers["adapter_keys"])
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    whole = torch.load(tmp_path / "non_lora_trainables.bin", weights_only=True)
    given = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    assert set(whole) == set(numbers["non_lora_trainables_keys"])
    assert all(torch.equal(whole[key], given[key]) for key in given)
