"""Servers behind operators: a spent budget or a refused key is one line; nothing is paid twice."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.endpoint_server import endpoint
from tests.engine.made import config, contents, lines, write_rows
from tests.engine.model_ops import RewriteMapper
from vlforge.engine.local import run_process
from vlforge.inference.local import LocalModels
from vlforge.types import EndpointSpec, VLForgeError

REWRITE = {f"{RewriteMapper.__module__}:RewriteMapper": {"model": "far"}}


def backwards(body, times):
    text = body["messages"][-1]["content"]
    text = text if isinstance(text, str) else text[0]["text"]
    return " ".join(reversed(text.split()))


def models_of(recipe):
    return LocalModels(device="cpu", endpoints=recipe.endpoints, replies=recipe.replies)


@pytest.fixture
def rows(tmp_path):
    told = [{"id": f"r{n}", "text": f"row {n} of many", "images": []} for n in range(300)]
    return write_rows(tmp_path / "a.jsonl", told)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_spent_budget_is_one_line_and_more_money_goes_on(tmp_path, rows, workers):
    with endpoint(backwards) as server:
        spec = EndpointSpec("m", server.url, price_out=1e6, max_cost=400.0)
        recipe = config(rows, REWRITE, endpoints={"far": spec}, replies=str(tmp_path / "replies"))
        recipe = replace(recipe, model_workers=workers)
        with pytest.raises(VLForgeError, match=r"budget is spent.*larger max_cost") as raised:
            run_process(recipe, tmp_path / "out", models=models_of(recipe), workers=1)
        assert "\n" not in str(raised.value)
        paid = len(server.asked)
        assert 0 < paid < 300
        more = replace(recipe, endpoints={"far": replace(spec, max_cost=0.0)})
        events: list = []
        run_process(more, tmp_path / "out", models=models_of(more), workers=1, log=events.append)
        # What was under way when the budget was spent may be asked again.
        assert 300 <= len(server.asked) <= 300 + spec.concurrency
        free = replace(more, replies=str(tmp_path / "others"), model_workers=0)
        run_process(free, tmp_path / "whole", models=models_of(free), workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    (told,) = [event["note"] for event in events if "note" in event]
    assert told.startswith("m: ")
    assert "300 replies" in told or "cached" in told


def test_a_changed_recipe_asks_nothing_that_was_paid(tmp_path, rows):
    with endpoint(backwards) as server:
        far = {"far": EndpointSpec("m", server.url)}
        recipe = config(rows, REWRITE, endpoints=far, replies=str(tmp_path / "replies"))
        run_process(recipe, tmp_path / "out", models=models_of(recipe), workers=1)
        changed = replace(
            recipe, process=(*recipe.process, {"text_length_filter": {"min_len": 14}})
        )
        run_process(changed, tmp_path / "out", models=models_of(changed), workers=1)
        assert len(server.asked) == 300
    assert lines(tmp_path / "out" / "data.jsonl")[0]["text"] == "many of 10 row"


def test_a_refused_key_is_one_line_without_the_key(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret")
    with endpoint(lambda body, times: 401) as server:
        recipe = config(rows, REWRITE, endpoints={"far": EndpointSpec("m", server.url)})
        with pytest.raises(VLForgeError, match=r"401.*OPENAI_API_KEY") as raised:
            run_process(recipe, tmp_path / "out", models=models_of(recipe), workers=1)
    assert "\n" not in str(raised.value)
    assert "a-secret" not in str(raised.value)
    assert all("a-secret" not in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_server_is_busy_with_the_next_block_while_one_waits_for_its_last_reply(tmp_path, rows):
    """The last row of the first block is answered when the second block has asked."""
    has_begun = threading.Event()

    def answer(body, times):
        text = body["messages"][-1]["content"]
        if "row 200 " in text:
            has_begun.set()
        if "row 100 " in text and not has_begun.wait(20):
            return 400
        return text

    with endpoint(answer) as server:
        spec = EndpointSpec("m", server.url, concurrency=4)
        recipe = config(rows, REWRITE, endpoints={"far": spec})
        funnel = run_process(recipe, tmp_path / "out", models=models_of(recipe), workers=1)
        assert server.most_at_once <= 4
    assert funnel["rows_out"] == 300
    assert [row["id"] for row in lines(tmp_path / "out" / "data.jsonl")] == [
        f"r{n}" for n in range(300)
    ]
