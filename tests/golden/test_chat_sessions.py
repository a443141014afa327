"""Chats of the reference systems, held by the terminal's own conversation and drawing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.golden import test_mgm_model as mgm
from tests.golden import test_minigpt4_qwenvl_minigpt4 as minigpt4
from tests.golden import test_minigpt4_qwenvl_qwen as qwen
from vlforge.inference.answers import prompt_for
from vlforge.inference.load import Loaded, load_model
from vlforge.inference.reference_chat import DemoSpeaker
from vlforge.inference.speaking import LocalSpeaker
from vlforge.models.reading import read_tokenizer
from vlforge.serving.conversation import Conversation, Shown
from vlforge.serving.terminal import pieces_of
from vlforge.text.minigpt4_templates import IMAGE_HERE, clean_answer
from vlforge.text.render import render
from vlforge.text.templates import find_template
from vlforge.types import IMAGE_INDEX, Drawing, Turn

GOLDEN = {
    "llava_golden": "llava_xtuner/llava_model/*/golden.json",
    "mgm_info": "mgm/model/*/info.json",
    "minigpt4_meta": "minigpt4_qwenvl/minigpt4/case_*/meta.json",
    "qwen_meta": "minigpt4_qwenvl/qwen_vl/case*/meta.json",
}
GEMMA_TURN = "<end_of_turn>"


class Recorded:
    """A processor that knows pictures by their width and gives the recorded pixels of each."""

    def __init__(self, pixels):
        self.pixels = pixels

    def fit(self, picture):
        """The pixels of picture `width - 1`."""
        return self.pixels[picture.size[0] - 1].numpy()

    def normalise(self, pixels):
        """They are already."""
        return pixels


def numbered(folder: Path, number: int) -> Shown:
    """A picture that `Recorded` knows."""
    path = folder / f"picture{number}.png"
    Image.new("RGB", (number + 1, 1)).save(path)
    return Shown(str(path), str(path))


def spoken(speaker, conversation: Conversation, question: str, drawing: Drawing):
    """What was asked, and the answer's text."""
    sample = conversation.with_question(question)
    return sample, "".join(piece.text for piece in pieces_of(speaker, sample, drawing, 0))


def opened_llava(golden: Path, out: Path, conv_mode: str, case) -> Loaded:
    """The folder with the tokenizer that gives the recorded ids."""
    rows = json.loads((golden.parent / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    for folder in sorted((golden.parents[2] / "tokenizers").glob("sp_*")):
        tokenizer = read_tokenizer(folder)
        ids = tokenizer.encode(case["prompt"].split("<image>")[0])
        if len(tokenizer) <= rows and ids == ids_before_picture(case):
            shutil.copytree(golden.parent, out)
            shutil.copytree(folder, out, dirs_exist_ok=True)
            return load_model(out, "cpu", template=conv_mode)
    raise AssertionError("no tokenizer gives the recorded ids")


def ids_before_picture(case) -> list[int]:
    ids = case["input_ids"]
    return ids[: ids.index(IMAGE_INDEX)] if IMAGE_INDEX in ids else ids


@pytest.mark.parametrize("conv_mode", ["vicuna_v1", "llava_llama_2"])
def test_llavas_answers_are_the_references(llava_golden: Path, tmp_path: Path, conv_mode):
    torch.set_num_threads(1)
    cases = json.loads(llava_golden.read_text(encoding="utf-8"))["greedy"]
    cases = [case for case in cases if case["conv_mode"] == conv_mode]
    loaded = opened_llava(llava_golden, tmp_path / "model", conv_mode, cases[0])
    speaker = LocalSpeaker(loaded)
    budget = max(len(case["output_ids"]) for case in cases) - 1
    checked = 0
    for case in cases:
        question = re.split(r"<</SYS>>\n\n|USER: ", case["prompt"])[-1]
        question = re.sub(r" ASSISTANT:$| \[/INST\]$", "", question).removeprefix("<image>\n")
        path = str(llava_golden.parents[2] / "images" / case["image"]) if case["image"] else ""
        conversation = Conversation((Shown(path, path),) if path else ())
        sample, text = spoken(speaker, conversation, question, Drawing(budget))
        assert prompt_for(loaded, sample).ids == tuple(case["input_ids"])
        ids = case["output_ids"][1:]
        assert text == loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
        checked += 1
    assert checked


def test_mini_geminis_answers_are_the_references(mgm_info: Path, tmp_path: Path):
    info = json.loads(mgm_info.read_text(encoding="utf-8"))
    if not info.get("generate"):
        pytest.skip("this family has no recorded answers")
    case = mgm.Case(mgm_info.parent, tmp_path)
    for name, asked in info["generate"].items():
        prefix = name.partition("_")[0]
        model = case.model(prefix if prefix in mgm.GRIDS else "g1").eval()
        loaded = Loaded(
            kind="family",
            path=name,
            model=model,
            tokenizer=mgm_tokenizer(mgm_info.parents[2], asked),
            processor=Recorded([torch.zeros(1, 1, 1, 1)]),
            device=torch.device("cpu"),
            template=find_template("gemma" if GEMMA_TURN in asked["prompt"] else "vicuna_v1"),
        )

        def see(pixels, sizes, model=model, prefix=prefix, asked=asked):
            return model.project(case.see(model, prefix, [asked["row"]]), None)

        model.encode_images = see
        shown = (numbered(tmp_path, 0),) if IMAGE_INDEX in asked["input_ids"] else ()
        drawing = Drawing(len(asked["new_ids"]))
        sample, text = spoken(LocalSpeaker(loaded), Conversation(shown), "What is this?", drawing)
        assert prompt_for(loaded, sample).ids == tuple(asked["input_ids"])
        assert text == loaded.tokenizer.decode(asked["new_ids"], skip_special_tokens=True).strip()


def mgm_tokenizer(root: Path, asked):
    """The one that gives the recorded ids."""
    for folder in sorted((root / "tokenizers").iterdir()):
        tokenizer = read_tokenizer(folder)
        if tokenizer.encode(asked["prompt"].split("<image>")[0]) == ids_before_picture(asked):
            return tokenizer
    raise AssertionError("no tokenizer gives the recorded ids")


def opened_minigpt4(meta: Path, home: Path) -> tuple[minigpt4.Case, Loaded]:
    """The case, and its model as the chat opens it; pictures by their numbers."""
    case = minigpt4.opened(meta, home)
    loaded = Loaded(
        kind="family",
        path=str(meta),
        model=case.checkpoint.build(),
        tokenizer=read_tokenizer(case.tokenizer_folder),
        processor=Recorded(case.pixels),
        device=torch.device("cpu"),
        template=find_template("minigpt4_chat"),
    )
    return case, loaded


def test_minigpt4s_chats_are_the_references(minigpt4_meta: Path, tmp_path: Path):
    case, loaded = opened_minigpt4(minigpt4_meta, tmp_path)
    for chat in case.meta["chat"]:
        conversation = Conversation()
        for asked in chat["turns"]:
            shown = chat["images"][: asked["prompt"].count(IMAGE_HERE)]
            conversation.images = tuple(numbered(tmp_path, number) for number in shown)
            greedy = asked["gen"][0]
            drawing = Drawing(greedy["kwargs"]["max_new_tokens"])
            speaker = DemoSpeaker(loaded, stops=asked["stop"]["stops"])
            sample, text = spoken(speaker, conversation, asked["text"], drawing)
            written = render(loaded.template, sample.turns, generation=True).text
            assert written.replace("<image>", IMAGE_HERE) == asked["prompt"]
            ids = prompt_for(loaded, sample).ids
            assert segments(ids) == asked["seg_ids"]
            decode = loaded.tokenizer.decode
            assert text == clean_answer(decode(asked["stop"]["ids"], skip_special_tokens=True))
            (piece,) = LocalSpeaker(loaded).stream_many([sample], replace(drawing, beams=3), [0])
            beams = next(g for g in asked["gen"] if g["kwargs"]["num_beams"] == 3)
            assert piece.text == said_until(decode, beams["ids"][1:], ["###"])
            plain = "".join(
                p.text for p in LocalSpeaker(loaded).stream_many([sample], drawing, [0])
            )
            assert plain == said_until(decode, greedy["ids"][1:], ["###"])
            conversation.keep(sample, asked["answer"])


def segments(ids) -> list[list[int]]:
    """Ids apart at each picture."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token == IMAGE_INDEX:
            found.append([])
        else:
            found[-1].append(token)
    return found


def said_until(decode, ids, stops) -> str:
    """The words of recorded ids before the first of the stop strings."""
    text = decode(ids, skip_special_tokens=True)
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places, default=len(text))].strip()


def test_qwens_chats_are_the_references(qwen_meta: Path, tmp_path: Path):
    case = qwen.opened(qwen_meta)
    stops = find_template("qwen_vl").stop_strings
    loaded = Loaded(
        kind="family",
        path=str(qwen_meta),
        model=case.model.eval(),
        tokenizer=case.tokenizer,
        processor=Recorded(case.pixels),
        device=torch.device("cpu"),
        template=find_template("qwen_vl"),
    )
    answers = [answer for chat in case.meta["chat"] for answer in chat["gens"]]
    budget = max(len(answer["new_ids"]) for answer in answers)
    checked = 0
    for chat in case.meta["chat"]:
        if chat.get("system") == "":
            continue  # a template leaves an empty system text out
        history = [Turn(role, qwen.untagged(words).replace("Picture 1: ", ""))
                   for pair in chat.get("history") or []
                   for role, words in zip(("user", "assistant"), pair, strict=True)]  # fmt: skip
        names = re.findall("<img>(.*?)</img>", chat["raw_text"])
        shown = tuple(numbered(tmp_path, case.meta["images"].index(name)) for name in names)
        question = re.sub(r"Picture \d+: <img>.*?</img>\n", "", chat["query"])
        for answer in chat["gens"]:
            drawing = Drawing(budget, beams=answer["kwargs"]["num_beams"])
            speaker = LocalSpeaker(loaded)
            conversation = Conversation(shown, list(history))
            sample, text = spoken(speaker, conversation, question, drawing)
            ids, _, _ = qwen.spans_to_images(case.tokenizer, chat["context_ids"])
            assert prompt_for(loaded, sample).ids == tuple(ids)
            said = case.tokenizer.decode(answer["new_ids"])
            kept = said[: min([said.find(s) for s in stops if s in said], default=len(said))]
            wanted = case.tokenizer.encode(kept)
            assert text == case.tokenizer.decode(wanted, skip_special_tokens=True).strip()
            checked += 1
    assert checked
