"""Qwen-VL's tiny models and MGen-VL's preparation of rows, as their own code gives them."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.golden.recorded import followed
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.lora import LoraSettings, gather
from vlforge.checkpoints.qwen_vl import our_name, their_name
from vlforge.checkpoints.weights import open_file
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.models.base import PARTS
from vlforge.models.qwen_vl import EndAfter, end_ids
from vlforge.text.encode import encode_turns
from vlforge.text.qwen_compat import chatml, greedy_image_paths
from vlforge.text.qwen_templates import MGEN_VL, QWEN_VL, chat_context, spans_to_images
from vlforge.text.qwen_tokenizer import QwenTokenizer
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze
from vlforge.types import DataError, Turn

GOLDEN = {
    "case_meta": "minigpt4_qwenvl/qwen_vl/case*/meta.json",
    "tokenizer_cases": "minigpt4_qwenvl/qwen_vl/tokenizer_cases*.json",
    "injections": "minigpt4_qwenvl/qwen_vl/special_token_injection*.json",
    "rows_file": "minigpt4_qwenvl/mgen/train_preprocess*.json",
}
LEVELS = 10
"""Grey levels that Pillow 13's bicubic may lie off Pillow 12's; see the folder's README."""


def told(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def tokenizer_of(folder: Path, size: int | None = None) -> QwenTokenizer:
    """The tokenizer beside a family's cases; of several the one of `size` tokens."""
    found = [QwenTokenizer.from_pretrained(p) for p in sorted(folder.glob("**/qwen.tiktoken"))]
    return next(one for one in found if size in (None, len(one)))


@functools.cache
def opened(meta: Path) -> SimpleNamespace:
    """A case's model in fp32, its pixels, and what its code recorded."""
    torch.set_num_threads(1)
    checkpoint = read_checkpoint(meta.parent)
    assert checkpoint.layout == "qwen_vl"
    model = checkpoint.build()
    case = told(meta)
    start = model.config.image_start_id
    tokenizers = [tokenizer_of(meta.parents[1], start + 3)]
    pixels = checkpoint.processor.normalise(arrays(meta.parent / "resized_u8.npz")["resized_u8"])
    return SimpleNamespace(
        folder=meta.parent,
        checkpoint=checkpoint,
        model=model,
        meta=case,
        tokenizer=tokenizers[0],
        pixels=pixels,
        shown=lambda names: pixels[[case["images"].index(name) for name in names]],
    )


def sub(tensor: torch.Tensor, stride: str) -> torch.Tensor:
    """`[:,::7]` of a tensor."""
    steps = [re.fullmatch(r"(?:::(\d+)|:)", part) for part in stride.strip("[]").split(",")]
    return tensor[tuple(slice(None, None, int(step[1] or 1)) for step in steps)]


def turns_of(conversation) -> list[Turn]:
    return [Turn(turn["from"], turn["value"]) for turn in conversation]


def untagged(text: str) -> str:
    return re.sub(r"<img>.*?</img>", "<image>", text)


def read_both_ways(tokenizer: QwenTokenizer, text: str):
    return tokenizer.encode(text), tokenizer.to_list_format(text)


def test_texts_are_the_references_ids(tokenizer_cases: Path):
    cases = told(tokenizer_cases)
    tokenizer = tokenizer_of(tokenizer_cases.parent, cases["n_vocab"])
    assert len(tokenizer.ranks) == cases["n_mergeable"]
    assert {name: tokenizer.special[name] for name in cases["special"]} == cases["special"]
    for case in cases["text"]:
        if "error" in case:
            with pytest.raises(DataError) as caught:
                read_both_ways(tokenizer, case["text"])
            for known in ("Unclosed image token", "The content in <img>..</img> is too long"):
                assert (known in str(caught.value)) == (known in case["error"])
            continue
        ids, items = read_both_ways(tokenizer, case["text"])
        assert ids == case["ids"]
        assert tokenizer.decode(ids) == case["decoded"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == case["decoded_skip"]
        assert items == case["to_list"]
    for case in cases["list_format"]:
        if "error" in case:
            with pytest.raises(DataError, match="Unsupport element"):
                tokenizer.from_list_format(case["input"])
        else:
            assert tokenizer.from_list_format(case["input"]) == case["output"]


def test_control_tokens_in_a_question_are_text_in_chat(injections: Path):
    tokenizer = tokenizer_of(injections.parent)
    for case in told(injections):
        context = chat_context(tokenizer, case["query"], system=case["system"])
        assert (context.text, context.ids) == (case["raw_text"], case["context_ids"])
        words = re.sub(r" ?<img>.*?</img>", "", case["query"])
        assert tokenizer(words)["input_ids"] == case["tokenizer_call_ids"]


def test_pictures_are_the_references(case_meta: Path):
    case = opened(case_meta)
    fitted = []
    for name in case.meta["images"]:
        with Image.open(case.folder / name) as image:
            fitted.append(case.checkpoint.processor.fit(image).astype(int))
    recorded = arrays(case.folder / "resized_u8.npz")["resized_u8"].numpy().astype(int)
    assert np.abs(np.stack(fitted) - recorded).max() <= LEVELS
    assert np.abs(np.stack(fitted) - recorded).mean() < 0.5


def test_features_are_the_references(case_meta: Path):
    case = opened(case_meta)
    model, kept = case.model.eval(), {}
    hooks = [
        model.vision.ln_pre.register_forward_hook(lambda *_: kept.update(ln_pre_sub=_[2])),
        model.connector.attn_pool.register_forward_hook(lambda *_: kept.update(attn_pool=_[2])),
    ]
    with torch.no_grad():
        kept["pixel_values_sub"] = case.pixels
        kept["vit_out_sub"] = model.vision(case.pixels)
        kept["image_features"] = model.encode_images(case.pixels)
    for hook in hooks:
        hook.remove()
    recorded = arrays(case.folder / "visual.npz")
    torch.testing.assert_close(
        case.pixels.mean((1, 2, 3)), recorded["pixel_mean"], atol=1e-4, rtol=0
    )
    assert case.meta["visual_strides"]
    for name, stride in case.meta["visual_strides"].items():
        torch.testing.assert_close(sub(kept[name], stride), recorded[name], atol=1e-4, rtol=0)


def test_training_rows_are_the_references(case_meta: Path):
    case = opened(case_meta)
    recorded = arrays(case.folder / "sft.npz")
    longest = case.meta["sft"]["max_len"]
    for row, conversation in enumerate(case.meta["sft"]["conversations"]):
        made = encode_turns(
            QWEN_VL,
            case.tokenizer,
            turns_of(conversation),
            max_length=longest,
            compat="qwen-vl",
            images=0,
        )
        pad = longest - len(made.ids)
        padded = made.ids + [case.tokenizer.pad_token_id] * pad
        assert padded == recorded["input_ids"][row].tolist()
        assert made.labels + [-100] * pad == recorded["labels"][row].tolist()
        seen = recorded["attention_mask"][row]
        assert [token != case.tokenizer.pad_token_id for token in padded] == seen.tolist()


def batch_of(case):
    """The recorded rows with -200 for pictures; padding stays, as the reference counts it."""
    recorded = arrays(case.folder / "sft.npz")
    rows = [
        spans_to_images(case.tokenizer, ids, labels)
        for ids, labels in zip(
            recorded["input_ids"].tolist(), recorded["labels"].tolist(), strict=True
        )
    ]
    ids, labels = (torch.tensor([row[part] for row in rows]) for part in (0, 1))
    return ids, labels, case.shown([name for row in rows for name in row[2]])


def logits_at(model, ids, pixels, rows):
    with torch.no_grad():
        return model(ids, pixels).logits[rows[:, 0], rows[:, 1]]


def test_losses_gradients_and_logits_are_the_references(case_meta: Path):
    case = opened(case_meta)
    model = case.model
    ids, labels, pixels = batch_of(case)
    for forward in case.meta["sft"]["forward"]:
        model.train(forward["train_mode"])
        model.zero_grad()
        spliced = model.splice(ids, pixels, labels=labels)
        loss = model.loss_sum(spliced) / supervised_tokens(spliced.plan.labels)
        loss.backward()
        assert loss.item() == pytest.approx(forward["loss"], abs=1e-5)
        found = {their_name(name): value.grad for name, value in model.named_parameters()}
        assert set(found) == set(forward["grad_norms"])
        for name, norm in forward["grad_norms"].items():
            assert found[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
        mode = "train" if forward["train_mode"] else "eval"
        recorded = arrays(case.folder / f"logits_{mode}.npz")
        found = logits_at(model, ids, pixels, recorded["rows"])
        torch.testing.assert_close(found, recorded["logits"], atol=1e-4, rtol=0)
    model.eval()


def test_a_step_of_the_loop_has_the_references_loss_and_gradients(case_meta: Path, tmp_path):
    case = opened(case_meta)
    model = case.model
    ids, labels, pixels = batch_of(case)
    still = Optimiser(type="sgd", lr=0.0, groups="qwen")
    for number, forward in enumerate(case.meta["sft"]["forward"]):
        freeze(model, PARTS, PARTS)
        model.zero_grad()
        model.train(forward["train_mode"])
        norms: dict[str, float] = {}

        def note(norms: dict[str, float] = norms) -> None:
            found = {their_name(name): p.grad for name, p in model.named_parameters()}
            norms.update({name: grad.norm().item() for name, grad in found.items()})

        seen = followed(
            model, lambda: model.splice(ids, pixels, labels=labels), still, 1,
            tmp_path / str(number), gradients=note,
        )  # fmt: skip
        assert seen.losses == pytest.approx([forward["loss"]], abs=1e-5)
        assert norms == pytest.approx(forward["grad_norms"], rel=1e-4, abs=1e-6)
    model.requires_grad_(True).eval()


def test_eager_and_sdpa_agree_on_recorded_logits(case_meta: Path):
    case = opened(case_meta)
    ids, _, pixels = batch_of(case)
    recorded = arrays(case.folder / "logits_eval.npz")
    language = case.model.eval().language
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        found = logits_at(case.model, ids, pixels, recorded["rows"])
    finally:
        language.set_attn_implementation(before)
    torch.testing.assert_close(found, recorded["logits"], atol=1e-4, rtol=0)


def context_of(case, chat):
    how = {"system": chat.get("system"), "window": chat.get("max_window_size")}
    return chat_context(
        case.tokenizer,
        chat["query"],
        [tuple(pair) for pair in chat.get("history") or []],
        **{key: value for key, value in how.items() if value is not None},
    )


def test_chats_are_the_references_prompts(case_meta: Path):
    case = opened(case_meta)
    for chat in case.meta["chat"]:
        if "list" in chat:
            assert case.tokenizer.from_list_format(chat["list"]) == chat["query"]
        context = context_of(case, chat)
        assert (context.text, context.ids) == (chat["raw_text"], chat["context_ids"])
        ids, _, names = spans_to_images(case.tokenizer, context.ids)
        if chat.get("system") == "" or "max_window_size" in chat:
            continue  # a template leaves an empty system text out, and keeps every round
        turns = []
        for question, answer in chat.get("history") or []:
            turns += [Turn("user", untagged(question)), Turn("assistant", answer)]
        turns.append(Turn("user", untagged(chat["query"])))
        made = encode_turns(
            QWEN_VL, case.tokenizer, turns, max_length=None, generation=True, images=len(names)
        )
        assert made.ids == ids


def test_answers_are_the_references(case_meta: Path):
    case = opened(case_meta)
    model = case.model.eval()
    end, *stops = end_ids(model.config.image_start_id)
    answers = [answer for chat in case.meta["chat"] for answer in chat["gens"]]
    budget = max(len(answer["new_ids"]) for answer in answers)
    for chat in case.meta["chat"]:
        ids, _, names = spans_to_images(case.tokenizer, context_of(case, chat).ids)
        pixels = case.shown(names) if names else None
        for answer in chat["gens"]:
            how = {"max_new_tokens": budget, "do_sample": False} | answer["kwargs"]
            made = model.generate(
                torch.tensor([ids]),
                pixels,
                eos_token_id=end,
                pad_token_id=end,
                logits_processor=[EndAfter(stops, end)],
                **how,
            )
            assert made[0].tolist() == answer["new_ids"]


def test_the_lora_is_merged_as_recorded(case_meta: Path):
    case = opened(case_meta)
    facts = case.meta["lora"]
    linear = [n for n, module in case.model.named_modules() if isinstance(module, nn.Linear)]
    published = [their_name(f"{name}.weight").removesuffix(".weight") for name in linear]
    chosen = {n for n in published if any(re.fullmatch(p, n) for p in facts["target_patterns"])}
    assert chosen == set(facts["matched"])
    settings = LoraSettings(alpha=facts["alpha"])
    adapter = gather(open_file(case.folder / "lora.safetensors"), settings).renamed(our_name)
    whole = {name: lazy.to(torch.float32) for name, lazy in case.checkpoint.weights.items()}
    merged = adapter.onto(whole)
    for name, (total, norm) in facts["merged_sum_norm"].items():
        weight = merged[our_name(f"{name}.weight")].read()
        assert weight.sum().item() == pytest.approx(total, rel=1e-4, abs=1e-3)
        assert weight.norm().item() == pytest.approx(norm, rel=1e-5)
    model = replace(case.checkpoint, weights=merged).build()
    ids, labels, pixels = batch_of(case)
    recorded = arrays(case.folder / "logits_lora_merged.npz")
    found = logits_at(model, ids, pixels, recorded["rows"])
    torch.testing.assert_close(found, recorded["logits"], atol=1e-4, rtol=0)
    with torch.no_grad():
        loss = model(ids, pixels, labels=labels).loss.item()
    assert loss == pytest.approx(facts["loss_eval"], abs=1e-5)


def test_paddles_rows_are_the_references(rows_file: Path):
    tokenizer = tokenizer_of(rows_file.parents[1] / "qwen_vl")
    for case in told(rows_file):
        turns = [
            Turn(role, text)
            for pair in case["convs"]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        assert chatml(turns) == case["text"]
        is_mgen = case["which"] == "mgen"
        if case["image"]:
            turns[0] = Turn("user", f"<image>\n{turns[0].text}")
        made = encode_turns(
            MGEN_VL,
            tokenizer,
            turns,
            max_length=case["max_len"],
            compat="mgen-vl" if is_mgen else "paddlemix",
            images=int(bool(case["image"])),
        )
        assert made.ids == case["input_ids"]
        assert made.labels == case["labels"]
        if not is_mgen:
            assert (greedy_image_paths(case["text"]) or None) == case["images"]
