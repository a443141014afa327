"""Writing operators in whole runs: behind a server, over groups, whatever the processes."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.endpoint_server import endpoint
from tests.engine.made import config, contents, lines, write_rows
from vlforge.engine.local import run_process
from vlforge.inference.local import LocalModels
from vlforge.types import EndpointSpec


def reply(body, times):
    """Answers by what the system turn asks for."""
    system = body["messages"][0]["content"]
    said = body["messages"][-1]["content"]
    if "events it tells" in system:
        told = said.removeprefix("Text:\n")
        return json.dumps([{"event": f"{told} {n}", "characters": ["Ann"]} for n in (1, 2)])
    if "pieces of text" in system:
        return f"summary of {said.count('Piece:')}"
    if "improve prompts" in system:
        return f"better than {said.splitlines()[1]} {len(said)}"
    return f"{said.rpartition(chr(10))[2]} said better"


GROUPED = (
    {"extract_event_mapper": {"api_model": "far"}},
    {"key_value_grouper": {"group_by_keys": ["town"]}},
    {"nested_aggregator": {"api_model": "far", "output_key": "sum"}},
)
PLAIN = (
    {"optimize_prompt_mapper": {"api_or_hf_model": "far", "gen_num": 2, "prompt_key": "text"}},
    {"optimize_response_mapper": {"api_or_hf_model": "far", "is_hf_model": False,
                                  "query_key": "text", "response_key": "town"}},
)  # fmt: skip


def run(tmp_path, name, rows, ops, workers=0):
    with endpoint(reply) as server:
        recipe = config(rows, *ops, endpoints={"far": EndpointSpec("m", server.url)})
        recipe = replace(recipe, model_workers=workers)
        models = LocalModels(device="cpu", endpoints=recipe.endpoints)
        run_process(recipe, tmp_path / name, models=models, workers=1)
    return tmp_path / name


def made_rows(tmp_path):
    return write_rows(
        tmp_path / "a.jsonl",
        [{"id": n, "text": f"row {n}", "town": "Oslo" if n % 3 else "Rome"} for n in range(9)],
    )


def test_events_are_summed_up_town_by_town(tmp_path):
    rows = made_rows(tmp_path)
    out = run(tmp_path, "batch", rows, GROUPED)
    found = lines(out / "data.jsonl")
    told = [row["__dj__batch_meta__"] for row in found]
    assert [one["sum"] for one in told] == ["summary of 6", "summary of 12"]
    assert told[0]["provenance"][0]["op"] == "nested_aggregator"
    whole = {"naive_reverse_grouper": {"batch_meta_export_path": str(tmp_path / "meta.jsonl")}}
    apart = lines(run(tmp_path, "apart", rows, (*GROUPED, whole)) / "data.jsonl")
    assert len(apart) == 18
    assert apart[0]["__dj__meta__"]["event_description"] == "row 0 1"
    assert [one["op"] for one in apart[0]["provenance"]] == ["extract_event_mapper"]
    assert len((tmp_path / "meta.jsonl").read_text().splitlines()) == 2


def test_processes_do_not_change_a_byte(tmp_path):
    rows = made_rows(tmp_path)
    homes = [run(tmp_path, name, rows, PLAIN) for name in ("home", "again")]
    there = run(tmp_path, "there", rows, PLAIN, workers=2)
    assert contents(homes[0]) == contents(homes[1]) == contents(there)
    found = lines(homes[0] / "data.jsonl")
    assert len(found) == 11
    assert [row["id"] for row in found[:4]] == [0, 0, 0, 1]
    assert found[1]["text"].startswith("better than")
    assert found[2]["text"] != found[1]["text"]
    assert all(row["town"].endswith("said better") for row in found)
