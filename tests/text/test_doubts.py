"""A template that may not fit a language model is told of, and where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.inference.tiny import tiny_folder, tiny_tokenizer
from tests.models.tiny_native import tokenizer as with_marks
from tests.tiny_model import write_data, write_parts
from tests.tiny_qwen import tokenizer as qwen_tokenizer
from vlforge.models.config import ModelSpec
from vlforge.runs.check import check_recipe
from vlforge.runs.prepare import Choice
from vlforge.serving.terminal import chat
from vlforge.text.doubts import special_marks, template_doubts
from vlforge.text.templates import TEMPLATES, find_template
from vlforge.training.config import TrainConfig
from vlforge.training.loop import train

LLAMA_3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA = ("<start_of_turn>", "<end_of_turn>")


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        ("gemma", GEMMA),
        ("chatml_direct", ("<|im_start|>", "<|im_end|>")),
        ("llama_3", LLAMA_3),
        ("phi3_chat", ("<|system|>", "<|end|>", "<|user|>", "<|assistant|>")),
        ("qwen_vl", ("<|im_start|>", "<|im_end|>", "<img>", "</img>")),
    ],
)
def test_marks_that_a_tokenizer_cuts_are_named(template, marks):
    (doubt,) = template_doubts(find_template(template), tiny_tokenizer())
    assert doubt.startswith(f"template {template!r} marks turns with {', '.join(marks)}, which")
    assert "\n" not in doubt
    assert template_doubts(find_template(template), with_marks(*marks)) == []


@pytest.mark.parametrize(
    "template", ["plain", "v1", "llava_v0", "llama_2", "mistral_instruct", "vicuna", "zephyr",
                 "xtuner_default", "minigpt4", "minigpt4_v1_chat", "v1_mmtag"],
)  # fmt: skip
def test_ordinary_words_are_no_marks(template):
    assert special_marks(find_template(template)) == []
    assert template_doubts(find_template(template), tiny_tokenizer()) == []


def test_qwens_own_tokenizer_knows_its_template():
    for name in ("qwen_vl", "mgen_vl", "chatml_direct"):
        assert template_doubts(find_template(name), qwen_tokenizer()) == []


def test_an_end_that_the_tokenizer_does_not_have_is_told():
    words = tiny_tokenizer()
    words.eos_token = None
    (doubt,) = template_doubts(find_template("v1"), words)
    assert "ends answers with an end-of-sequence token, and this tokenizer has none" in doubt
    words.bos_token = None
    assert len(template_doubts(find_template("llama_2"), words)) == 2
    assert template_doubts(find_template("plain"), words) == []


def test_vicunas_separators_are_doubted_for_minigpt4_alone():
    llama = {"model_type": "llama", "vocab_size": 32000}
    (doubt,) = template_doubts(find_template("minigpt4"), tiny_tokenizer(), llama)
    assert "it ends turns with '</s>'" in doubt
    assert template_doubts(find_template("llava_v0"), tiny_tokenizer(), llama) == []


def test_every_template_can_be_doubted():
    for template in TEMPLATES.values():
        assert all("\n" not in line for line in template_doubts(template, tiny_tokenizer(), {}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    spec = ModelSpec(vision=str(vision), language=str(language))
    return TrainConfig(model=spec, data=str(data), samples=4, batch=4)


def test_check_warns_once(made, tmp_path):
    path = tmp_path / "recipe.yaml"
    spec = f"{{vision: {made.model.vision}, language: {made.model.language}}}"
    path.write_text(
        f"stages:\n  align: {{kind: train, data: {made.data}, model: {spec}, samples: 4,\n"
        "          template: gemma}\n"
    )
    found = check_recipe(path, Choice(run_dir=tmp_path / "runs" / "r"))
    told = [one for one in found if "marks turns with <start_of_turn>" in one.text]
    assert [(one.level, one.where) for one in told] == [("warning", "align.s0")]


@pytest.mark.parametrize(("template", "doubts"), [("gemma", 1), ("vicuna", 0)])
def test_training_warns_once_and_goes_on(made, tmp_path, template, doubts):
    events = []
    summary = train(
        replace(made, template=template), tmp_path / "out", device="cpu", log=events.append
    )
    told = [e["text"] for e in events if e["event"] == "warning" and "marks turns" in e["text"]]
    assert len(told) == doubts
    assert summary["samples"] == 4


def test_chat_warns_once_on_the_error_stream(tmp_path, capsys):
    folder = tiny_folder(tmp_path / "model", template="v1")
    chat(folder, question="what is the cat", device="cpu", template="chatml_direct")
    shown = capsys.readouterr()
    assert shown.err.count("note: template 'chatml_direct' marks turns with <|im_start|>") == 1
    assert "marks turns" not in shown.out
    chat(folder, question="what is the cat", device="cpu")
    assert "note:" not in capsys.readouterr().err
