"""What MGM's and XTuner's evaluation scripts ask, and the rows that MGM's write, are ours."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from vlforge.evaluation.benchmarks import mathvista, mmbench, scienceqa, textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.export import llava_answer
from vlforge.evaluation.tables import read_table
from vlforge.text.render import render
from vlforge.text.templates import find_template
from vlforge.types import Turn

GOLDEN = {
    "runs_file": "mgm/misc/*eval_runs*.json",
    "xtuner_file": "llava_xtuner/mmbench/*golden*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def runs_of(golden: dict, script: str) -> list[dict]:
    """The runs of one script, whatever the template."""
    found = [run for name, run in golden["runs"].items() if name.split("__")[0] == script]
    assert found, script
    return found


def written(row: dict) -> dict:
    """The answer row that we write for the same question and answer, without its own id."""
    asked = {"id": "0", "question_id": row["question_id"], "prompt": row["prompt"]}
    ours = llava_answer(asked, row["text"], row["model_id"])
    assert len(ours.pop("answer_id")) == 22
    return ours


def test_a_question_files_texts_are_asked_as_they_stand(runs_file: Path, tmp_path: Path):
    golden = load(runs_file)
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in golden["questions"]))
    questions = textvqa.read(BenchmarkSpec("textvqa", str(path), prompt="mgm"))
    for script in ("vqa_loader", "model_vqa"):
        for run in runs_of(golden, script):
            assert [q.text for q in questions] == [row["prompt"] for row in run["answer_rows"]]
            assert [written(row) for row in run["answer_rows"]] == run["answer_rows"]
            ids = [row["question_id"] for row in run["answer_rows"]]
            assert [q.facts["question_id"] for q in questions] == ids


def test_mmbench_and_its_rounds_are_asked_in_mgms_words(runs_file: Path):
    golden = load(runs_file)
    plain = {
        row["question_id"]: row for run in runs_of(golden, "mmbench") for row in run["answer_rows"]
    }
    turned = [
        row
        for name, run in golden["runs"].items()
        if name.startswith("mmbench_allrounds_cn")
        for row in run["answer_rows"]
    ]
    assert turned
    for row in [*plain.values(), *turned]:
        first = plain[row["question_id"]]
        options = dict(zip("ABCD", first["options"], strict=False))
        lettered = "".join(f"\n{c}. {text}" for c, text in options.items())
        cells = {**options, "index": str(row["question_id"])}
        cells["question"] = first["prompt"].removesuffix(lettered)
        found = mmbench.rotations(cells, compat="llava")[row["round_id"]]
        asked = mmbench.prompt_of(found, style="mgm", language="en")
        assert asked.removesuffix(f"\n{mmbench.ASK}") == row["prompt"]
        assert list(found["letters"]) == row["option_char"]
        assert list(mmbench.options_of(found).values()) == row["options"]


def test_scienceqas_and_mathvistas_prompts_are_mgms(runs_file: Path, tmp_path: Path):
    golden = load(runs_file)
    rows = [row for run in runs_of(golden, "sqa") for row in run["answer_rows"]]
    asked = "".join(
        json.dumps({
            "id": row["question_id"],
            "conversations": [{"from": "human", "value": row["prompt"]}],
        }) + "\n"
        for row in rows[:2]
    )  # fmt: skip
    problems = {
        row["question_id"]: {"question": "q", "choices": ["x", "y"], "answer": 0} for row in rows
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    listed = json.dumps([json.loads(line) for line in asked.splitlines()])
    (tmp_path / "questions.json").write_text(listed)
    spec = BenchmarkSpec(
        "scienceqa", str(tmp_path / "questions.json"), annotation=str(tmp_path / "problems.json")
    )
    ours = {q.id: q.text.removeprefix("<image>\n") for q in scienceqa.read(spec)}
    for row in rows:
        assert ours[row["question_id"]] == row["prompt"].removeprefix("<image>\n")
    for run in runs_of(golden, "mathvista"):
        for row in run["answer_rows"]:
            bare = {k: v for k, v in row.items() if k not in ("query", "response")}
            path = tmp_path / "mathvista.json"
            path.write_text(json.dumps({row["pid"]: bare}))
            (question,) = mathvista.read(BenchmarkSpec("mathvista", str(path)))
            assert question.text == row["query"]


def test_xtuners_words(xtuner_file: Path):
    checked = 0
    for name, golden in load(xtuner_file).items():
        table = xtuner_file.parent / f"{name}.tsv"
        if not table.exists() or not isinstance(golden, dict):
            continue
        spec = BenchmarkSpec("mmbench", str(table), prompt="xtuner")
        asked = {question.id: question for question in mmbench.read(spec)}
        rows = {row["index"]: row for row in read_table(table)}
        for prompt in golden["prompts"]:
            key = str(prompt["index"])
            assert f"<image>\n{asked[key].text}" == prompt["text"], (name, key)
            assert mmbench.options_of(rows[key], compat="xtuner") == prompt["options_dict"]
            turns = (Turn("user", prompt["text"]),)
            whole = render(find_template("internlm2_chat"), turns, generation=True).text
            assert whole.removeprefix("<s>") == prompt["internlm2_chat"]
            size = Image.open(io.BytesIO(asked[key].image)).size
            assert list(size) == prompt["image_size"]
            checked += 1
        name_of = mmbench.protocol_name(list(asked.values()), "xtuner")
        assert name_of.endswith("/xtuner+prompt=xtuner")
        has_answer = any("answer" in row for row in rows.values())
        assert golden["split_detected"] == ("dev" if has_answer else "test")
    assert checked
