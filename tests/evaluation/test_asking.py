"""Asking and scoring in steps: nothing is asked twice, nothing counts for another model."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.run import evaluate
from vlforge.evaluation.scoring import score_folder
from vlforge.types import Caption, DataError, RecipeError

PNG = b"\x89PNG picture "
WORDS = ["stop", "open", "exit", "ale", "taxi"]


class Parrot:
    """Reads the word from the picture's name, or the letter after "right:"; keeps what it saw."""

    def __init__(self, fail_after: int | None = None):
        self.asked: list[str] = []
        self.fail_after = fail_after

    def answer(self, samples, max_new_tokens):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += [sample.id for sample in samples]
        return [Caption(self._say(sample), -0.25) for sample in samples]

    def _say(self, sample):
        text = sample.turns[-1].text
        assert text.startswith("<image>\n") == bool(sample.images)
        if "A. " in text:
            return next(c for c in "AB" if f"{c}. right" in text)
        return Path(sample.images[0]).stem.upper() + "."

    def stream(self, sample, max_new_tokens):
        yield self._say(sample)


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    """Five TextVQA questions with pictures, three MMBench questions in two rotations each."""
    world = tmp_path / "world"
    world.mkdir()
    suffix = "\nAnswer the question using a single word or phrase."
    with (world / "questions.jsonl").open("w") as file:
        for word in WORDS:
            (world / f"{word}.png").write_bytes(PNG + word.encode())
            text = "What word is printed?" + suffix
            row = {"question_id": word, "image": f"{word}.png", "text": text}
            file.write(json.dumps(row) + "\n")
    data = [
        {"image_id": word, "question": "What word is printed?", "answers": [word] * 10}
        for word in WORDS
    ]
    (world / "annotation.json").write_text(json.dumps({"data": data}))
    (world / "groups.json").write_text(json.dumps({"short": ["ale"], "long": WORDS[:3]}))
    lines = ["index\tquestion\tA\tB\tanswer\tcategory\timage"]
    for index in range(3):
        picture = base64.b64encode(PNG + bytes([index])).decode()
        lines.append(f"{index}\tWhich?\tright\twrong\tA\tkind {index % 2}\t{picture}")
        lines.append(f"{1_000_000 + index}\tWhich?\twrong\tright\tB\tkind {index % 2}\t{index}")
    (world / "mmbench.tsv").write_text("\n".join(lines) + "\n")
    textvqa = BenchmarkSpec(
        "textvqa",
        str(world / "questions.jsonl"),
        annotation=str(world / "annotation.json"),
        groups=str(world / "groups.json"),
    )
    mmbench = BenchmarkSpec("mmbench", str(world / "mmbench.tsv"))
    return EvalConfig(model="a model", benchmarks=(textvqa, mmbench), batch=2)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_question_is_asked_once_and_scored(config, tmp_path):
    parrot = Parrot()
    metrics = evaluate(config, tmp_path / "out", chat=parrot)
    assert len(parrot.asked) == len(set(parrot.asked)) == 5 + 6
    assert metrics["textvqa"]["score"] == 1.0
    assert metrics["mmbench"]["score"] == metrics["mmbench"]["vanilla"] == 1.0
    assert metrics["mmbench"]["protocol"] == "mmbench@circular/vlforge"
    assert (metrics["mmbench"]["n"], metrics["mmbench"]["rows"]) == (3, 6)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))


def test_what_a_score_was_made_with_stands_beside_it(config, tmp_path):
    entry = evaluate(config, tmp_path / "out", chat=Parrot())["textvqa"]
    assert entry["generation"]["max_new_tokens"] == 16
    assert {"prompt_hash", "data_hash", "versions", "model", "missing", "unparsed"} <= set(entry)
    low, high = entry["interval"]
    assert 0 < low < high == 1.0


def test_groups_are_scored_apart(config, tmp_path):
    groups = evaluate(config, tmp_path / "out", chat=Parrot())["textvqa"]["groups"]
    assert {name: part["n"] for name, part in groups.items()} == {"short": 1, "long": 3}


def test_a_group_of_unknown_questions_is_an_error(config, tmp_path):
    Path(config.benchmarks[0].groups).write_text(json.dumps({"mine": ["nobody"]}))
    with pytest.raises(DataError, match="group 'mine' names no question"):
        evaluate(config, tmp_path / "out", chat=Parrot())


def test_examples_show_the_pictures(config, tmp_path):
    evaluate(config, tmp_path / "out", chat=Parrot())
    examples = lines_of(tmp_path / "out" / "examples.jsonl")
    first = examples[0]
    assert (first["question"], first["prediction"]) == ("What word is printed?", "STOP.")
    choice = next(e for e in examples if e["benchmark"] == "mmbench")
    assert (tmp_path / "out" / choice["image"]).read_bytes().startswith(PNG)
    assert choice["options"] == {"A": "right", "B": "wrong"}


@pytest.mark.parametrize("answered", [0, 2, 4, 5, 9])
def test_a_stopped_evaluation_goes_on_and_ends_byte_equal(config, tmp_path, answered):
    evaluate(config, tmp_path / "whole", chat=Parrot())
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tmp_path / "out", chat=Parrot(fail_after=answered))
    again = Parrot()
    evaluate(config, tmp_path / "out", chat=again)
    assert len(again.asked) <= 11 - answered
    for path in sorted((tmp_path / "whole").rglob("*.json*")):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_torn_last_line_is_asked_again(config, tmp_path):
    out = tmp_path / "out"
    evaluate(config, out, chat=Parrot())
    path = out / "predictions.textvqa.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    again = Parrot()
    evaluate(config, out, chat=again)
    assert again.asked == ["taxi"]
    assert path.read_bytes() == whole


def test_the_order_of_the_predictions_does_not_matter(config, tmp_path):
    out = tmp_path / "out"
    before = evaluate(config, out, chat=Parrot())
    path = out / "predictions.mmbench.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    assert score_folder(out) == before


def test_answers_to_another_prompt_are_not_taken(config, tmp_path):
    out = tmp_path / "out"
    evaluate(config, out, chat=Parrot())
    path = Path(config.benchmarks[0].questions)
    path.write_text(path.read_text().replace("printed?", "printed? "))
    assert score_folder(out)["textvqa"]["missing"] == 5
    again = Parrot()
    evaluate(config, out, chat=again)
    assert again.asked == WORDS


@pytest.mark.parametrize("change", [{"model": "another"}, {"max_new_tokens": 3}])
def test_answers_of_another_model_are_neither_mixed_nor_lost(config, tmp_path, change):
    out = tmp_path / "out"
    evaluate(config, out, chat=Parrot())
    kept = (out / "predictions.textvqa.jsonl").read_bytes()
    with pytest.raises(DataError, match="give another folder"):
        evaluate(replace(config, **change), out, chat=Parrot())
    assert (out / "predictions.textvqa.jsonl").read_bytes() == kept


def test_a_moved_model_is_the_same_model(config, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(bytes(300_000))
    evaluate(replace(config, model=str(tmp_path / "one")), tmp_path / "out", chat=Parrot())
    again = Parrot()
    evaluate(replace(config, model=str(tmp_path / "two")), tmp_path / "out", chat=again)
    assert again.asked == []
    (tmp_path / "two" / "weights").write_bytes(bytes(299_999) + b"1")
    with pytest.raises(DataError, match="another model"):
        evaluate(replace(config, model=str(tmp_path / "two")), tmp_path / "out", chat=Parrot())


def test_scoring_again_under_another_rule_needs_no_model(config, tmp_path):
    out = tmp_path / "out"
    evaluate(config, out, chat=Parrot())
    scores = score_folder(out, protocol="circular/xtuner")
    assert scores["mmbench"]["protocol"] == "mmbench@circular/xtuner"
    assert scores["textvqa"]["protocol"] == "textvqa@m4c"
    assert score_folder(out, protocol="vqa-official")["textvqa"]["score"] == 0.0
    with pytest.raises(RecipeError, match="no protocol 'best'"):
        score_folder(out, protocol="best")


def test_a_missing_answer_is_wrong_counted_and_refused_when_strict(config, tmp_path):
    out = tmp_path / "out"
    evaluate(config, out, chat=Parrot())
    path = out / "predictions.textvqa.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    entry = score_folder(out)["textvqa"]
    assert (entry["score"], entry["missing"]) == (pytest.approx(0.8), 1)
    with pytest.raises(DataError, match="1 questions have no answer, first stop"):
        score_folder(out, strict=True)


def test_missing_pictures_are_named_before_anything_is_asked(config, tmp_path):
    (tmp_path / "world" / "exit.png").unlink()
    parrot = Parrot()
    with pytest.raises(DataError, match=r"exit\.png: no such picture \(1 missing\)"):
        evaluate(config, tmp_path / "out", chat=parrot)
    assert parrot.asked == []


def test_two_benchmarks_of_one_name_need_a_label(config, tmp_path):
    twice = (config.benchmarks[0], config.benchmarks[0])
    with pytest.raises(RecipeError, match="two benchmarks are called 'textvqa'"):
        evaluate(replace(config, benchmarks=twice), tmp_path / "out", chat=Parrot())
    labelled = (config.benchmarks[0], replace(config.benchmarks[0], label="again"))
    metrics = evaluate(replace(config, benchmarks=labelled), tmp_path / "out", chat=Parrot())
    assert set(metrics) == {"textvqa", "again"}


def test_an_unknown_protocol_is_an_error_before_anything_is_asked(config, tmp_path):
    parrot = Parrot()
    wrong = (replace(config.benchmarks[1], protocol="exact"),)
    with pytest.raises(RecipeError, match="mmbench has no protocol 'exact'"):
        evaluate(replace(config, benchmarks=wrong), tmp_path / "out", chat=parrot)
    assert parrot.asked == []


def test_a_folder_without_answers_says_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match="vlforge eval run"):
        score_folder(tmp_path)


def test_progress_counts_every_question(config, tmp_path):
    seen: list[tuple[int, int | None]] = []
    evaluate(
        config,
        tmp_path / "out",
        chat=Parrot(),
        progress=lambda done, total, note: seen.append((done, total)),
    )
    assert seen[-1] == (11, 11)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_two_evaluations_do_not_write_into_one_folder(config, tmp_path):
    out = tmp_path / "out"

    class Meanwhile(Parrot):
        """Starts the same command while it is asked."""

        def answer(self, samples, max_new_tokens):
            with pytest.raises(DataError, match="another evaluation writes there; wait for"):
                evaluate(config, out, chat=Parrot())
            return super().answer(samples, max_new_tokens)

    first = evaluate(config, out, chat=Meanwhile())
    later = Parrot()
    assert evaluate(config, out, chat=later) == first
    assert later.asked == []
