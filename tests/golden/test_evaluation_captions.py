"""Caption metrics and tokens equal pycocoevalcap's, CoreNLP's and the other recorded ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import captions as benchmark
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import captions, java
from vlforge.evaluation.metrics.caption_tokens import tokenised
from vlforge.evaluation.metrics.ptb import ptb_tokens
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "tokens_file": "evaluation/captions/*ptb_tokenizer*.json",
    "english_file": "evaluation/captions/en*_expected.json",
    "chinese_file": "evaluation/captions/zh*_expected.json",
}
NAMES = {
    "Bleu_1": "bleu1", "Bleu_2": "bleu2", "Bleu_3": "bleu3", "Bleu_4": "bleu4",
    "ROUGE_L": "rouge_l", "CIDEr": "cider", "CIDEr_D_ruotianluo": "cider",
    "CIDEr_plain_no_clip_no_penalty": "cider_plain", "METEOR": "meteor",
}  # fmt: skip
ENGLISH = {
    "ptb": "ptb",
    "whitespace_raw (VLMEvalKit way: no tokeniser, case kept)": "vlmevalkit",
    "whitespace_lower": "lower",
    "lower_strip_punct": "lower-no-marks",
}
CHINESE = {
    "char (every non-space code point is a token)": "char",
    "char_cjk_ascii_runs_kept": "char-words",
    "char_no_punct": "char-no-marks", "jieba": "jieba", "jieba_no_punct": "jieba-no-marks",
    "jieba_then_ptb": "jieba-ptb", "untokenised (naive, wrong)": "vlmevalkit",
}  # fmt: skip


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_tokens_are_corenlps(tokens_file: Path):
    for row in load(tokens_file):
        assert ptb_tokens(row["text"]) == row["tokens"], row["text"]


def check(found: dict, wanted: dict) -> None:
    for theirs, ours in NAMES.items():
        if theirs in wanted and ours in found:
            tolerance = 1e-4 if ours == "meteor" else 1e-6
            value = found[ours].whole if hasattr(found[ours], "whole") else found[ours]
            assert value == pytest.approx(wanted[theirs], abs=tolerance), theirs


def references_of(references: list[list[str]], how: str) -> list[list[str]]:
    """Tokenised one after the other: the tokeniser looks at the next caption too."""
    made = iter(tokenised(how, [text for refs in references for text in refs]))
    return [[next(made) for _ in refs] for refs in references]


def measured(hypotheses: list[str], references: list[list[str]], how: str) -> dict:
    return benchmark.measured(tokenised(how, hypotheses), references_of(references, how))


def test_english_captions_score_as_pycocoevalcap_says(english_file: Path, monkeypatch):
    golden = load(english_file)
    if "corpus" not in golden:
        found = measured([golden["hyp"]], [golden["refs"]], "ptb")
        check(found, golden["ptb"])
        return
    folder = english_file.parent
    stem = english_file.name.removesuffix("_expected.json")
    hypotheses = load(folder / f"{stem.replace('en', 'en_hyp', 1)}.json")
    references = load(folder / "en_refs.json")
    keys = list(references)
    monkeypatch.setattr(java, "meteor_jar", lambda: None)
    for theirs, ours in ENGLISH.items():
        found = measured([hypotheses[k] for k in keys], [references[k] for k in keys], ours)
        check(found, golden["corpus"][theirs])
    tokens = tokenised("ptb", [hypotheses[key] for key in keys])
    refs = references_of([references[key] for key in keys], "ptb")
    each = {
        "Bleu_1": captions.bleu(tokens, refs)[0], "Bleu_4": captions.bleu(tokens, refs)[3],
        "ROUGE_L": captions.rouge_l(tokens, refs), "CIDEr": captions.cider_d(tokens, refs),
    }  # fmt: skip
    for place, key in enumerate(keys):
        wanted = golden["per_image_ptb"][key]
        assert tokens[place] == wanted["tokens_hyp"], key
        for name, corpus in each.items():
            assert corpus.each[place] == pytest.approx(wanted[name], abs=1e-6), (key, name)


def test_meteor_is_the_programs(english_file: Path):
    jar = java.meteor_jar()
    if jar is None:
        pytest.skip("METEOR needs Java and pycocoevalcap's jar")
    golden = load(english_file)
    if "corpus" not in golden:
        pytest.skip("not a corpus: read by another test")
    folder = english_file.parent
    stem = english_file.name.removesuffix("_expected.json")
    hypotheses = load(folder / f"{stem.replace('en', 'en_hyp', 1)}.json")
    references = load(folder / "en_refs.json")
    tokens = tokenised("ptb", [hypotheses[key] for key in references])
    refs = references_of(list(references.values()), "ptb")
    found = java.meteor(tokens, refs, jar).whole
    assert found == pytest.approx(golden["corpus"]["ptb"]["METEOR"], abs=1e-4)


def test_chinese_captions_score_as_recorded(chinese_file: Path, monkeypatch):
    data = load(chinese_file.with_name(chinese_file.name.replace("_expected", "_data")))
    keys = list(data["hyp"])
    hypotheses, references = ([data[part][key] for key in keys] for part in ("hyp", "refs"))
    monkeypatch.setattr(java, "meteor_jar", lambda: None)
    for theirs, wanted in load(chinese_file)["variants"].items():
        how = CHINESE[theirs]
        if how.startswith("jieba"):
            pytest.importorskip("jieba")
        check(measured(hypotheses, references, how), wanted["corpus"])
        for place, key in enumerate(keys):
            row = wanted.get("per_image", {}).get(key)
            if row is not None:
                assert tokenised(how, hypotheses)[place] == row["tokens_hyp"], (theirs, key)


def test_files_of_captions_are_scored(english_file: Path, tmp_path: Path, monkeypatch):
    golden = load(english_file)
    if "corpus" not in golden:
        pytest.skip("not a corpus: read by another test")
    folder = english_file.parent
    stem = english_file.name.removesuffix("_expected.json")
    monkeypatch.setattr(java, "meteor_jar", lambda: None)
    spec = BenchmarkSpec("captions", annotation=str(folder / "en_refs.json"))
    answers = folder / f"{stem.replace('en', 'en_hyp', 1)}.json"
    found = score_answers(spec, answers, strict=True)
    check(found, golden["corpus"]["ptb"])
    assert found["score"] == found["cider"]
    assert found["interval"][0] < found["score"] < found["interval"][1]
