"""Texts near to validation texts: mean cosines, by folders of encoders and by servers."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from vlforge.inference.local import LocalModels
from vlforge.inference.scripted import ScriptedModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import Drop, EndpointSpec, ModelError, RecipeError

PLACES = {"east": (1, 0), "north": (0, 1), "both": (0.6, 0.8)}


class Told:
    def embed_texts(self, texts):
        return np.array([PLACES[text] for text in texts], np.float32)


def run(rows, models=None, **params):
    (bound,) = bind([{"text_embd_similarity_filter": {"api_or_hf_model": "e", **params}}])
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(rows)]
    models = models or ScriptedModels(others={"e": Told()})
    return bound.op.measure(Batch(items, Context(models=models)))[0]


def test_the_score_is_the_mean_cosine_to_the_validation_texts(tmp_path):
    rows = [{"text": "east"}, {"text": " "}, {"text": "both"}, {"other": 1}]
    valid = [{"text": "east"}, {"text": "north"}]
    found = run(rows, valid_dataset=valid)
    assert found[0] == pytest.approx(0.5)
    assert found[2] == pytest.approx((0.6 + 0.8) / 2)
    assert found[1] == Drop("", "no text to compare")
    assert found[3] == Drop("", "field is missing", None, "text")
    file = tmp_path / "v.jsonl"
    file.write_text("\n".join(map(json.dumps, valid)))
    assert run(rows, valid_dataset=str(file))[:1] == found[:1]
    assert run([{"q": "both"}], valid_dataset=[{"q": "east"}], input_template="{q}") == [
        pytest.approx(0.6)
    ]


def test_validation_rows_without_texts_are_told_when_the_recipe_is_read():
    for valid, said in (([], "tells of no rows"), ([{"q": 1}], "field is missing: text")):
        with pytest.raises(RecipeError, match=said):
            bind([{"text_embd_similarity_filter": {"valid_dataset": valid}}])


def text_folder(out, kind):
    from tests.inference.tiny import tiny_language, tiny_tokenizer

    if kind == "llama":
        tiny_language().save_pretrained(out)
        tiny_tokenizer().save_pretrained(out)
        return out
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=18, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=12, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(out)
    tiny_tokenizer().save_pretrained(out)
    return out


@pytest.mark.parametrize(
    ("kind", "mode", "pooled"),
    [
        ("llama", None, lambda states: states[-1]),
        ("bert", None, lambda states: states.mean(0)),
        ("bert", "pooling_mode_cls_token", lambda states: states[0]),
        ("llama", "pooling_mode_weightedmean_tokens",
         lambda states: (states * np.arange(1, len(states) + 1)[:, None]).sum(0)),
    ],
)  # fmt: skip
def test_folders_of_text_encoders_give_unit_vectors_whatever_the_batch(
    tmp_path, kind, mode, pooled
):
    import torch
    from transformers import AutoModel

    folder = text_folder(tmp_path / kind, kind)
    if mode:
        (folder / "1_Pooling").mkdir()
        said = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False, mode: True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    embedder = LocalModels(device="cpu").embedder(str(folder))
    texts = ["the red cat", "a horse stands on the blue grass .", "cat"]
    together = embedder.embed_texts(texts)
    model = AutoModel.from_pretrained(folder)
    for text, vector in zip(texts, together, strict=True):
        ids = embedder.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states = model(input_ids=ids["input_ids"]).last_hidden_state[0].numpy()
        wanted = pooled(states)
        assert vector == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-5)
    with pytest.raises(ModelError, match="encodes texts alone"):
        embedder.embed_images([])


def test_a_pooling_that_is_not_known_is_told(tmp_path):
    folder = text_folder(tmp_path / "bert", "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="asks for pooling_mode_max_tokens; known: one of"):
        LocalModels(device="cpu").embedder(str(folder))


@contextmanager
def server(answers):
    """Gives `answers` one after another, status and JSON; notes what it is asked."""
    asked = []

    class Told(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(
                (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            )
            status, told = (
                answers(asked[-1][1])
                if callable(answers)
                else answers[min(len(asked), len(answers)) - 1]
            )
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    one = HTTPServer(("127.0.0.1", 0), Told)
    thread = threading.Thread(target=one.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{one.server_port}/v1", asked
    finally:
        one.shutdown()
        one.server_close()


def test_a_server_of_embeddings_is_asked_again_where_that_may_help(monkeypatch):
    monkeypatch.setattr("vlforge.inference.text_embeddings._LONGEST_WAIT_S", 0.0)
    vectors = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 0]}]
    with server([(503, {}), (200, {"data": vectors})]) as (url, asked):
        models = LocalModels(endpoints={"e": EndpointSpec("emb", url)})
        assert run([{"text": "x"}], models, valid_dataset=[{"text": "y"}]) == [0.0]
    assert [path for path, _ in asked] == ["/v1/embeddings"] * 2
    assert asked[1][1]["input"] == ["x", "y"]
    assert asked[1][1]["model"] == "emb"


def test_a_text_that_is_too_long_for_a_server_is_cut():
    def answer(body):
        if len(body["input"]) > 1 or len(body["input"][0]) > 100:
            return 400, {"error": "too long"}
        return 200, {"data": [{"index": 0, "embedding": [1, len(body["input"][0])]}]}

    with server(answer) as (url, asked):
        models = LocalModels(endpoints={"e": EndpointSpec("emb", url)})
        (found,) = run([{"text": "x" * 300}], models, valid_dataset=[{"text": "y"}])
    assert found == pytest.approx((1 + 75) / (1 + 75**2) ** 0.5 / 2**0.5, abs=1e-5)
    assert [[len(text) for text in body["input"]] for _, body in asked] == [
        [300, 1], [300], [150], [75], [1]]  # fmt: skip


def test_a_server_without_embeddings_ends_the_run():
    for answer, said in (
        ((404, {"error": "no such"}), "no embeddings from 'emb': 404"),
        ((200, {"choices": []}), "no embeddings in its reply"),
        ((200, {"data": [{"embedding": [1.0]}]}), "1 embeddings for 2 texts"),
    ):
        with server([answer]) as (url, _):
            models = LocalModels(endpoints={"e": EndpointSpec("emb", url, retries=0)})
            with pytest.raises(ModelError, match=said):
                run([{"text": "x"}], models, valid_dataset=[{"text": "y"}])
