"""Real models behind the server: the answers they give elsewhere, whatever they are asked with."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import families
from tests.evaluation.little_world import write_questions
from tests.serving.served import echo, serving, shown, user, words
from vlforge.cli import main
from vlforge.inference.local import LocalChat
from vlforge.inference.speaking import LocalSpeaker
from vlforge.inference.writers import LocalWriter
from vlforge.types import Drawing, Sample, Turn


def picture(number: int) -> bytes:
    return Path(families.picture_file(number)).read_bytes()


def asked(sample: Sample) -> list[dict]:
    """A sample of `families` as messages."""
    pictures = iter(sample.images)
    messages = []
    for turn in sample.turns:
        parts = []
        for text in turn.text.split("\n"):
            is_mark = text == "<image>"
            parts.append(shown(Path(next(pictures)).read_bytes()) if is_mark else words(text))
        messages.append({"role": turn.role, "content": parts if sample.images else turn.text})
    return messages


@pytest.mark.parametrize("name", ["llava", "mgm_hd", "minigpt4", "qwen_vl", "qwen2_5_vl"])
def test_the_server_says_what_the_model_says(name):
    loaded = families.loaded(name)
    samples = families.samples()[:5]
    with serving(LocalSpeaker(loaded), batch=3) as place, ThreadPoolExecutor(5) as pool:
        for drawing in (Drawing(9), Drawing(9, 1.0, 0.9, stop=("cat",))):
            how = {"max_tokens": 9, "temperature": drawing.temperature, "top_p": drawing.top_p}
            how |= {"stop": list(drawing.stop), "seed": 5}
            found = list(
                pool.map(
                    lambda sample, how=how: place.client().chat.completions.create(
                        model="m", messages=asked(sample), **how
                    ),
                    samples,
                )
            )
            keys = [5 if drawing.temperature else 0] * len(samples)
            wanted = LocalWriter(loaded).write(samples, drawing, keys)
            assert [one.choices[0].message.content for one in found] == [w[0].text for w in wanted]
            assert all(0 < one.usage.completion_tokens <= 9 for one in found)


def test_streamed_pieces_are_the_whole_answer():
    loaded = families.loaded("llava")
    sample = families.samples()[0]
    (said,) = LocalChat(loaded).answer([sample], 9)
    with serving(LocalSpeaker(loaded)) as place:
        stream = place.client().chat.completions.create(
            model="m", messages=asked(sample), max_tokens=9, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == said.text


@pytest.mark.parametrize("name", ["llava", "minigpt4", "qwen_vl", "qwen2_5_vl"])
def test_a_system_message_is_heard_or_refused_but_breaks_nothing(name):
    loaded = families.loaded(name)
    with serving(LocalSpeaker(loaded)) as place:
        for template_says in ("the red horse", ""):
            status, body, _ = place.complete(
                {"role": "system", "content": template_says}, user("what is the cat"), max_tokens=5
            )
            assert status == 200, body


def test_what_a_model_cannot_take_is_a_bad_request():
    loaded = families.loaded("llava")
    whole = picture(1)
    with serving(LocalSpeaker(loaded)) as place:
        status, body, _ = place.complete(user("cat " * 5000))
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        status, body, _ = place.complete(user([shown(whole[: len(whole) // 2]), words("what")]))
        assert status == 400
        assert "picture" in body["error"]["message"]
        assert place.complete(user("what"), max_tokens=3)[0] == 200


def evaluated(tmp_path, capsys, *command: str) -> tuple[dict, list[str]]:
    """Score and answers of `vlforge eval run`."""
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    spec = write_questions(tmp_path / f"world-{out.name}", 9)
    arguments = ["eval", "run", *command, "--benchmark", "custom", "--questions", spec.questions]
    if spec.images:
        arguments += ["--images", spec.images]
    assert main([*arguments, "--max-new-tokens", "6", "--out", str(out)]) == 0, capsys.readouterr()
    rows = [json.loads(line) for line in (out / "predictions.custom.jsonl").open()]
    metrics = json.loads((out / "metrics.json").read_text())["custom"]
    return metrics, [row["text"] for row in rows]


def test_an_evaluation_over_http_is_that_of_the_model(tmp_path, capsys):
    folder = families.written("llava", 32)
    local, answers = evaluated(tmp_path, capsys, str(folder))
    with serving(echo(), LocalSpeaker(LocalChat(folder))) as place:
        server = ("--url", place.url, "--model-name", "m2")
        remote, same = evaluated(tmp_path, capsys, *server)
        assert place.house.talkers["m2"].answered == 9
    assert same == answers
    assert len(set(answers)) > 2
    assert remote["score"] == local["score"]
    assert remote["n"] == local["n"] == 9


def test_a_request_as_vlmevalkit_sends_it_is_answered():
    # Its OpenAI and LMDeploy classes: parts in a list, n, further fields beside the address.
    loaded = families.loaded("llava")
    part = shown(picture(0))
    part["image_url"] |= {"detail": "low", "max_dynamic_patch": 6}
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": [words("the red cat")]},
            user([part, words("what is the cat")]),
        ],
        "max_tokens": 6,
        "n": 1,
        "temperature": 0.0,
    }
    turns = (Turn("system", "the red cat"), Turn("user", "<image>\nwhat is the cat"))
    sample = Sample("s", (families.picture_file(0),), turns)
    with serving(LocalSpeaker(loaded)) as place:
        status, answer, _ = place.ask("/v1/chat/completions", body)
    (said,) = LocalWriter(loaded).write([sample], Drawing(6), [0])
    assert status == 200
    assert answer["choices"][0]["message"]["content"].strip() == said[0].text
