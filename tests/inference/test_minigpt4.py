"""The demo's answers: its stop tokens, its cut on the left; and the generic chat beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.models.plain_minigpt4 import EVA, tiny
from vlforge.inference.load import Loaded, load_model
from vlforge.inference.local import LocalChat
from vlforge.inference.minigpt4 import (
    DemoSettings,
    StopOnIds,
    demo_answer,
    demo_reply,
    stop_ids,
)
from vlforge.inference.prompts import embed, prompt_of
from vlforge.models.folder import ModelFolder, write_folder
from vlforge.models.parts.image_processor import ImageProcessor
from vlforge.models.reading import read_tokenizer
from vlforge.types import ModelError, Sample, Turn

GREEDY = DemoSettings(max_new_tokens=6, sample=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model trained with MiniGPT-4's template, as a train stage leaves it."""
    out = tmp_path_factory.mktemp("model")
    made = Path(__file__).parents[1] / "text" / "made" / "tokenizer.model"
    (out / "tokenizer.model").write_bytes(made.read_bytes())
    (out / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tokenizer = read_tokenizer(out)
    model = tiny(vocab_size=len(tokenizer), max_position_embeddings=2100)
    processor = ImageProcessor(EVA["image_size"], "stretch")
    write_folder(ModelFolder(model, tokenizer, processor, template="minigpt4"), out)
    return out


@pytest.fixture(scope="module")
def loaded(folder) -> Loaded:
    return load_model(folder, device="cpu")


def sample(words: str = "What is it?", side: int = 40) -> Sample:
    picture = Image.new("RGB", (side, 30), (200, 30, 30))
    return Sample("one", (picture,), (Turn("user", f"<image>\n{words}"),))


def test_a_model_is_talked_to_in_the_chats_words(loaded):
    assert loaded.template.name == "minigpt4_chat"
    assert loaded.processor.fit_mode == "stretch"
    assert loaded.decoding(5).stop_strings == ("###",)


def test_the_generic_chat_and_the_greedy_demo_agree(folder, loaded):
    (answer,) = LocalChat(loaded).answer([sample()], 6)
    assert demo_answer(loaded, sample(), GREEDY).text == answer.text


def test_the_same_seed_draws_the_same_answer(loaded):
    replies = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        replies.append(demo_answer(loaded, sample(), DemoSettings(max_new_tokens=12)).ids)
    assert replies[0] == replies[1] != replies[2]


def test_an_answer_ends_with_the_stop_ids(loaded):
    (prompt,) = embed(loaded, [prompt_of(loaded, sample())])
    whole = demo_reply(loaded.language, loaded.tokenizer, prompt, GREEDY).ids
    stops = [[99999], list(whole[1:3])]
    cut = demo_reply(loaded.language, loaded.tokenizer, prompt, GREEDY, stops).ids
    assert cut == whole[:3]


def test_every_row_has_its_own_end():
    rows = torch.tensor([[4, 5, 6], [6, 5, 4], [1, 1, 6]])
    assert StopOnIds([[5, 6], [4]])(rows, rows).tolist() == [True, True, False]
    assert StopOnIds([[1, 2, 3, 4]])(rows, rows).tolist() == [False, False, False]


def test_stop_ids_are_those_of_the_separator_alone_and_behind_a_word(loaded):
    tokens = loaded.tokenizer
    for ids in stop_ids(tokens):
        assert tokens.decode(ids).strip() == "###"
    behind = tokens.encode("a###", add_special_tokens=False)
    assert behind[-len(stop_ids(tokens)[1]) :] == stop_ids(tokens)[1]


def test_a_long_conversation_loses_its_start(loaded):
    (prompt,) = embed(loaded, [prompt_of(loaded, sample())])
    room = len(prompt) + GREEDY.max_new_tokens - 3
    reply = demo_reply(loaded.language, loaded.tokenizer, prompt, replace(GREEDY, max_length=room))
    assert reply.dropped == 3
    rest = demo_reply(loaded.language, loaded.tokenizer, prompt[3:], GREEDY)
    assert reply.ids == rest.ids
    assert rest.dropped == 0


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(loaded):
    with pytest.raises(ModelError, match="leaves no room for a prompt"):
        demo_answer(loaded, sample(), DemoSettings(max_new_tokens=2000))
