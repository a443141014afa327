"""LLaVA's and XTuner's text pipelines: ids and labels per conversation file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vlforge.text.compat import reference_text, xtuner_rounds
from vlforge.text.encode import encode_turns
from vlforge.text.render import render
from vlforge.text.templates import TEMPLATES
from vlforge.text.tokenizers import load_tokenizer
from vlforge.types import DataError, Turn

GOLDEN = {
    "llava_file": "llava_xtuner/llava_conv/*__*.json.gz",
    "xtuner_file": "llava_xtuner/xtuner_conv/*__*.json.gz",
    "prompt_file": "llava_xtuner/llava_conv/*prompts*.json",
}
ROLES = {"human": "user", "gpt": "assistant"}


def rows_by_name(folder: Path) -> dict[str, dict]:
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return {case["name"]: case["row"] for case in cases}


def turns_of(row: dict) -> tuple[Turn, ...]:
    return tuple(Turn(ROLES.get(t["from"], "system"), t["value"]) for t in row["conversations"])


def compat_of(file_name: str) -> str:
    """Two files were made with other revisions of the mpt rule."""
    if "31cceb8" in file_name:
        return "llava-31cceb8"
    return "llava-issue1706" if "curlen1fix" in file_name else "llava"


def encoded(template, tokenizer, row, **options):
    """The row, or None where it is refused."""
    try:
        return encode_turns(template, tokenizer, turns_of(row), **options)
    except DataError:
        return None


def test_llava_ids_and_labels_are_the_references(llava_file: Path):
    golden = json.loads(gzip.decompress(llava_file.read_bytes()))
    template = TEMPLATES.get(golden["version"])
    if template is None or "llava" not in template.references:
        pytest.skip(f"template {golden['version']} is not written yet")
    folder = llava_file.parent.parent / "tokenizers" / golden["tokenizer"]
    marks = ("<im_start>", "<im_end>") if golden["mm_use_im_start_end"] else ("", "")
    extra = [mark for mark in marks if mark]
    tokenizer = load_tokenizer(folder, extra_tokens=extra)
    rows = rows_by_name(llava_file.parent)
    wrong = []
    for sample in golden["samples"]:
        row = rows[sample["name"]]
        got = encoded(
            template,
            tokenizer,
            row,
            max_length=golden["model_max_length"],
            compat=compat_of(llava_file.name),
            images=None if "image" in row else 0,
            image_marks=marks,
        )
        if got is None or "error" in sample:
            ok = got is None and "error" in sample
        else:
            ok = got.ids == sample["input_ids"] and got.labels == sample["labels"]
            ok = ok and bool(got.mismatch) == ("mismatch" in sample)
        if not ok:
            wrong.append(sample["name"])
    assert golden["samples"]
    assert wrong == []


def test_xtuner_ids_and_labels_are_the_references(xtuner_file: Path):
    golden = json.loads(gzip.decompress(xtuner_file.read_bytes()))
    name = golden["template"]
    template = TEMPLATES.get(f"xtuner_{name}") or TEMPLATES.get(name)
    if template is None or "xtuner" not in template.references:
        pytest.skip(f"template {golden['template']} is not written yet")
    folder = xtuner_file.parent.parent / "tokenizers" / golden["tokenizer"]
    tokenizer = load_tokenizer(folder, dialect="fast")
    rows = rows_by_name(xtuner_file.parent.parent / "llava_conv")
    wrong = []
    kept = []
    for sample in golden["samples"]:
        row = rows[sample["name"]]
        got = encoded(
            template,
            tokenizer,
            row,
            max_length=golden["max_length"],
            compat="xtuner-images" if "image_only" in golden["map_fn"] else "xtuner",
        )
        if got is not None and got.supervised:
            kept.append(sample["id"])
        if "input_ids" not in sample:
            ok = got is None or not got.supervised
        else:
            ok = got is not None and got.ids == sample["input_ids"]
            ok = ok and got.labels == sample["labels"]
        if not ok:
            wrong.append(sample["name"])
    assert golden["samples"]
    assert wrong == []
    assert kept == golden["kept_ids"]


def test_xtuner_rounds_are_the_references(xtuner_file: Path):
    golden = json.loads(gzip.decompress(xtuner_file.read_bytes()))
    name = golden["template"]
    template = TEMPLATES.get(f"xtuner_{name}") or TEMPLATES.get(name)
    if template is None or "xtuner" not in template.references:
        pytest.skip(f"template {golden['template']} is not written yet")
    rows = rows_by_name(xtuner_file.parent.parent / "llava_conv")
    for sample in golden["samples"]:
        if not sample.get("conversation"):
            continue
        want = [(turn["input"], turn["output"]) for turn in sample["conversation"]]
        voice = template.user
        got = [
            (voice.open + voice.lead + asked + voice.end, answer + template.assistant.end)
            for asked, answer in xtuner_rounds(
                turns_of(rows[sample["name"]]), images_only="image_only" in golden["map_fn"]
            )
        ]
        assert got == want, sample["name"]


def test_prompts_are_the_references(prompt_file: Path):
    wrong = []
    seen = 0
    for case in json.loads(prompt_file.read_text(encoding="utf-8")):
        template = TEMPLATES.get(case["template"])
        if template is None or "llava" not in template.references:
            continue
        if isinstance(case["prompt"], dict):
            continue  # LLaVA cannot write the answer of a plain template; we can
        said = [text for pair in case["turns"] for text in pair]
        if case["image"] == "tuple" and template.image_marks[0]:
            # LLaVA's chat answers a tagged picture for the model before the question.
            said[:0] = ["<image>".join(template.image_marks), "Received."]
        elif case["image"] != "none":
            said[0] = "<image>\n" + said[0]
        if case["generation_prompt"]:
            said.pop()
        turns = tuple(
            Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(said)
        )
        is_open = case["generation_prompt"]
        got = {reference_text(template, turns, is_open=is_open)}
        if template.words_from_user and not template.image_marks[0]:
            got.add(render(template, turns, generation=is_open).text)
        seen += 1
        if got != {case["prompt"]}:
            wrong.append((case["template"], case["turns"]))
    assert seen
    assert wrong == []
