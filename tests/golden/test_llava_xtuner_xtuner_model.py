"""XTuner's tiny LLaVAs: checkpoints read, merged and written; numbers, gradients, answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vlforge.checkpoints import llava_fields, llava_hf
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, read_checkpoint
from vlforge.checkpoints.internlm2 import to_internlm2
from vlforge.checkpoints.languages import read_language
from vlforge.checkpoints.merge import merge
from vlforge.checkpoints.weights import open_weights
from vlforge.checkpoints.xtuner import XtunerLayout
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models import reading
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.parts.internlm2 import FUSED, SPLIT, Heads, llama_name

GOLDEN = {
    "xtuner_golden": "llava_xtuner/xtuner_model*/*/golden.json",
    "converted_qkv": "llava_xtuner/xtuner_model*/*/llama_qkv.safetensors",
    "layout_keys": "llava_xtuner/xtuner_model*/layout_keys.json",
}
IGNORE = -100
FP16_ULP = 2.0**-10


def parts_of(golden: Path) -> Parts:
    return Parts(language=golden.parent / "llm", vision=golden.parent / "clip")


def sources(golden: Path) -> list[Path]:
    """The run's own checkpoint, and the folder that pth_to_hf made of it."""
    return [*sorted(golden.parent.glob("iter_*.pth")), golden.parent / "hf"]


def opened(golden: Path, source: Path | None = None):
    """The checkpoint, its model, the recorded numbers and tensors."""
    torch.set_num_threads(1)
    checkpoint = read_checkpoint(source or sources(golden)[0], parts_of(golden))
    numbers = json.loads(golden.read_text(encoding="utf-8"))
    return checkpoint, checkpoint.build(), numbers, load_file(golden.parent / "golden.safetensors")


def spliced(model, golden):
    return model.splice(
        golden["batch.input_ids"],
        golden["batch.pixel_values"],
        labels=golden["batch.labels"],
        mask=golden["batch.attention_mask"].bool(),
        dummy_images=True,
    )


def test_both_forms_give_the_same_weights(xtuner_golden: Path):
    found = [read_checkpoint(path, parts_of(xtuner_golden)) for path in sources(xtuner_golden)]
    assert {checkpoint.layout for checkpoint in found} == {"xtuner"}
    assert len(found) > 1
    assert all(not checkpoint.unused for checkpoint in found)
    for checkpoint in found:
        checkpoint.check()
        assert set(checkpoint.weights) == set(found[0].weights)
        for name, lazy in found[0].weights.items():
            assert torch.equal(checkpoint.weights[name].read(), lazy.read())


def test_the_recorded_keys_are_what_is_read(xtuner_golden: Path):
    checkpoint, _, numbers, _ = opened(xtuner_golden)
    trained = checkpoint.extra["xtuner"]
    found = {f"projector.model.{name}" for name in trained.projector}
    for part, half in (("llm", trained.language), ("visual_encoder", trained.vision)):
        for name in half.adapter.pairs:
            module = f"{part}.base_model.model.{name.removesuffix('.weight')}"
            found |= {f"{module}.lora_{side}.default.weight" for side in "AB"}
    assert found == set(numbers["trainable"])
    assert found == set(numbers.get("pth_keys", numbers["trainable"]))
    for half, key in ((trained.language, "llm"), (trained.vision, "clip")):
        if f"lora_targets_{key}" in numbers:
            leaves = {name.split(".")[-2] for name in half.adapter.pairs}
            assert sorted(leaves) == numbers[f"lora_targets_{key}"]


def test_forward_is_the_references(xtuner_golden: Path):
    _, model, numbers, golden = opened(xtuner_golden)
    with torch.no_grad():
        projected = model.connector(model.vision(golden["batch.pixel_values"]))
        made = spliced(model, golden)
        logits = model.language(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask,
            position_ids=made.plan.positions,
        ).logits
        loss = model.loss_sum(made) / supervised_tokens(made.plan.labels)
    torch.testing.assert_close(projected, golden["projected"], atol=1e-5, rtol=0)
    real = golden["spliced.attention_mask"].bool()
    assert torch.equal(made.plan.mask, real)
    assert torch.equal(made.plan.labels, golden["spliced.labels"])
    embeds = golden["spliced.inputs_embeds_first16"]
    torch.testing.assert_close(made.embeds[..., :16], embeds, atol=1e-5, rtol=0)
    wanted = golden["logits.logsumexp"]
    torch.testing.assert_close(logits.logsumexp(-1)[real], wanted[real], atol=1e-4, rtol=0)
    assert torch.equal(logits.argmax(-1)[real], golden["logits.argmax"][real])
    following = made.plan.labels[:, 1:]
    has_label = following != IGNORE
    chosen = logits[:, :-1].gather(-1, following.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(
        chosen[has_label], golden["logits.of_next_label"][has_label], atol=1e-4, rtol=0
    )
    assert loss.item() == pytest.approx(numbers["loss"], abs=1e-5)
    assert loss.item() == pytest.approx(numbers["loss_via_forward"], abs=1e-5)


def test_gradients_are_the_references(xtuner_golden: Path):
    checkpoint, model, numbers, golden = opened(xtuner_golden)
    made = spliced(model, golden)
    (model.loss_sum(made) / supervised_tokens(made.plan.labels)).backward()
    grads = {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in model.named_parameters()
    }
    trained = checkpoint.extra["xtuner"]
    halves = {"llm": trained.language.adapter, "visual_encoder": trained.vision.adapter}
    heads = Heads.of(checkpoint.config.text_config)
    for key, norm in numbers["grad_norms"].items():
        part, _, name = key.partition(".")
        if part == "projector":
            found = grads["connector." + name.removeprefix("model.")]
        else:
            name = name.removeprefix("base_model.model.")
            module, side = name.removesuffix(".default.weight").split(".lora_")
            pair = halves[part].pairs[f"{module}.weight"]
            of_weight = weight_grad(grads, part, f"{module}.weight", heads)
            a, b = pair.a.read(), pair.b.read()
            found = pair.scale * (b.T @ of_weight if side == "A" else of_weight @ a.T)
        assert found.norm().item() == pytest.approx(norm, abs=1e-5)


def weight_grad(grads, part: str, name: str, heads: Heads):
    """The gradient of the merged weight that an adapter changes."""
    if part == "visual_encoder":
        return grads["vision.tower." + name.removeprefix("vision_model.")]
    if FUSED in name:
        return heads.join(*(grads["language." + name.replace(FUSED, new)] for new in SPLIT))
    return grads["language." + llama_name(name)]


def test_greedy_answers_are_the_references(xtuner_golden: Path):
    checkpoint, model, numbers, _ = opened(xtuner_golden)
    processor = checkpoint.processor
    assert isinstance(processor, ImageProcessor)
    assert processor.fit_mode == "pad"
    for case in numbers["greedy"]:
        pixels = None
        if case.get("image"):
            with Image.open(xtuner_golden.parents[2] / "images" / case["image"]) as image:
                pixels = processor.normalise(torch.tensor(processor.fit(image))[None])
        ids = torch.tensor([case["input_ids"]])
        with torch.no_grad():
            logits = model(ids, pixels).logits[0, -1]
        head = torch.tensor(case["first_logits_head"])
        torch.testing.assert_close(logits[: len(head)], head, atol=1e-4, rtol=0)
        wanted = case["output_ids"]
        found = model.generate(
            ids, pixels, max_new_tokens=len(wanted), do_sample=False, pad_token_id=0
        )
        assert found[0].tolist()[: len(wanted)] == wanted


def test_merged_weights_are_the_references(xtuner_golden: Path, tmp_path: Path):
    folder = xtuner_golden.parent
    files = sorted(folder.glob("merged_*.safetensors"))
    assert files
    for number, file in enumerate(files):
        is_clip = "clip" in file.name
        base = folder / ("clip" if is_clip else "llm")
        adapter = folder / "hf" / ("visual_encoder_adapter" if is_clip else "llm_adapter")
        wanted = load_file(file)
        dtype = next(iter(wanted.values())).dtype
        merge(base, adapter, tmp_path / str(number), how=Writing(dtype=dtype))
        found = open_weights(tmp_path / str(number))
        assert set(found) == set(open_weights(base))
        for name, tensor in wanted.items():
            merged = found[name].read()
            assert merged.dtype == tensor.dtype
            if dtype == torch.float16:
                ulp = FP16_ULP * tensor.float().abs().clamp(min=2.0**-14)
                assert bool(((merged.float() - tensor.float()).abs() <= ulp).all())
            else:
                torch.testing.assert_close(merged, tensor, atol=1e-6, rtol=0)


def test_a_merged_language_model_gives_the_references_numbers(converted_qkv: Path, tmp_path: Path):
    golden = load_file(converted_qkv.with_name("golden.safetensors"))
    base, adapter = converted_qkv.with_name("llm"), converted_qkv.with_name("hf") / "llm_adapter"
    merge(base, adapter, tmp_path / "merged", how=Writing(dtype=torch.float32))
    for folder, key in ((base, "plain.logsumexp"), (tmp_path / "merged", "merged_plain.logsumexp")):
        with torch.no_grad():
            logits = reading.read_language(folder)(golden["plain.input_ids"]).logits
        torch.testing.assert_close(logits.logsumexp(-1), golden[key], atol=1e-4, rtol=0)


def test_internlm2_becomes_the_llama_of_its_own_converter(converted_qkv: Path):
    numbers = json.loads(converted_qkv.with_name("golden.json").read_text(encoding="utf-8"))
    base = converted_qkv.with_name("llm")
    language = read_language(base)
    weights = {name.removeprefix("language."): lazy for name, lazy in language.weights.items()}
    assert set(weights) == set(numbers["llama_keys"])
    for name, tensor in load_file(converted_qkv).items():
        assert torch.equal(weights[name].read(), tensor)
    ours, theirs = language.config.to_dict(), numbers["llama_config"]
    rope = ours["rope_parameters"]
    assert rope["rope_theta"] == theirs["rope_theta"]
    assert rope["rope_type"] == (theirs["rope_scaling"] or {"type": "default"})["type"]
    shared = set(ours) & set(theirs) - {"transformers_version", "architectures", "dtype"}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    back, given = to_internlm2(weights, language.config), open_weights(base)
    assert set(back) == set(given) == set(numbers["internlm2_keys"])
    assert all(torch.equal(back[name].read(), given[name].read()) for name in given)


def test_the_folder_is_written_as_it_was(xtuner_golden: Path, tmp_path: Path):
    checkpoint, *_ = opened(xtuner_golden)
    XtunerLayout().write(checkpoint, tmp_path, Writing())
    assert detect(tmp_path).name == "xtuner"
    folder = xtuner_golden.parent / "hf"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".py"]
    assert len(files) >= 4
    for given in files:
        written = tmp_path / given.relative_to(folder)
        if given.suffix != ".safetensors":
            wanted = json.loads(given.read_text(encoding="utf-8"))
            found = json.loads(written.read_text(encoding="utf-8"))
            left = {"auto_map", "transformers_version"}  # code of theirs, which is not shipped
            assert found | dict.fromkeys(left) == wanted | dict.fromkeys(left)
            continue
        wanted, found = load_file(given), load_file(written)
        assert set(wanted) == set(found)
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    again = read_checkpoint(tmp_path, parts_of(xtuner_golden))
    assert all(
        torch.equal(again.weights[name].read(), lazy.read())
        for name, lazy in checkpoint.weights.items()
    )


def of_any_layer(names) -> set[str]:
    return {re.sub(r"\blayers\.\d+", "layers.N", name) for name in names}


def test_exports_have_the_references_names(layout_keys: Path, tmp_path: Path):
    keys = json.loads(layout_keys.read_text(encoding="utf-8"))
    cases = sorted(layout_keys.parent.glob("*/golden.json"))
    assert cases
    for number, case in enumerate(cases):
        checkpoint = read_checkpoint(case.parent / "hf", parts_of(case))
        official = {llava_fields.their_name(name) for name in checkpoint.weights}
        assert of_any_layer(official) == of_any_layer(keys["official"])
        out = tmp_path / str(number)
        out.mkdir()
        llava_hf.LlavaHfLayout().write(checkpoint, out, Writing())
        assert of_any_layer(open_weights(out)) == of_any_layer(keys["huggingface"])


def test_a_full_finetunes_names_all_land(layout_keys: Path, tmp_path: Path):
    keys = json.loads(layout_keys.read_text(encoding="utf-8"))["pth_full_finetune"]
    for case in sorted(layout_keys.parent.glob("*/golden.json")):
        given = read_checkpoint(case.parent / "hf", parts_of(case))
        state = {}
        for name, lazy in given.weights.items():
            part, _, rest = name.partition(".")
            inner = rest.removeprefix("tower.")
            prefix = {"language": "llm.", "connector": "projector.model.",
                      "vision": "visual_encoder.vision_model."}[part]  # fmt: skip
            state[prefix + inner] = lazy.read()
        assert of_any_layer(state) == of_any_layer(keys)
        torch.save({"meta": {}, "state_dict": state}, tmp_path / "iter_1.pth")
        found = read_checkpoint(tmp_path / "iter_1.pth", parts_of(case))
        found.check()
        for name, lazy in given.weights.items():
            assert torch.equal(found.weights[name].read(), lazy.read())
