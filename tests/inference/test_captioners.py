"""Captioners by path: as transformers writes, whatever the batch; servers; old folders."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from tests.inference import tiny_captioners as make
from tests.inference.tiny import picture, tiny_folder
from vlforge.inference import captioners
from vlforge.inference.captioners import EndpointCaptioner, LocalCaptioner
from vlforge.inference.load import load_model
from vlforge.inference.local import LocalModels
from vlforge.inference.native import PromptError
from vlforge.inference.scripted import ScriptedWriter
from vlforge.types import EndpointSpec, Refusal

FOLDERS = {
    "opt": make.blip2,
    "t5": lambda out: make.blip2(out, make.T5),
    "blip": make.blip,
    "git": make.git,
    "encoder_decoder": make.encoder_decoder,
    "ours": tiny_folder,
}
TOKENS = 12
PROMPTS = [None, "the cat", "a", "the cat", None, "red horse on", "a", None]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(captioners, "CAPTION_TOKENS", TOKENS)


@pytest.fixture(scope="module", params=FOLDERS)
def loaded(request, tmp_path_factory):
    """One model of each kind, opened by its folder."""
    return load_model(FOLDERS[request.param](tmp_path_factory.mktemp(request.param)), "cpu")


def takes_prompts(loaded) -> bool:
    return loaded.model.config.model_type != "vision-encoder-decoder"


def texts(captions):
    return [[one.text for one in row] for row in captions]


@pytest.mark.parametrize("count", [1, 3])
def test_captions_do_not_depend_on_batch_or_order(loaded, count):
    pictures, keys = [picture(n) for n in range(8)], list(range(40, 48))
    prompts = PROMPTS if takes_prompts(loaded) else [None] * 8
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    found = []
    for size in (1, 3, 8):
        captioner = LocalCaptioner(loaded, size)
        made = captioner.caption([pictures[n] for n in order], [prompts[n] for n in order], count,
                                 [keys[n] for n in order])  # fmt: skip
        by_place = dict(zip(order, made, strict=True))
        found.append([by_place[n] for n in range(8)])
    ready = LocalCaptioner(loaded, 8)
    found.append(ready.caption([ready.prepare(p) for p in pictures], prompts, count, keys))
    assert texts(found[0]) == texts(found[1]) == texts(found[2]) == texts(found[3])
    for left, right in zip(found[0], found[2], strict=True):
        assert [c.confidence for c in left] == pytest.approx(
            [c.confidence for c in right], abs=1e-4
        )
    assert len({tuple(row) for row in texts(found[0])}) > 3
    if count > 1:
        assert len({c.text for row in found[0] for c in row}) > 12


@pytest.mark.parametrize("name", ["opt", "t5", "blip", "git", "encoder_decoder"])
@pytest.mark.parametrize("prompt", [None, "the cat"])
def test_greedy_ids_are_those_of_transformers_own_generate(tmp_path, name, prompt):
    loaded = load_model(FOLDERS[name](tmp_path), "cpu")
    if prompt and not takes_prompts(loaded):
        with pytest.raises(PromptError, match="writes captions without a prompt"):
            LocalCaptioner(loaded).caption([picture(0)], [prompt], 1, [0])
        return
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    for number in range(4):
        inputs = loaded.processor(images=picture(number), text=prompt, return_tensors="pt")
        if prompt and name == "git":
            inputs = {k: v if k == "pixel_values" else v[:, :-1] for k, v in inputs.items()}
        ids = theirs.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
        said = loaded.tokenizer.decode(ids, skip_special_tokens=True).replace("<image>", "").strip()
        (caption,) = LocalCaptioner(loaded).caption([picture(number)], [prompt], 1, [0])[0]
        begin = f"{prompt} " if prompt and name != "t5" else ""
        assert (begin + caption.text).strip() == said


@pytest.mark.parametrize("text", [make.OPT, make.T5])
def test_a_folder_that_does_not_tell_of_picture_tokens_captions_alike(tmp_path, text):
    new = load_model(make.blip2(tmp_path / "new", text), "cpu")
    old = load_model(make.blip2(tmp_path / "old", text, is_old=True), "cpu")
    assert old.processor.num_query_tokens == 3
    assert old.model.config.image_token_index == 18, "what its own tokenizer gives"
    pictures, prompts = [picture(n) for n in range(4)], [None, "the cat", "a", None]
    made = [LocalCaptioner(one).caption(pictures, prompts, 2, [1, 2, 3, 4]) for one in (new, old)]
    assert texts(made[0]) == texts(made[1])
    assert len({row[0] for row in texts(made[0])}) > 1
    inputs = [one.processor(images=picture(1), text="the cat", return_tensors="pt")
              for one in (new, old)]  # fmt: skip
    theirs = [one.model.generate(**given, max_new_tokens=6, do_sample=False)[0].tolist()
              for one, given in zip((new, old), inputs, strict=True)]  # fmt: skip
    assert theirs[0] == theirs[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("text", [make.OPT, make.T5])
def test_half_precision_leaves_the_q_former_as_transformers_does(tmp_path, text, precision):
    whole = load_model(make.blip2(tmp_path, text), "cpu")
    half = load_model(tmp_path, "cpu", precision)
    said = [
        LocalCaptioner(one).caption([picture(0)], [None], 1, [0])[0][0] for one in (whole, half)
    ]
    assert said[1].confidence == pytest.approx(said[0].confidence, abs=0.3)
    assert said[1].text.split()[0] == said[0].text.split()[0]


def test_a_picture_is_encoded_once_for_all_its_candidates(tmp_path, monkeypatch):
    loaded = load_model(make.blip2(tmp_path), "cpu")
    seen = []
    encode = loaded.model.vision_model.forward
    monkeypatch.setattr(
        loaded.model.vision_model,
        "forward",
        lambda pixels, **how: seen.append(len(pixels)) or encode(pixels, **how),
    )
    one = picture(1)
    LocalCaptioner(loaded).caption([one, picture(2), one], ["a", None, "the"], 4, [1, 2, 3])
    assert seen == [2]


def test_memory_that_runs_out_halves_the_batch(tmp_path, monkeypatch):
    loaded = load_model(make.blip2(tmp_path), "cpu")
    pictures, keys = [picture(n) for n in range(7)], list(range(7))
    whole = LocalCaptioner(loaded).caption(pictures, [None] * 7, 2, keys)
    encode, sizes = loaded.model.vision_model.forward, []

    def small(pixels, **how):
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        sizes.append(len(pixels))
        return encode(pixels, **how)

    monkeypatch.setattr(loaded.model.vision_model, "forward", small)
    captioner = LocalCaptioner(loaded, 6)
    assert texts(captioner.caption(pictures, [None] * 7, 2, keys)) == texts(whole)
    assert max(sizes) <= 2
    assert captioner.batches.size <= 2


def test_the_first_candidate_is_greedy_unless_all_are_drawn(loaded):
    captioner = LocalCaptioner(loaded)
    pictures, nothing, keys = [picture(n) for n in range(6)], [None] * 6, list(range(6))
    greedy = texts(captioner.caption(pictures, nothing, 1, keys))
    several = texts(captioner.caption(pictures, nothing, 3, keys))
    assert [row[:1] for row in several] == greedy
    drawn = texts(captioner.caption(pictures, nothing, 3, keys, all_drawn=True))
    assert [row[:1] for row in drawn] != greedy
    again = texts(captioner.caption(pictures, nothing, 3, keys, all_drawn=True))
    assert again == drawn


def test_drawing_as_data_juicer_does_is_transformers_default(tmp_path):
    captioner = LocalCaptioner(load_model(make.blip2(tmp_path), "cpu"), temperature=0.1)
    how = captioner._decoding(2, all_drawn=True)
    assert (how.temperature, how.top_k, how.top_p, how.greedy_first) == (1.0, 50, 1.0, False)
    captioner.loaded.model.generation_config.top_k = 7
    assert captioner._decoding(2, all_drawn=True).top_k == 7


def test_a_server_captions_as_a_folder_does():
    writer = ScriptedWriter(lambda sample, times: f"{sample.turns[0].text[8:]} {times}")
    captioner = EndpointCaptioner(writer, concurrency=4)
    assert captioner.portion == 32
    tall = Image.new("RGB", (30, 4000), (200, 10, 10))
    ready = captioner.prepare(tall)
    made = captioner.caption([ready, picture(1)], ["Say:", None], 3, [7, 8])
    describe = "Describe the picture."
    assert texts(made) == [
        ["Say: 0", "Say: 1", "Say: 1"],
        [f"{describe} 0", f"{describe} 1", f"{describe} 1"],
    ]
    sent = Image.open(io.BytesIO(writer.asked[0].images[0]))
    assert (sent.format, sent.size) == ("JPEG", (15, 2048))
    assert sent.getpixel((5, 5)) == pytest.approx((200, 10, 10), abs=3)
    drawn = ScriptedWriter(lambda sample, times: str(times))
    made = EndpointCaptioner(drawn).caption([ready], [None], 2, [7], all_drawn=True)
    assert texts(made) == [["0", "0"]]


def encoded(image, kind="JPEG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_files_go_to_a_server_as_they_are_where_it_shows_them_alike(monkeypatch):
    captioner = EndpointCaptioner(ScriptedWriter(lambda sample, times: "fine"))
    small, turned = Image.new("RGB", (30, 20)), Image.Exif()
    turned[0x0112] = 6
    as_they_are = [encoded(small), encoded(small, "PNG"), encoded(small.convert("L"))]
    assert [captioner.prepare_file(file) for file in as_they_are] == as_they_are
    others = {
        "turned": encoded(small, exif=turned),
        "huge": encoded(Image.new("RGB", (2049, 8))),
        "seen through": encoded(small.convert("RGBA"), "PNG"),
        "palette": encoded(small.convert("P"), "PNG"),
        "print colours": encoded(small.convert("CMYK")),
        "rare": encoded(small, "BMP"),
        "none": b"no picture",
    }
    assert [name for name, file in others.items() if captioner.prepare_file(file)] == []
    monkeypatch.setattr(captioners, "LARGEST_SENT", 100)
    assert captioner.prepare_file(as_they_are[0]) is None


def test_what_a_server_refuses_is_told_of_that_picture_alone():
    refusal = Refusal("the server refuses", "400")
    writer = ScriptedWriter(lambda sample, times: refusal if sample.id.endswith("8") else "fine")
    made = EndpointCaptioner(writer).caption([picture(1), picture(2)], [None, None], 2, [7, 8])
    assert texts(made[:1]) == [["fine", "fine"]]
    assert made[1] == refusal


def test_a_name_of_the_recipe_is_a_server(monkeypatch):
    spec = EndpointSpec("m", "http://127.0.0.1:9/v1", concurrency=3)
    models = LocalModels(endpoints={"captions": spec}, temperature=0.5)
    opened = []
    monkeypatch.setattr(LocalModels, "writer", lambda self, name: opened.append(name) or "writer")
    captioner = models.captioner("captions")
    assert (opened, captioner.writer, captioner.portion) == (["captions"], "writer", 24)
    assert captioner.temperature == 0.5


def test_a_run_writes_the_same_bytes_whatever_batch_and_workers(tmp_path):
    from tests.engine.made import config, write_rows
    from vlforge.engine.local import run_process

    folder = str(make.blip2(tmp_path / "model"))
    token = "<__dj__image>"
    rows = []
    for number in range(9):
        picture(number).save(tmp_path / f"{number}.png")
        twice = number % 3 == 0
        names = [f"{number}.png", f"{(number + 1) % 9}.png"][: 1 + twice]
        text = f"{token} old <|__dj__eoc|>" * len(names)
        rows.append({"id": str(number), "text": text, "images": names, "q": "the cat"})
    path = write_rows(tmp_path / "a.jsonl", rows)
    written = []
    for size, workers in ((1, 1), (3, 1), (8, 2)):
        mapper = {"hf_img2seq": folder, "caption_num": 3, "keep_candidate_mode": "random_any",
                  "prompt_key": "q", "gpu_batch_size": size}  # fmt: skip
        out = tmp_path / f"out-{size}"
        models = LocalModels(device="cpu", batch=size)
        recipe = config(path, {"image_captioning_mapper": mapper})
        run_process(recipe, out, models=models, seed=4, workers=workers)
        written.append((out / "data.jsonl").read_bytes())
    assert written[0] == written[1] == written[2]
    assert written[0].count(b"provenance") == 9
    other = tmp_path / "other"
    run_process(recipe, other, models=models, seed=5, workers=1)
    assert (other / "data.jsonl").read_bytes() != written[0]
