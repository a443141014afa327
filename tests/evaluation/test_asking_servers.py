"""A model behind an endpoint is asked side by side; what it answers is kept as it comes."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.endpoint_server import endpoint
from tests.evaluation.little_world import rows_of, write_questions
from vlforge.cli import main
from vlforge.evaluation.config import EvalConfig
from vlforge.evaluation.run import evaluate
from vlforge.inference.endpoint.client import EndpointError
from vlforge.recipe.typed import build
from vlforge.types import DataError, EndpointSpec, RecipeError


def config_of(folder: Path, url: str, count: int = 12, **how) -> EvalConfig:
    spec = write_questions(folder / "world", count)
    server = EndpointSpec("little", url, retries=0, **how)
    return EvalConfig(benchmarks=(spec,), endpoint=server)


def words_of(body) -> str:
    """The question's words, and whether a picture came with them."""
    content = body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    return content[-1]["text"]


def say(body, times):
    return words_of(body).split()[3]


def test_a_server_answers_side_by_side_and_files_are_in_order(tmp_path):
    meeting = threading.Barrier(4)  # nobody is answered before four have asked
    with endpoint(lambda *asked: (say(*asked), meeting.wait(60))[0]) as server:
        metrics = evaluate(config_of(tmp_path, server.url), tmp_path / "out")
        assert server.most_at_once >= 4
    assert metrics["custom"]["score"] == 1.0
    assert metrics["custom"]["model"] == "little"
    assert metrics["custom"]["generation"]["max_new_tokens"] == 6
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [f"q{n}" for n in range(12)]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["endpoint"] == server.url
    assert {body["max_tokens"] for body in server.asked} == {6}


def test_a_request_that_fails_costs_itself_and_is_asked_again(tmp_path):
    lines: list[dict] = []
    with endpoint(lambda body, times: 400 if "red" in words_of(body) else say(body, times)) as bad:
        config = config_of(tmp_path, bad.url)
        first = evaluate(config, tmp_path / "out", log=lines.append)["custom"]
    assert (first["missing"], first["failed"]) == (2, 2)
    assert first["score"] == pytest.approx(10 / 12)
    told = [line["text"] for line in lines if line["event"] == "warning"]
    assert "custom: 2 questions got no answer" in told[0]
    assert "told to say 400" in told[0]
    failed = (tmp_path / "out" / "failed.custom.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in failed] == ["q3", "q8"]
    with endpoint(say) as good:
        again = replace(config, endpoint=replace(config.endpoint, url=good.url))
        metrics = evaluate(again, tmp_path / "out")["custom"]
        assert len(good.asked) == 2
    assert (metrics["score"], metrics["missing"]) == (1.0, 0)
    assert "failed" not in metrics
    assert not (tmp_path / "out" / "failed.custom.jsonl").exists()


def test_answers_that_came_before_a_stop_are_kept(tmp_path):
    count = 0

    def script(body, times):
        nonlocal count
        count += 1
        return 401 if count > 5 else say(body, times)

    with endpoint(script) as server:
        config = config_of(tmp_path, server.url, concurrency=1)
        with pytest.raises(EndpointError, match="401 told to say 401; set OPENAI_API_KEY"):
            evaluate(config, tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 5
    with endpoint(say) as server:
        again = replace(config, endpoint=replace(config.endpoint, url=server.url))
        assert evaluate(again, tmp_path / "out")["custom"]["score"] == 1.0
        assert len(server.asked) == 7


def test_a_broken_picture_costs_its_questions_alone(tmp_path):
    with endpoint(say) as server:
        config = config_of(tmp_path, server.url)
        (tmp_path / "world" / "1.png").write_bytes(b"no picture")
        metrics = evaluate(config, tmp_path / "out")["custom"]
    assert (metrics["failed"], metrics["n"]) == (3, 12)


def test_a_server_that_answers_nothing_is_an_error(tmp_path):
    with endpoint(lambda body, times: "<nonsense>") as server:
        config = config_of(tmp_path, server.url)
        with pytest.raises(DataError, match=r"no question was answered; the first: .*html"):
            evaluate(config, tmp_path / "out")


def test_another_model_on_the_server_is_another_model(tmp_path):
    with endpoint(say) as server:
        config = config_of(tmp_path, server.url)
        evaluate(config, tmp_path / "out")
        other = replace(config, endpoint=replace(config.endpoint, model="large"))
        with pytest.raises(DataError, match="made with another model"):
            evaluate(other, tmp_path / "out")


def test_the_command_asks_a_server(tmp_path, capsys):
    spec = write_questions(tmp_path / "world", 6)
    words = ["eval", "run", "--benchmark", "custom", "--questions", spec.questions]
    words += ["--out", str(tmp_path / "out")]
    with endpoint(say) as server:
        assert main([*words, "--url", server.url, "--model-name", "little"]) == 0
    shown = capsys.readouterr().out
    assert "100.0 %" in shown
    assert "Server  6 replies" in shown
    assert main([*words, "--url", "http://127.0.0.1:9/v1"]) == 2
    assert "--url needs --model-name" in capsys.readouterr().err
    assert main(words) == 2
    assert "give MODEL, a folder, or --url and --model-name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "one of the two"),
        (
            {"model": "m", "url": "http://127.0.0.1/v1", "endpoint": {"model": "m"}},
            "one of the two",
        ),
        ({"endpoint": {"model": "m"}, "answer_by": "likelihood"}, "tells no likelihoods"),
        ({"endpoint": {"model": "m"}, "processes": 2}, "raise endpoint.concurrency"),
        ({"model": "m", "batch": 0}, "batch is 0; give at least 1, or auto"),
    ],
)
def test_a_recipe_names_what_does_not_go_together(tmp_path, change, told):
    benchmarks = [{"name": "custom", "questions": "q.jsonl"}]
    with pytest.raises(RecipeError, match=told):
        build(EvalConfig, {"benchmarks": benchmarks, **change}, lambda *keys: "recipe.yaml:3")


def test_a_recipe_names_a_server(tmp_path):
    settings = {
        "benchmarks": [{"name": "custom", "questions": "q.jsonl"}],
        "endpoint": {"model": "qwen", "url": "http://127.0.0.1:8000/v1", "concurrency": 3},
    }
    found = build(EvalConfig, settings, lambda *keys: "recipe.yaml:3")
    assert found.endpoint == EndpointSpec("qwen", "http://127.0.0.1:8000/v1", concurrency=3)


@pytest.mark.slow
def test_a_recipe_asks_a_server(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = write_questions(tmp_path / "world", 6)
    with endpoint(say) as server:
        lines = ["name: served", "stages:", "  score:", "    kind: evaluate", "    endpoint:"]
        lines += ["      model: little", f"      url: {server.url}", "    benchmarks:"]
        lines += ["      - name: custom", f"        questions: {spec.questions}"]
        Path("served.yaml").write_text("\n".join(lines) + "\n")
        assert main(["check", "served.yaml"]) == 0
        assert main(["run", "served.yaml"]) == 0, capsys.readouterr().err
        assert len(server.asked) == 6
    metrics = json.loads(next(Path("runs/served").glob("*score*/metrics.json")).read_text())
    assert metrics["custom"]["score"] == 1.0
