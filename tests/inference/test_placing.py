"""8 and 4 bits, attention and devices: asked for, taken, or refused in one line."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch
from accelerate import infer_auto_device_map

from tests.families import FAMILIES, NATIVE, batch, loaded, made, samples, written
from tests.tiny_qwen import published
from vlforge.checkpoints.checkpoint import meta_model
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.placing import by_part, part_in_family, quantised_share
from vlforge.models.families import find_family
from vlforge.models.parts.attention import Attention
from vlforge.types import ModelError

HAS_BITS = importlib.util.find_spec("bitsandbytes") is not None
needs_bits = pytest.mark.skipif(not HAS_BITS, reason="bitsandbytes is not installed")
WIDE = 64
"""Narrower products bitsandbytes cannot compute on a CPU."""


def refusal(name, **how):
    with pytest.raises(ModelError) as error:
        loaded(name, **how)
    assert "\n" not in str(error.value)
    return str(error.value)


def logits(model, name):
    ids, more = batch(name)
    with torch.no_grad():
        return model(ids, **more).logits


@needs_bits
@pytest.mark.parametrize(("kind", "near"), [("8bit", 0.05), ("4bit", 0.3)])
@pytest.mark.parametrize("name", ["llava", "mgm", "minigpt4", "qwen_vl"])
def test_quantised_weights_give_nearly_the_same_logits(name, kind, near):
    whole = load_model(written(name, WIDE), "cpu")
    small = load_model(written(name, WIDE), "cpu", quantise=kind)
    want, found = logits(whole.model, name), logits(small.model, name)
    assert 0 < (found - want).norm() / want.norm() < near
    assert quantised_share(small.model) == 1
    assert small.notes[-1].startswith(f"in {kind} an answer may change with the batch")


@needs_bits
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.parametrize("name", FAMILIES)
def test_encoders_and_connector_stay_whole(name, kind):
    whole, small = loaded(name), loaded(name, quantise=kind)
    _, more = batch(name)
    sizes = more.get("sizes")
    seen = [model.model.encode_images(more["pixels"], sizes) for model in (whole, small)]
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)
    head = small.model.get_output_embeddings()
    assert torch.equal(head.weight, whole.model.get_output_embeddings().weight)


@needs_bits
def test_a_foreign_layout_is_quantised_while_it_is_read(tmp_path):
    path = published(tmp_path, dtype=torch.float32)
    ours = load_model(tmp_path / "ours", "cpu", quantise="8bit")
    theirs = load_model(path, "cpu", quantise="8bit")
    assert torch.equal(logits(ours.model, "qwen_vl"), logits(theirs.model, "qwen_vl"))
    assert quantised_share(theirs.model) == 1


@needs_bits
def test_experts_that_stay_whole_are_told_of(tmp_path):
    from tests.tiny_mgm import mgm
    from vlforge.models.folder import ModelFolder, write_folder

    parts = made("mgm")
    model = mgm("mixtral")
    write_folder(ModelFolder(model, parts.tokenizer, parts.processor, "v1_short"), tmp_path)
    notes = load_model(tmp_path, "cpu", quantise="8bit").notes
    assert any("% of the language model's weights; experts" in note for note in notes)


@needs_bits
@pytest.mark.parametrize("name", NATIVE)
def test_models_of_transformers_keep_their_encoders_whole(name):
    whole, small = loaded(name), loaded(name, quantise="8bit")
    kept = {n: p for n, p in small.model.named_parameters() if p.dtype != torch.int8}
    changed = {n for n, _ in small.model.named_parameters()} - kept.keys()
    assert changed
    assert all("language_model" in n or "text_model" in n for n in changed)
    for place, parameter in whole.model.named_parameters():
        assert place in changed or torch.equal(parameter, kept[place])


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refusal("llava", quantise="4bit")
    assert said == "quantise 4bit needs bitsandbytes: pip install 'vlforge[quantise]'"


@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_attention_written_out_gives_the_same_answers(name):
    fused, plain = loaded(name, attention="sdpa"), loaded(name, attention="eager")
    said = [LocalChat(model).answer(samples(), 6) for model in (fused, plain)]
    assert [a.text for a in said[0]] == [a.text for a in said[1]]
    sure = [a.confidence for a in said[1]]
    assert [a.confidence for a in said[0]] == pytest.approx(sure, abs=1e-4)


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_that_of_every_part(name, way):
    model = loaded(name, attention=way).model
    assert model.language.config._attn_implementation == way
    towers = [one for one in model.vision.modules() if hasattr(one, "set_attn_implementation")]
    ways = {one.config._attn_implementation for one in towers}
    assert ways <= {way, None, "eager"}  # ConvNeXt has no attention and never says sdpa
    own = [one for one in model.modules() if isinstance(one, Attention)]
    assert {one.how for one in own} <= {way}
    assert own or way in ways


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tower_attends_as_asked(name):
    whole = loaded(name, attention="sdpa").model
    _, more = batch(name)
    sizes = more.get("sizes")
    fused = whole.encode_images(more["pixels"], sizes)
    plain = loaded(name, attention="eager").model.encode_images(more["pixels"], sizes)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_attention_that_is_not_here_is_refused_before_anything_is_read():
    assert "needs flash-attn and a GPU: pip install flash-attn" in refusal(
        "llava", attention="flash"
    )
    assert "attention flex needs a GPU" in refusal("llava", attention="flex")
    assert "attention linear is unknown; known: auto, sdpa" in refusal("llava", attention="linear")
    assert loaded("llava", attention="auto").language.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("places", ["auto", {"vision": "cpu", "language": "disk"}], ids=str)
@pytest.mark.parametrize("name", [*FAMILIES, *NATIVE])
def test_a_spread_model_answers_the_same(name, places):
    whole = LocalChat(loaded(name)).answer(samples(), 6)
    spread = loaded(name, device_map=places)
    assert spread.device == torch.device("cpu")
    assert [a.text for a in LocalChat(spread).answer(samples(), 6)] == [a.text for a in whole]
    if places != "auto":
        weights = dict(spread.model.named_parameters())
        away = {name for name, weight in weights.items() if weight.is_meta}
        assert away
        assert not any(part_in_family(n) == "vision" for n in away & weights.keys())


@pytest.mark.parametrize("name", FAMILIES)
def test_encoders_and_connectors_work_from_the_disk(name):
    whole = LocalChat(loaded(name)).answer(samples(), 6)
    places = {"vision": "disk", "connector": "disk", "language": "cpu"}
    spread = LocalChat(loaded(name, device_map=places)).answer(samples(), 6)
    assert [a.text for a in spread] == [a.text for a in whole]


def test_a_layer_can_be_placed_alone():
    spread = loaded("llava", device_map={"language": "cpu", "language.model.layers.1": "disk"})
    away = {n for n, weight in spread.model.named_parameters() if weight.is_meta}
    assert away == {n for n in away if n.startswith("language.model.layers.1.")} != set()
    texts = [LocalChat(one).answer(samples()[:2], 6)[0].text for one in (spread, loaded("llava"))]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"eyes": "cpu"}, "no part is called 'eyes'; known: vision, connector, language"),
        ({"language": "cuda:7"}, "torch finds 0 GPUs here"),
        ({"language": "attic"}, "no device; give cpu, disk, cuda:N"),
        ({}, "device_map is empty"),
        ("everywhere", "'everywhere' is unknown; give auto or a mapping"),
    ],
)
def test_places_that_are_none_are_refused(places, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert said in refusal("llava", device_map=places)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_layer_lies_on_two_devices(name):
    config = find_family(name.partition("_")[0] if name != "qwen_vl" else name).config_class
    model = meta_model(config.from_pretrained(written(name)))
    total = sum(p.numel() * 4 for p in model.parameters())
    room = {0: int(0.85 * total), 1: 2 * total}
    split = infer_auto_device_map(model, room, no_split_module_classes=model._no_split_modules)
    assert len(set(map(str, split.values()))) == 2, split
    for place in split:
        assert not place.startswith(("vision.", "connector."))
        parts = place.split(".")
        inner = [b for a, b in itertools.pairwise(parts) if a in ("layers", "h")]
        assert not inner or parts[-1] == inner[0], f"{place} is a part of a layer"


def test_parts_are_told_apart_in_any_model():
    for name in NATIVE:
        whole = loaded(name).model
        from vlforge.models.native import NativeModel

        found = by_part(whole, NativeModel.part_of)
        assert set(found.values()) == {"vision", "connector", "language"}
        names = [n for n, _ in whole.named_parameters()]
        for place in names:
            inside = [m for m in found if place == m or place.startswith(f"{m}.")]
            assert len(inside) == 1
            assert found[inside[0]] == NativeModel.part_of(place)
