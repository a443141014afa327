import json
import re
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.checkpoints import tiny_llava as tiny
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.types import ModelError

PIXELS = torch.ones(1, 3, 8, 8)
TARGETS = r".*language_model.*\.(q_proj|down_proj)"


def written(tmp_path, layout, **config):
    source = tiny.checkpoint(tmp_path / "ours", tiny.model(**config))
    out = tmp_path / layout
    out.mkdir()
    find(layout).write(source, out, Writing())
    return source, out


def trained(base, out, targets=TARGETS, **settings):
    """An adapter of random numbers for transformers' LLaVA in `base`, and its logits."""
    theirs = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, **settings)
    model = peft.get_peft_model(theirs, config).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    model.save_pretrained(out)
    ids = torch.tensor([[1, 5, *[18] * 4, 6, 7, 8, 9]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=PIXELS).logits[0, :, :18]


def rename(adapter, pattern, new):
    file = adapter / "adapter_model.safetensors"
    tensors = {re.sub(pattern, new, key): value for key, value in load_file(file).items()}
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        ("^$", ""),
        (r"model\.language_model\.", "language_model.model."),
        (r"base_model\.model\.model\.language_model\.", "base_model.model.model."),
        (r"base_model\.model\.model\.language_model\.", "base_model.model.language.model."),
    ],
    ids=["5.x", "4.x", "the language model alone", "ours"],
)
def test_adapters_land_whatever_their_classes_were_called(tmp_path, pattern, new):
    _, base = written(tmp_path, "llava_hf")
    wanted = trained(base, tmp_path / "adapter")
    rename(tmp_path / "adapter", pattern, new)
    assert detect(tmp_path / "adapter").name == "peft_adapter"
    found = read_checkpoint(tmp_path / "adapter", Parts(base=base))
    found.check()
    assert len(found.extra["adapter"].pairs) == 4
    logits = tiny.logits(found.build(), PIXELS)[:, :18]
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)
    plain = tiny.logits(read_checkpoint(base).build(), PIXELS)[:, :18]
    assert (plain - wanted).abs().max() > 1e-2


def test_adapters_of_the_encoder_land_too(tmp_path):
    _, base = written(tmp_path, "llava_hf")
    wanted = trained(base, tmp_path / "adapter", r".*(vision_tower|language_model).*\.q_proj")
    before = r"model\.vision_tower\."
    rename(tmp_path / "adapter", before, "vision_tower.vision_model.")
    found = read_checkpoint(tmp_path / "adapter", Parts(base=base))
    torch.testing.assert_close(
        tiny.logits(found.build(), PIXELS)[:, :18], wanted, atol=1e-5, rtol=0
    )


def test_an_adapter_that_does_not_land_is_refused_with_its_first_tensor(tmp_path):
    _, base = written(tmp_path, "llava_hf")
    trained(base, tmp_path / "adapter")
    rename(tmp_path / "adapter", r"layers\.1", "layers.7")
    with pytest.raises(ModelError, match=r"2 of 4 weights .*layers\.7.* another model"):
        read_checkpoint(tmp_path / "adapter", Parts(base=base))


def test_an_adapter_names_its_base_or_asks_for_it(tmp_path):
    _, base = written(tmp_path, "llava_hf")
    trained(base, tmp_path / "adapter")
    read_checkpoint(tmp_path / "adapter").check()  # peft wrote the base's path
    file = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(file.read_text()) | {"base_model_name_or_path": "some/model"}
    file.write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"\(some/model\); name its folder with --base"):
        read_checkpoint(tmp_path / "adapter")


def test_an_adapter_is_written_again_as_it_was(tmp_path):
    _, base = written(tmp_path, "llava_hf")
    trained(base, tmp_path / "adapter")
    found = read_checkpoint(tmp_path / "adapter", Parts(base=base))
    again = tmp_path / "again"
    again.mkdir()
    find("peft_adapter").write(found, again, Writing())
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (again, tmp_path / "adapter")
    )
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def lora_folder(tmp_path):
    """LLaVA's LoRA folder from an adapter of transformers' LLaVA, and the logits it gives."""
    source, base = written(tmp_path, "llava_hf")
    wanted = trained(base, tmp_path / "adapter")
    found = read_checkpoint(tmp_path / "adapter", Parts(base=base))
    out = tmp_path / "llava-lora"
    out.mkdir()
    find("llava_lora").write(found, out, Writing())
    source.build().vision.tower.save_pretrained(out / "vision_tower")
    language = found.build().language
    weights = read_checkpoint(base).weights
    state = {n.removeprefix("language."): w.read() for n, w in weights.items()}
    language.load_state_dict({n: state[n] for n in language.state_dict()})
    language.save_pretrained(tmp_path / "words")
    return out, tmp_path / "words", wanted


def test_llavas_lora_folder_gives_base_plus_adapter(tmp_path):
    out, words, wanted = lora_folder(tmp_path)
    keys = set(load_file(out / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys
    whole = set(torch.load(out / "non_lora_trainables.bin", weights_only=True))
    assert "base_model.model.model.mm_projector.0.weight" in whole
    modules = json.loads((out / "adapter_config.json").read_text())["target_modules"]
    assert "model.layers.1.mlp.down_proj" in modules  # peft finds them under their new names
    assert detect(out).name == "llava_lora"
    found = read_checkpoint(out, Parts(base=words))
    found.check()
    torch.testing.assert_close(
        tiny.logits(found.build(), PIXELS)[:, :18], wanted, atol=1e-5, rtol=0
    )


def test_a_llava_may_be_the_base_of_a_lora_folder(tmp_path):
    out, words, wanted = lora_folder(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    plain = read_checkpoint(out, Parts(base=words))
    find("llava").write(plain, whole, Writing())
    shutil.copytree(out, tmp_path / "again")
    adapter = tmp_path / "again" / "adapter_model.safetensors"
    save_file({k: v * 0 for k, v in load_file(adapter).items()}, adapter)
    shutil.rmtree(tmp_path / "again" / "vision_tower")  # the base has one
    found = read_checkpoint(tmp_path / "again", Parts(base=whole))
    torch.testing.assert_close(
        tiny.logits(found.build(), PIXELS)[:, :18], wanted, atol=1e-5, rtol=0
    )


def test_a_model_without_adapter_is_not_written_as_one(tmp_path):
    source, _ = written(tmp_path, "llava")
    for layout in ("llava_lora", "peft_adapter"):
        with pytest.raises(ModelError, match="no adapter apart"):
            find(layout).write(source, tmp_path, Writing())
