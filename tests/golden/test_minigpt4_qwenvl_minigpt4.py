"""MiniGPT-4's tiny models: files, features, prompts, losses, gradients, chats, pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig

from tests.golden.recorded import followed
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.minigpt4 import Minigpt4Layout
from vlforge.inference.minigpt4 import DemoSettings, demo_reply
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.base import PARTS
from vlforge.models.minigpt4 import Minigpt4Model
from vlforge.models.parts.random_crop import CroppingProcessor, random_box
from vlforge.text.encode import encode_turns
from vlforge.text.minigpt4_templates import (
    CHAT,
    IMAGE_HERE,
    PRETRAIN,
    clean_answer,
    prompted,
    read_prompts,
)
from vlforge.text.render import render
from vlforge.text.template import Voice
from vlforge.text.tokenizers import load_tokenizer
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze
from vlforge.training.optimiser_groups import optimiser_groups
from vlforge.types import IGNORE_INDEX, IMAGE_INDEX, Turn

GOLDEN = {
    "case_golden": "minigpt4_qwenvl/minigpt4/case_*/meta.json",
    "images_golden": "minigpt4_qwenvl/minigpt4/images/expected.json",
}


@dataclass(frozen=True)
class Case:
    """A golden case laid out as MiniGPT-4's users have it, read through the layout."""

    folder: Path
    meta: dict[str, Any]
    checkpoint: Checkpoint

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder.parent / "tiny_llama_tokenizer"

    def arrays(self, name: str) -> dict[str, torch.Tensor]:
        with np.load(self.folder / name) as found:
            return {key: torch.from_numpy(found[key]) for key in found}

    @property
    def pixels(self) -> torch.Tensor:
        return self.arrays("vision.npz")["image"]


def opened(golden: Path, home: Path) -> Case:
    """Write the golden's tensors as the published files and open them."""
    torch.set_num_threads(1)
    folder, meta = golden.parent, json.loads(golden.read_text(encoding="utf-8"))
    vicuna = home / "vicuna"
    vicuna.mkdir()
    torch.save(load_file(folder / "eva_vit.safetensors"), home / "eva_vit_g.pth")
    blip = {"model": load_file(folder / "blip2_qformer.safetensors")}
    torch.save(blip, home / "blip2_pretrained_flant5xxl.pth")
    save_file(load_file(folder / "llama.safetensors"), vicuna / "model.safetensors")
    LlamaConfig(**meta["llama"]).save_pretrained(vicuna)
    stage = load_file(folder / "llama_proj.safetensors")
    for key in meta["checkpoint_model_keys"]:
        stage.setdefault(key, torch.zeros(2))
    torch.save({"model": stage, "epoch": 3, "optimizer": {"state": {}}}, home / "checkpoint_3.pth")
    settings = {
        "vision_heads": meta["vit"]["num_heads"],
        "qformer_heads": meta["bert"]["num_attention_heads"],
        "image_size": meta["img_size"],
    }
    (home / "minigpt4.json").write_text(json.dumps(settings))
    return Case(folder, meta, read_checkpoint(home / "checkpoint_3.pth"))


@pytest.fixture
def case(case_golden: Path, tmp_path: Path) -> Case:
    return opened(case_golden, tmp_path)


def near(found: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, wanted, atol=atol, rtol=0)


def test_pictures_become_the_references_tokens(case: Case):
    model = case.checkpoint.build()
    assert isinstance(model, Minigpt4Model)
    seen: dict[str, torch.Tensor] = {}
    places = {
        "vit_block0": model.vision.eva.blocks[0],
        "vit_out": model.vision.eva,
        "qformer_layer0": model.vision.qformer.layers[0],
        "qformer_out": model.vision.qformer,
        "llama_proj_out": model.connector,
    }
    for name, module in places.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    model.vision.qformer.register_forward_pre_hook(lambda _, given: seen.update(ln_vision=given[0]))
    with torch.no_grad():
        model.encode_images(case.pixels)
    seen["vit_pos_embed_used"] = model.vision.eva.pos_embed.detach()
    wanted = case.arrays("vision.npz")
    assert set(seen) == set(wanted) - {"image"}
    for name, tensor in seen.items():
        near(tensor, wanted[name])


def encoded(case: Case, number: int) -> list[Any]:
    """The rows of a forward case: one prompt, or none, and every caption."""
    meta = case.meta
    tokenizer = load_tokenizer(case.tokenizer_folder)
    prompt = meta["forward_cases"][number]["prompt"]
    asked = "<image>"
    if prompt is None:
        template = prompted("none", "{}", meta["end_sym"])
    else:
        template = prompted("golden", meta["prompt_template"], meta["end_sym"])
        before, after = meta["prompt_template"].split("{}")
        inner = prompt.removeprefix(before).removesuffix(after) if after else prompt[len(before) :]
        asked = inner.replace(IMAGE_HERE, "<image>")
    return [
        encode_turns(
            template,
            tokenizer,
            (Turn("user", asked), Turn("assistant", caption)),
            max_length=meta["max_txt_len"],
            compat="minigpt4",
        )
        for caption in meta["captions"]
    ]


def padded(rows: list[Any], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORE_INDEX)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        labels[place, : len(row.ids)] = torch.tensor(row.labels)
        mask[place, : len(row.ids)] = True
    return ids, labels, mask


def test_prompts_are_tokenised_as_the_references(case: Case):
    for number, forward in enumerate(case.meta["forward_cases"]):
        for row, target in zip(encoded(case, number), forward["target_ids"], strict=True):
            cut = row.ids.index(IMAGE_INDEX)
            assert row.ids[1:cut] == forward.get("p_before_ids", [])
            end = len(row.ids) - len(target)
            assert row.ids[cut + 1 : end] == forward.get("p_after_ids", [])
            assert row.ids[end:] == target
            assert row.ids[0] == case.meta["bos_token_id"]


def test_forward_and_gradients_are_the_references(case: Case):
    model = case.checkpoint.build()
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    for number, forward in enumerate(case.meta["forward_cases"]):
        wanted = case.arrays(f"forward_{number}.npz")
        ids, labels, mask = padded(encoded(case, number), case.meta["pad_token_id"])
        made = model.splice(ids, case.pixels, labels=labels, mask=mask)
        real = wanted["attention_mask"].bool()
        assert torch.equal(made.plan.mask, real)
        assert torch.equal(made.plan.labels, wanted["labels"])
        near(made.embeds[real], wanted["inputs_embeds"][real])
        loss = model.loss_sum(made) / supervised_tokens(made.plan.labels)
        assert loss.item() == pytest.approx(forward["loss"], abs=1e-5)
        assert loss.item() == pytest.approx(wanted["loss"].item(), abs=1e-5)
        model.zero_grad()
        loss.backward()
        pairs = ((model.connector.weight.grad, "w"), (model.connector.bias.grad, "b"))
        for grad, name in pairs:
            assert grad.norm().item() == pytest.approx(forward[f"grad_norm_{name}"], rel=1e-4)
            torch.testing.assert_close(grad, wanted[f"grad_{name}"], rtol=1e-4, atol=1e-5)


def test_the_first_stages_template_is_the_one_without_a_prompt(case: Case):
    meta, tokenizer = case.meta, load_tokenizer(case.tokenizer_folder)
    template = replace(PRETRAIN, assistant=Voice(end=meta["end_sym"]))
    (number,) = [at for at, one in enumerate(meta["forward_cases"]) if one["prompt"] is None]
    for caption, wanted in zip(meta["captions"], encoded(case, number), strict=True):
        turns = (Turn("user", "<image>"), Turn("assistant", caption))
        kept = meta["max_txt_len"]
        row = encode_turns(template, tokenizer, turns, max_length=kept, compat="minigpt4")
        assert row == wanted


def splice(case: Case, model: Minigpt4Model, number: int) -> Any:
    ids, labels, mask = padded(encoded(case, number), case.meta["pad_token_id"])
    return model.splice(ids, case.pixels, labels=labels, mask=mask)


def test_steps_are_the_references(case: Case, tmp_path: Path):
    """The recording ran its forward cases first and emptied gradients after each step, so
    that the first step still holds the last case's.
    """
    model, train = case.checkpoint.build(), case.meta["train"]
    how, steps = train["hparams"], train["steps"]
    names = freeze(model, Minigpt4Model.stages["align"], PARTS)
    assert names == [name.replace("llama_proj", "connector") for name in train["trainable"]]
    settings = Optimiser(
        lr=how["init_lr"], min_lr=how["min_lr"], warmup_lr=how["warmup_lr"],
        warmup_steps=how["warmup_steps"], weight_decay=how["weight_decay"],
        betas=tuple(how["betas"]), groups="lavis", schedule="lavis", max_grad_norm=0.0,
    )  # fmt: skip
    groups = optimiser_groups(model, settings, PARTS)
    decays = [len(group["names"]) for group in groups if group["weight_decay"]]
    assert sum(decays) == train["n_wd"]
    assert len(names) - sum(decays) == train["n_non_wd"]
    last = splice(case, model, len(case.meta["forward_cases"]) - 1)
    (model.loss_sum(last) / supervised_tokens(last.plan.labels)).backward()
    norms: list[tuple[float, float]] = []

    def note() -> None:
        norms.append((model.connector.weight.norm().item(), model.connector.bias.norm().item()))

    seen = followed(
        model, lambda: splice(case, model, 0), settings, len(steps), tmp_path / "out",
        before=note, epoch=how["iters_per_epoch"],
    )  # fmt: skip
    note()
    assert how["max_epoch"] * how["iters_per_epoch"] == len(steps)
    assert seen.rates == pytest.approx([step["lr"] for step in steps], rel=1e-9)
    assert seen.losses == pytest.approx([step["loss"] for step in steps], abs=1e-5)
    for found, step in zip(norms[1:], steps, strict=True):
        assert found == pytest.approx((step["w_norm"], step["b_norm"]), rel=1e-5)


def test_prompt_files_give_the_references_prompts(case: Case, tmp_path: Path):
    meta = case.meta
    before, after = meta["prompt_template"].split("{}")
    lines = [p.removeprefix(before).removesuffix(after) for p in meta["prompt_list"]]
    file = tmp_path / "alignment.txt"
    file.write_text("\n".join(["a line without a picture", *lines]) + "\n", encoding="utf-8")
    template = prompted("golden", meta["prompt_template"], meta["end_sym"])
    for prompt, wanted in zip(read_prompts(file), meta["prompt_list"], strict=True):
        turns = (Turn("user", prompt), Turn("assistant", ""))
        written = render(template, turns).pieces[0].text
        assert written == wanted.replace(IMAGE_HERE, "<image>")


def conversations(case: Case) -> list[tuple[int, int, tuple[Turn, ...], dict[str, Any]]]:
    """(conversation, turn, turns so far, what the reference recorded) of every question."""
    found = []
    for number, chat in enumerate(case.meta["chat"]):
        turns: list[Turn] = []
        shown = 0
        for place, asked in enumerate(chat["turns"]):
            new = asked["prompt"].count(IMAGE_HERE) - shown
            shown += new
            turns.append(Turn("user", "<image>" * new + asked["text"]))
            found.append((number, place, tuple(turns), asked))
            turns.append(Turn("assistant", asked["answer"]))
    return found


def test_chats_are_the_references(case: Case):
    model, tokenizer = case.checkpoint.build(), load_tokenizer(case.tokenizer_folder)
    speaking = AutoTokenizer.from_pretrained(case.tokenizer_folder)
    for number, place, turns, wanted in conversations(case):
        written = render(CHAT, turns, generation=True).text
        assert written == wanted["prompt"].replace(IMAGE_HERE, "<image>")
        row = encode_turns(CHAT, tokenizer, turns, max_length=None, generation=True)
        segments: list[list[int]] = [[]]
        for token in row.ids:
            segments.append([]) if token == IMAGE_INDEX else segments[-1].append(token)
        assert segments == wanted["seg_ids"]
        pixels = case.pixels[case.meta["chat"][number]["images"][: row.ids.count(IMAGE_INDEX)]]
        golden = case.arrays(f"chat{number}_{place}.npz")
        with torch.no_grad():
            made = model.splice(torch.tensor([row.ids]), pixels, padding_side="left")
            last = model.language(inputs_embeds=made.embeds).logits[0, -1]
        near(made.embeds, golden["context_emb"])
        near(last, golden["last_logits"])
        ids = torch.tensor([row.ids])
        for generated in wanted["gen"]:
            new = model.generate(ids, pixels, pad_token_id=0, **generated["kwargs"])[0].tolist()
            assert new == generated["ids"][1:]
        stop = wanted["stop"]
        longest = wanted["gen"][0]["kwargs"]["max_new_tokens"]
        settings = DemoSettings(max_new_tokens=longest, sample=False)
        reply = demo_reply(model.language, speaking, made.embeds[0], settings, stop["stops"])
        assert list(reply.ids) == stop["ids"][1:]
        said = wanted["decoded_raw"]
        for special in speaking.all_special_tokens:
            said = said.replace(special, "")
        assert reply.text == clean_answer(said)


def test_files_come_back_bit_for_bit(case: Case, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    layout = Minigpt4Layout()
    layout.write(case.checkpoint, first, Writing())
    again = layout.read(first, Parts())
    assert again.notes == case.checkpoint.notes
    assert again.config.to_dict() == case.checkpoint.config.to_dict()
    layout.write(again, second, Writing())
    for file in ("eva_vit_g.pth", "blip2_pretrained.pth", "checkpoint.pth", "minigpt4.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    for name, lazy in case.checkpoint.weights.items():
        found = again.weights[name].read()
        assert found.dtype == lazy.dtype
        assert torch.equal(found, lazy.read())


def expected_arrays(folder: Path) -> list[dict[str, np.ndarray]]:
    files = sorted(folder.glob("expected*.npz"))
    return [dict(np.load(file)) for file in files]


def test_pictures_are_the_references(images_golden: Path):
    folder = images_golden.parent
    records = json.loads(images_golden.read_text(encoding="utf-8"))
    either = expected_arrays(folder)
    newer = folder / "expected_pillow13.json"
    sums = json.loads(newer.read_text(encoding="utf-8"))["u8_sha256"] if newer.is_file() else {}
    files = list(dict.fromkeys(record["file"] for record in records))
    for record in records:
        picture = Image.open(folder / record["file"])
        size, place = record["image_size"], files.index(record["file"])
        ranges = {key: tuple(record[key]) for key in ("scale", "ratio") if key in record}
        processor = CroppingProcessor(size, **ranges)
        if "crop" in record:
            generator = torch.Generator().manual_seed(record["torch_seed"])
            left, top, width, height = random_box(picture.size, generator, **ranges)
            found = {"top": top, "left": left, "height": height, "width": width}
            assert found == record["crop"]
            generator.manual_seed(record["torch_seed"])
            bytes_ = processor.fit_random(picture, generator)
            key = record["key"]
        else:
            bytes_, key = processor.fit(picture), f"eval{size}_{place}"
        if "u8_sha256" in record:
            found = hashlib.sha256(np.ascontiguousarray(bytes_).tobytes()).hexdigest()
            assert found in {record["u8_sha256"], sums.get(record["file"])}
            stride = record["u8_file_stride"]
            thin = bytes_[::stride, ::stride]
            assert any(np.array_equal(thin, a[f"eval{size}_u8_{place}"]) for a in either)
            continue
        pixels = processor.normalise(torch.from_numpy(bytes_.copy())[None])[0].numpy()
        assert min(np.abs(pixels - arrays[key]).max() for arrays in either) < 1e-5
