"""TextVQA and MMBench scores of recorded answers equal the references'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation import judge
from vlforge.evaluation.benchmarks import mmbench, textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import choices
from vlforge.evaluation.tables import read_table

GOLDEN = {
    "mini_file": "evaluation/vqa/*textvqa*_expected*.json",
    "circular_file": "evaluation/mmbench/*_expected.json",
    "extraction_file": "evaluation/mmbench/*_choice_extraction.jsonl",
    "rule_file": "evaluation/mmbench/*xtuner_rule_expected*.json",
    "upload_file": "evaluation/mmbench/*upload*expected.json",
    "flow_file": "evaluation/mmbench/*judge_flow*.json",
    "xtuner_file": "llava_xtuner/mmbench/*golden*.json",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
    "scoring_file": "mgm/misc/*scoring*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def table_of(expected: Path) -> Path:
    """`made_expected.json` belongs to the table that begins with `made`."""
    stem = expected.name.removesuffix("_expected.json")
    found = sorted(expected.parent.glob(f"{stem}*.tsv"))
    return found[0] if found else expected.parent / f"{stem}.tsv"


def answered(table: Path) -> tuple[list, dict[str, str]]:
    questions = mmbench.read(BenchmarkSpec(name="mmbench", questions=str(table)))
    said = {row["index"]: row["prediction"] for row in read_table(table)}
    return questions, said


def test_textvqa_of_recorded_answers_is_the_printed_line(mini_file: Path, tmp_path: Path):
    golden = load(mini_file)
    folder = mini_file.parent
    results = folder / mini_file.name.replace("_expected.json", "_results.jsonl")
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    asked = [{"question_id": r["question_id"], "text": r["prompt"]} for r in rows]
    questions_file = tmp_path / "questions.jsonl"
    questions_file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    annotation = folder / mini_file.name.replace("_expected.json", "_annotation.json")
    spec = BenchmarkSpec("textvqa", str(questions_file), annotation=str(annotation))
    questions = textvqa.read(spec)
    said = {q.id: row["text"] for q, row in zip(questions, rows, strict=True)}
    fields = textvqa.score(questions, said, "auto").fields
    assert fields["n"] == golden["samples"]
    printed = f"Samples: {fields['n']}\nAccuracy: {100 * fields['score']:.2f}%"
    assert printed == golden["printed"]


def test_circular_scores_equal_vlmevalkits_and_lmms_evals(circular_file: Path):
    golden = load(circular_file)
    if "vlmevalkit_exact_matching" not in golden:
        pytest.skip("not a circular golden: read by another test")
    questions, said = answered(table_of(circular_file))
    wanted = golden["vlmevalkit_exact_matching"]
    got = mmbench.score(questions, said, "vlmevalkit")
    assert {k: int(v) for k, v in got.credits.items()} == wanted["hits"]
    assert got.fields["score"] == pytest.approx(wanted["circular_overall"], abs=1e-6)
    table = dict(wanted["report_acc"])
    assert got.fields["splits"][table.pop("split")] == pytest.approx(table, abs=1e-6)
    for key, field in (("vanilla_circ0", "vanilla"), ("vanilla_all", "vanilla_all")):
        if key in wanted:
            assert got.fields[field] == pytest.approx(wanted[key], abs=1e-6), key
    for index, letter in wanted.get("extracted", {}).items():
        assert got.extracted[index] == letter, index
    if "lmms_eval_static" in golden:
        check_lmms_eval(golden["lmms_eval_static"], mmbench.score(questions, said, "lmms-eval"))


def check_lmms_eval(wanted, got) -> None:
    overall = wanted["overall"] if isinstance(wanted, dict) else wanted
    assert got.fields["score"] == pytest.approx(overall, abs=1e-6)
    if isinstance(wanted, dict):
        for kind in ("category", "l2_category"):
            for label, value in wanted[kind].items():
                assert got.fields["groups"][label]["score"] == pytest.approx(value, abs=1e-6), label


def test_each_recorded_answer_is_read_as_the_references_read_it(extraction_file: Path):
    stem = extraction_file.name.removesuffix("_choice_extraction.jsonl")
    table = sorted(extraction_file.parent.glob(f"{stem}*.tsv"))[0]
    options = {row["index"]: mmbench.options_of(row) for row in read_table(table)}
    wrong = []
    for line in extraction_file.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        text, letters = case["prediction"], options[str(case["index"])]
        got = {
            "option": choices.vlmevalkit_option(text, letters),
            "text": choices.vlmevalkit_text(text, letters),
            "final": choices.vlmevalkit(text, letters),
            "lmms_eval": choices.lmms_eval_inferred(text, letters),
            "lmms_mcq_extract": choices.lmms_eval_ranked(text, tuple(letters)),
        }
        wanted = {**case["vlmevalkit"], **{k: case[k] for k in got if k in case}}
        if case["vlmevalkit"].get("option") is not None:
            wanted.pop("text", None)
        wrong += [(case["index"], text, k, got[k], v) for k, v in wanted.items() if got[k] != v]
    assert wrong == []


def test_circular_scores_under_xtuners_rule(rule_file: Path):
    for name, wanted in load(rule_file)["circular"].items():
        table = rule_file.parent / name
        if table.exists():
            got = mmbench.score(*answered(table), "xtuner").fields["score"]
            assert got == pytest.approx(wanted, abs=1e-6), name


def test_the_upload_sheet_is_llavas(upload_file: Path):
    golden = load(upload_file)
    folder = upload_file.parent
    stem = upload_file.name.removesuffix("_expected.json")
    lines = (folder / f"{stem}_answers.jsonl").read_text(encoding="utf-8").splitlines()
    said = {str(row["question_id"]): row["text"] for row in map(json.loads, lines)}
    columns, rows = mmbench.upload_cells(read_table(folder / f"{stem}_in.tsv"), said)
    assert columns == golden["columns"]
    got = [dict(zip(columns, row, strict=True)) for row in rows]
    assert got == golden["rows"]


def test_the_judge_is_asked_in_the_same_words(flow_file: Path):
    for case in load(flow_file):
        replies, sent = list(case["judge_replies"]), []

        def ask(prompt: str, replies=replies, sent=sent) -> str:
            sent.append(prompt)
            return replies[len(sent) - 1]

        verdict = judge.judge_choice(case["question"], case["choices"], case["prediction"], ask)
        assert sent == case["prompts_sent"]
        is_random = case["opt"].startswith("<random")
        assert verdict.letter == (None if is_random else case["opt"])
        if not is_random:
            assert verdict.reply == case["log"]


def test_xtuners_prompts_and_options(xtuner_file: Path):
    for name, golden in load(xtuner_file).items():
        table = xtuner_file.parent / f"{name}.tsv"
        if not table.exists() or not isinstance(golden, dict) or "prompts" not in golden:
            continue
        rows = {row["index"]: row for row in read_table(table)}
        for prompt in golden["prompts"]:
            row = rows[str(prompt["index"])]
            assert "<image>\n" + mmbench.prompt_of(row) == prompt["text"], (name, prompt["index"])
            assert mmbench.options_of(row) == prompt["options_dict"]


def test_xtuners_scores_per_style_of_answer(xtuner_file: Path):
    for name, golden in load(xtuner_file).items():
        table = xtuner_file.parent / f"{name}.tsv"
        if not table.exists() or not isinstance(golden, dict):
            continue
        questions = mmbench.read(BenchmarkSpec("mmbench", str(table)))
        has_coarse = any(q.labels["l2-category"] for q in questions)
        kind = "l2-category" if has_coarse else "category"
        for style, case in golden.get("eval", {}).items():
            said = {str(p["index"]): str(p["prediction"]) for p in case["predictions"]}
            got = mmbench.score(questions, said, "xtuner")
            wanted = dict(case["scores"])
            assert got.fields["score"] == pytest.approx(wanted.pop("Average"), abs=1e-6)
            # XTuner prints its own names in the order of the raw ones.
            labels = sorted({q.labels[kind] for q in questions})
            means = [got.fields["groups"][label]["score"] for label in labels]
            assert means == pytest.approx(list(wanted.values()), abs=1e-6), (name, style)
            read = {index: letters or "" for index, letters in got.extracted.items()}
            assert read == case["extracted"], (name, style)


def test_llavas_rounds_and_prompts(llava_eval_file: Path):
    table = llava_eval_file.parent.parent / "mmbench" / "dev.tsv"
    rows = {int(row["index"]): row for row in read_table(table)}
    for case in load(llava_eval_file)["mmbench_llava_rounds"]:
        row = mmbench.rotations(rows[case["index"]], compat="llava")[case["round_id"]]
        assert list(mmbench.options_of(row).values()) == case["options"]
        assert list(row["letters"]) == case["option_char"]
        for field, language in (("qs_single_en", "en"), ("qs_single_cn", "zh")):
            prompt = mmbench.prompt_of(row, language=language)
            assert "<image>\n" + prompt == case[field], case["index"]


def test_llavas_textvqa_line(llava_eval_file: Path, tmp_path: Path):
    folder = llava_eval_file.parent / "textvqa"
    lines = (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    asked = [{"question_id": r["question_id"], "text": r["prompt"]} for r in rows]
    questions_file = tmp_path / "questions.jsonl"
    questions_file.write_text("".join(json.dumps(row) + "\n" for row in asked))
    spec = BenchmarkSpec("textvqa", str(questions_file), annotation=str(folder / "ann.json"))
    questions = textvqa.read(spec)
    said = {q.id: row["text"] for q, row in zip(questions, rows, strict=True)}
    fields = textvqa.score(questions, said, "auto").fields
    printed = f"answers\nSamples: {fields['n']}\nAccuracy: {100 * fields['score']:.2f}%\n\n"
    assert printed == load(llava_eval_file)["textvqa_stdout"]


def test_llavas_submission_sheet(llava_eval_file: Path):
    golden = load(llava_eval_file)["mmbench_submission_xlsx"]
    said = {str(row[0]): row[6] for row in golden["data"]}
    table = llava_eval_file.parent.parent / "mmbench" / "dev.tsv"
    columns, rows = mmbench.upload_cells(read_table(table), said)
    assert columns == golden["columns"]
    # The golden's cells went through a table library that reads digits as numbers.
    assert [list(map(str, row)) for row in rows] == [list(map(str, r)) for r in golden["data"]]


def test_the_question_is_found_in_every_shape_of_prompt(scoring_file: Path):
    for prompt, question in load(scoring_file)["textvqa_prompt_processor"]:
        assert textvqa.question_of(prompt).lower() == question
