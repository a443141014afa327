"""A process stage with models: what its key depends on, where replies are kept, what it costs."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tests.endpoint_server import endpoint
from vlforge.engine.config import ProcessConfig
from vlforge.recipe.graph import Node
from vlforge.runs import keys
from vlforge.runs.job import Job
from vlforge.runs.keys import node_key
from vlforge.runs.kinds.process import REPLIES, estimate, run
from vlforge.types import EndpointSpec, VLForgeError

REWRITE = {"tests.engine.model_ops:RewriteMapper": {"model": "far"}}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "a.jsonl"
    told = [{"id": n, "text": f"row {n:03d} of many", "images": []} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


def job(folder, key: str, events: list | None = None) -> Job:
    out = folder / "store" / f"{key}.partial"
    out.mkdir(parents=True, exist_ok=True)
    return Job("n", out, folder, log=[].append if events is None else events.append)


def test_only_what_shapes_the_result_is_in_the_key(monkeypatch):
    # Reading all of the package's source takes seconds, and is not what this is about.
    monkeypatch.setattr(keys, "source_digest", lambda modules: "")

    def key(**settings):
        return node_key(Node("n", "n", "process", 1, settings, {}, ("",), (0,)), {})

    far = asdict(EndpointSpec("m", "http://localhost:1/v1"))
    same = {**far, "concurrency": 64, "max_cost": 9.0, "price_in": 1.0, "retries": 0}
    plain = key(process=["clean_email_mapper"], endpoints={"far": far})
    assert plain == key(
        process=["clean_email_mapper"], endpoints={"far": same}, np=4, model_workers=2,
        replies="elsewhere",
        executor_type="ray", ray_address="local",
    )  # fmt: skip
    assert plain != key(process=["clean_email_mapper"], endpoints={"far": {**far, "model": "n"}})
    assert plain != key(
        process=["clean_email_mapper"], endpoints={"far": {**far, "url": "http://localhost:2"}}
    )
    assert plain != key(process=["clean_links_mapper"], endpoints={"far": far})


def test_a_stage_goes_on_with_more_money_and_another_recipe_pays_nothing_again(tmp_path, rows):
    def answer(body, times):
        return f"said {len(server.asked)}"

    with endpoint(answer) as server:

        def config(**how):
            spec = EndpointSpec("m", server.url, price_in=1e6, price_out=1e6, **how)
            return ProcessConfig(str(rows), process=(REWRITE,), endpoints={"far": spec})

        with pytest.raises(VLForgeError, match="budget is spent"):
            run(config(max_cost=500.0, concurrency=1), job(tmp_path, "one"))
        assert (tmp_path / "store" / REPLIES).is_file()
        paid = len(server.asked)
        assert 0 < paid < 200
        events: list = []
        run(config(concurrency=1), job(tmp_path, "one", events))
        assert len(server.asked) == 200
        run(config(concurrency=8), job(tmp_path, "another"))
        assert len(server.asked) == 200
    first, second = (
        (tmp_path / "store" / f"{name}.partial" / "data.jsonl").read_text()
        for name in ("one", "another")
    )
    assert first == second
    assert not list((tmp_path / "store" / "one.partial").glob(".*"))
    assert any("200 replies" in event.get("note", "") for event in events)


def test_the_plan_tells_what_models_are_asked_for(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"text": "a" * 400, "images": ["a.png", "b.png"]}
    path.write_text((json.dumps(row) + "\n") * 1000)
    far = EndpointSpec("big", price_in=2.0, price_out=10.0, requests_per_minute=10.0, max_cost=5.0)
    ask = {"mllm_mapper": {"hf_model": "far", "max_new_tokens": 100}}
    caption = {"image_captioning_mapper": {"hf_img2seq": "org/blip-2.5b", "caption_num": 2}}

    def cost(*process):
        config = ProcessConfig(str(path), process=process, endpoints={"far": far})
        return estimate(config, {})

    plain = cost("text_length_filter")
    assert (plain.gpu, plain.flops, plain.advice) == ("no", 0.0, ())
    told = cost(ask)
    assert told.gpu == "no"
    assert told.cpu_s > 100 * 60
    (line,) = told.advice
    # 250 of prompt and text and 1,200 of two pictures: 1,450 tokens a row, 100 of the answer.
    assert line == (
        "mllm_mapper: at most 1,000 requests to big, 1.4 M + 100,000 tokens, cost 3.90 (max_cost 5)"
    )
    here = cost(caption, ask)
    assert here.gpu == "yes"
    assert here.flops == 2 * 2.5e9 * 2000 * (100 + 600 + 256)
    assert "2.5 B weights, at most 2,000 answers" in here.advice[0]
    # The old row stays beside the new one: the server is asked about both.
    assert "2,000 requests to big" in here.advice[1]
