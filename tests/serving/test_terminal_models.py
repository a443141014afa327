"""`vlforge chat` with models: parts and adapters, ways of drawing, mistakes in one line."""

from __future__ import annotations

import _thread
import functools
import io
import json

import peft
import pytest
import torch

from tests import families
from tests.inference.test_native import tiny_llava_hf
from tests.inference.test_writers import tiny_text
from vlforge.checkpoints.checkpoint import Parts
from vlforge.cli import main
from vlforge.inference.adapted import load_adapted
from vlforge.inference.load import load_model
from vlforge.inference.minigpt4 import DemoSettings, demo_answer
from vlforge.inference.reference_chat import DEFAULTS, DemoSpeaker, counting, reference_speaker
from vlforge.inference.speaking import LocalSpeaker
from vlforge.inference.writers import LocalWriter
from vlforge.serving.terminal import Asking, chat
from vlforge.text.encode import encode_turns
from vlforge.text.render import render
from vlforge.text.templates import find_template
from vlforge.types import Drawing, ModelError, Sample, Turn

QUESTION = "what is the cat"


def said(capsys, *words) -> str:
    """The answer of a one-shot chat."""
    assert main(["chat", *map(str, words), "-q", QUESTION]) == 0, capsys.readouterr().err
    answer, seconds = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    assert seconds.endswith("s)")
    return answer


def refusal(capsys, *words) -> str:
    """The one line of a chat that cannot be."""
    assert main(["chat", *map(str, words)]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if not line.startswith("note: ")] == shown[-1:]
    return shown[-1]


def sample(*pictures):
    marks = "<image>\n" * len(pictures)
    return Sample("chat", pictures, (Turn("user", marks + QUESTION),))


@pytest.mark.parametrize(
    ("words", "drawing", "key"),
    [
        ((), Drawing(256), 0),
        (("--max-new-tokens", 5), Drawing(5), 0),
        (("--temperature", 1.0, "--top-p", 0.9, "--seed", 3), Drawing(256, 1.0, 0.9), 3),
        (("--num-beams", 2, "--max-new-tokens", 6), Drawing(6, beams=2), 0),
    ],
)
def test_one_shot_answers_as_the_options_say(capsys, words, drawing, key):
    pictures = (families.picture_file(0), families.picture_file(1))
    shown = [word for picture in pictures for word in ("--image", picture)]
    found = said(capsys, families.written("mgm"), *shown, *words)
    (row,) = LocalWriter(families.loaded("mgm")).write([sample(*pictures)], drawing, [key])
    assert found == row[0].text


def lora(model, out, targets=("q_proj", "down_proj")):
    """A folder of LoRA on a model of transformers, and the model with it."""
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, lora_alpha=6, target_modules=list(targets))
    )
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = 0.5 * torch.randn_like(parameter)
    wrapped.save_pretrained(out)
    return wrapped.merge_and_unload()


def logits(loaded):
    ids = torch.tensor([[1, 5, 7, 9, 4]])
    with torch.no_grad():
        return loaded.language(input_ids=ids).logits


@pytest.mark.parametrize("kind", ["family", "language", "native"])
def test_an_adapter_is_put_into_any_model(tmp_path, capsys, kind):
    makers = {
        "family": lambda: families.written("llava"),
        "language": lambda: tiny_text(tmp_path / "text"),
        "native": lambda: tiny_llava_hf(tmp_path / "native"),
    }
    folder = makers[kind]()
    plain, merged = load_model(folder, "cpu"), load_model(folder, "cpu")
    merged.model.requires_grad_(True)
    whole = lora(merged.language, tmp_path / "lora")
    whole.eval()
    found = load_adapted(folder, tmp_path / "lora", "cpu")
    torch.testing.assert_close(logits(found), logits(merged), atol=1e-4, rtol=1e-4)
    assert (logits(found) - logits(plain)).abs().max() > 1e-2
    picture = ("--image", families.picture_file(0)) if kind != "language" else ()
    assert said(capsys, folder, "--adapter", tmp_path / "lora", "--device", "cpu", *picture)


def test_xtuners_parts_and_a_whole_language_model_in_their_place(tmp_path, capsys):
    ours = families.loaded("llava")
    words, tower, other = tmp_path / "words", tmp_path / "tower", tmp_path / "other"
    ours.language.save_pretrained(words)
    ours.tokenizer.save_pretrained(words)
    ours.model.vision.tower.save_pretrained(tower)
    folder, picture = families.written("llava"), families.picture_file(0)
    assert main(["convert-model", str(folder), str(tmp_path / "llava"), "--to", "xtuner"]) == 0
    for part in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / "llava" / part).unlink(missing_ok=True)
    capsys.readouterr()
    shown = ("--image", picture, "--max-new-tokens", 8)
    parts = ("--llava", tmp_path / "llava", "--visual-encoder", tower)

    def written(loaded) -> str:
        return LocalWriter(loaded).write([sample(picture)], Drawing(8), [0])[0][0].text

    def opened(language):
        parts = Parts(base=language, vision=tower)
        return load_model(tmp_path / "llava", "cpu", parts=parts, template="v1_short")

    first = said(capsys, words, *parts, "--prompt-template", "v1_short", *shown)
    assert first == written(opened(words))
    torch.manual_seed(5)
    for weight in ours.language.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    ours.language.save_pretrained(other)
    ours.tokenizer.save_pretrained(other)
    second = said(capsys, other, *parts, "--template", "v1_short", *shown)
    assert first != second == written(opened(other))
    assert said(capsys, folder, "--adapter", other, *shown) == written(ours)


def test_the_reference_style_is_each_familys_own(tmp_path, capsys):
    for family in DEFAULTS:
        speaker, drawing = reference_speaker(LocalSpeaker(families.loaded(family)))
        assert drawing == DEFAULTS[family]
        assert isinstance(speaker, DemoSpeaker) == (family == "minigpt4")
    with pytest.raises(ModelError, match="leave --style out"):
        reference_speaker(LocalSpeaker(load_model(tiny_text(tmp_path / "text"), "cpu")))
    picture = families.picture_file(0)
    words = (families.written("minigpt4"), "--image", picture, "--style", "reference", "--seed", 5)
    loaded = families.loaded("minigpt4")
    for more, settings in (
        (("--max-new-tokens", 9), DemoSettings(9)),
        (("--max-new-tokens", 9, "--num-beams", 3), DemoSettings(9, beams=3)),
    ):
        torch.manual_seed(5)
        wanted = demo_answer(loaded, sample(picture), settings).text
        torch.manual_seed(0)
        assert said(capsys, *words, *more) == wanted


def test_mini_geminis_style_counts_several_pictures_out():
    loaded = families.loaded("mgm")
    speaker, _ = reference_speaker(LocalSpeaker(loaded))
    one, two = (families.picture_file(n) for n in range(2))
    turns = (
        Turn("user", "<image>\n<image>\nwhat is it"),
        Turn("assistant", "a cat"),
        Turn("user", "<image>\nand"),
    )
    many = Sample("c", (one, two, one), turns)
    text = render(counting(find_template("vicuna_v1")), turns, generation=True).text
    assert text.partition("questions. ")[2] == (
        "USER: Image 1:<image>\nImage 2:<image>\nwhat is it ASSISTANT: a cat</s>"
        "USER: Image 3:<image>\nand ASSISTANT:"
    )
    template, alone = counting(loaded.template), LocalSpeaker(loaded)
    how = {"max_length": None, "generation": True, "images": 3}
    ids = encode_turns(template, loaded.tokenizer, turns, **how).ids
    assert speaker.asked(many, 0).prompt.ids == tuple(ids) != alone.asked(many, 0).prompt.ids
    assert speaker.asked(sample(one), 0) == alone.asked(sample(one), 0)


def test_a_conversation_with_a_model_goes_on_from_its_answers(tmp_path):
    loaded = families.loaded("llava")
    first, second, file = families.picture_file(0), families.picture_file(1), tmp_path / "a.json"
    lines = [QUESTION, f"/add {second}", "the red cat", f"/save {file}"]
    output, asking = io.StringIO(), Asking(Drawing(7))
    source = io.StringIO("\n".join(lines))
    speaker = LocalSpeaker(loaded)
    how = {"asking": asking, "source": source, "output": output}
    chat("m", [first], open_speaker=lambda: (speaker, asking), **how)
    (row,) = json.loads(file.read_text(encoding="utf-8"))
    spoken = [turn["value"] for turn in row["conversations"]]
    writer = LocalWriter(loaded)
    (one,) = writer.write([sample(first)], Drawing(7), [0])
    turns = (
        Turn("user", f"<image>\n{QUESTION}"),
        Turn("assistant", one[0].text),
        Turn("user", "<image>\nthe red cat"),
    )
    (two,) = writer.write([Sample("chat", (first, second), turns)], Drawing(7), [0])
    assert spoken[1::2] == [one[0].text, two[0].text]
    assert row["image"] == [first, second]


def test_mistakes_are_one_line(tmp_path, capsys):
    folder, text = families.written("llava"), tiny_text(tmp_path / "text")
    picture = families.picture_file(0)
    ask = ("-q", QUESTION)
    assert "no picture at nowhere.png" in refusal(capsys, folder, "--image", "nowhere.png", *ask)
    assert "sees no pictures" in refusal(capsys, text, "--image", picture, *ask)
    assert "--style fancy is unknown" in refusal(capsys, folder, "--style", "fancy", *ask)
    assert "give one of them" in refusal(capsys, folder, "--adapter", text, "--llava", text, *ask)
    assert "nothing at gone; check" in refusal(capsys, folder, "--adapter", "gone", *ask)
    assert "no adapter that is known" in refusal(capsys, folder, "--adapter", tmp_path, *ask)
    assert "quantise" in refusal(capsys, folder, "--load-in", "3bit", *ask)
    both = ("--num-beams", 2, "--temperature", 1)
    assert "beams search without sampling" in refusal(capsys, folder, *both, *ask)


@pytest.mark.parametrize("kind", ["family", "native"])
def test_ctrl_c_in_an_answer_leaves_the_talk_going(tmp_path, monkeypatch, kind):
    made = {"family": lambda: families.loaded("llava"),
            "native": lambda: load_model(tiny_llava_hf(tmp_path / "native"), "cpu")}  # fmt: skip
    loaded, steps = made[kind](), []
    forward = loaded.language.forward

    @functools.wraps(forward)
    def pressed(**inputs):
        steps.append(1)
        if len(steps) == 4:
            _thread.interrupt_main()
        return forward(**inputs)

    monkeypatch.setattr(loaded.language, "forward", pressed)
    output, asking, speaker = io.StringIO(), Asking(Drawing(200, 2.0)), LocalSpeaker(loaded)
    source = io.StringIO(f"{QUESTION}\n{QUESTION}\n/settings\n")
    how = {"asking": asking, "source": source, "output": output}
    chat("m", [families.picture_file(0)], open_speaker=lambda: (speaker, asking), **how)
    shown = output.getvalue()
    assert shown.count("stopped after ") == 1
    assert "temperature 2" in shown
    assert shown.endswith("bye\n")
    assert len(steps) > 5, "the second question is answered"
