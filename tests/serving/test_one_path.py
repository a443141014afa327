"""The same picture, question and settings: one answer, wherever it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import families
from tests.inference.test_native import tiny_llava_hf
from tests.serving.made_web import visiting
from tests.serving.served import serving, shown, user, words
from vlforge.cli import main
from vlforge.inference.speaking import LocalSpeaker, open_speaker
from vlforge.serving.talking import Talker
from vlforge.serving.terminal import printable
from vlforge.types import Drawing, Sample, Turn

QUESTIONS = ("what is the cat", "is the red horse on grass", "what sits")
DRAWINGS = {"greedy": Drawing(12), "sampled": Drawing(12, 0.8, 0.9), "beams": Drawing(6, beams=2)}
SEED = 11
MODELS = ("llava", "mgm", "minigpt4", "qwen_vl", "native")


def asked() -> list[tuple[str, str]]:
    """Pictures and what is asked about each; question n is drawn with the key SEED + n."""
    return [(families.picture_file(n), text) for n, text in enumerate(QUESTIONS)]


def in_terminal(folder: Path, drawing: Drawing, capsys) -> list[str]:
    """By `vlforge chat`, one shot each."""
    found = []
    how = ["--max-new-tokens", drawing.max_new_tokens, "--temperature", drawing.temperature]
    how += ["--top-p", drawing.top_p, "--num-beams", drawing.beams, "--device", "cpu"]
    for number, (picture, question) in enumerate(asked()):
        ask = ["--image", picture, "-q", question, "--seed", SEED + number, *how]
        assert main(["chat", str(folder), *map(str, ask)]) == 0
        found.append(capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)[0])
    return found


def by_talker(speaker: LocalSpeaker, drawing: Drawing) -> list[str]:
    """By what pages and servers share, all at once."""
    talker = Talker(speaker, "m")
    requests = [
        talker.ask(
            Sample(str(number), (picture,), (Turn("user", f"<image>\n{question}"),)),
            drawing,
            SEED + number,
        )
        for number, (picture, question) in enumerate(asked())
    ]
    found = [request.whole()[0] for request in requests]
    talker.close()
    return found


def over_http(speaker: LocalSpeaker, drawing: Drawing) -> list[str]:
    """By `/v1/chat/completions`, streamed and not by turns."""
    found = []
    with serving(speaker) as place:
        for number, (picture, question) in enumerate(asked()):
            content = [shown(Path(picture).read_bytes()), words(question)]
            how = {"max_tokens": drawing.max_new_tokens, "temperature": drawing.temperature}
            how |= {"top_p": drawing.top_p, "seed": SEED + number}
            client = place.client()
            more = {"extra_body": {"num_beams": drawing.beams}}
            ask = {"model": "m", "messages": [user(content)], **how, **more}
            if number % 2:
                pieces = client.chat.completions.create(stream=True, **ask)
                texts = [one.choices[0].delta.content or "" for one in pieces if one.choices]
                found.append("".join(texts))
            else:
                found.append(client.chat.completions.create(**ask).choices[0].message.content)
    return found


def on_web_page(speaker: LocalSpeaker, drawing: Drawing) -> list[str]:
    """By the chat page's server, pictures uploaded."""
    settings = {"max_tokens": drawing.max_new_tokens, "temperature": drawing.temperature}
    settings |= {"top_p": drawing.top_p, "beams": drawing.beams}
    found = []
    with visiting(Talker(speaker, "m")) as (client, _):
        room = f"/api/rooms/{client.post('/api/rooms').json()['room']}"
        for number, (picture, question) in enumerate(asked()):
            sent = client.post(f"{room}/pictures?name=a", content=Path(picture).read_bytes())
            exchange = {"question": question, "pictures": [sent.json()["number"]]}
            ask = {"exchanges": [exchange], "settings": settings | {"seed": SEED + number}}
            lines = client.post(f"{room}/answers", json=ask).text.splitlines()
            found.append("".join(json.loads(line).get("text", "") for line in lines))
    return found


def by_predict(folder: Path, drawing: Drawing, out: Path) -> list[str]:
    """By `vlforge predict` over a file."""
    rows = [{"id": n, "image": p, "question": q} for n, (p, q) in enumerate(asked())]
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = ["--max-new-tokens", drawing.max_new_tokens, "--temperature", drawing.temperature]
    how += ["--top-p", drawing.top_p, "--beams", drawing.beams, "--seed", SEED, "--device", "cpu"]
    places = [folder, out / "rows.jsonl", out / "answers.jsonl"]
    assert main(["predict", *map(str, [*places, *how])]) == 0
    lines = (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def by_eval(folder: Path, drawing: Drawing, out: Path) -> list[str]:
    """By `vlforge eval run` on questions of one's own."""
    rows = [{"id": n, "image": p, "question": q, "answer": "a"} for n, (p, q) in enumerate(asked())]
    (out / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = ["--benchmark", "custom", "--questions", out / "mine.jsonl", "--prompt", "as-is"]
    how = ["--max-new-tokens", drawing.max_new_tokens, "--out", out / "eval", "--device", "cpu"]
    assert main(["eval", "run", *map(str, [folder, *ask, *how])]) == 0
    lines = (out / "eval" / "predictions.custom.jsonl").read_text(encoding="utf-8").splitlines()
    said = {str(row["id"]): row["text"] for row in map(json.loads, lines)}
    return [said[str(number)] for number in range(len(rows))]


@pytest.mark.parametrize("way", DRAWINGS)
@pytest.mark.parametrize("name", MODELS)
def test_everything_that_answers_says_the_same(tmp_path, capsys, name, way):
    folder = tiny_llava_hf(tmp_path / "m") if name == "native" else families.written(name)
    drawing = DRAWINGS[way]
    wanted = in_terminal(folder, drawing, capsys)
    assert len(set(wanted)) > 1, "the case must hold different answers"
    speaker = open_speaker(folder, device="cpu")
    found = {
        "talker": by_talker(speaker, drawing),
        "http": over_http(speaker, drawing),
        "web": on_web_page(speaker, drawing),
        "predict": by_predict(folder, drawing, tmp_path),
    }
    if way == "greedy":  # an evaluation never samples
        found["eval"] = by_eval(folder, drawing, tmp_path)
    assert found == dict.fromkeys(found, found["talker"])
    # A terminal is spared control characters, which models of noise do write.
    assert [printable(text) for text in found["talker"]] == wanted
