"""LLaVA's and XTuner's text pipelines: ids and labels per conversation file."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

from vlforge.text.compat import reference_text, xtuner_rounds
from vlforge.text.compat_batches import (
    llava_batch,
    llava_length,
    llava_modality_length,
    xtuner_batch,
    xtuner_modality_length,
)
from vlforge.text.encode import encode_turns
from vlforge.text.render import render
from vlforge.text.templates import TEMPLATES, Template, find_template, with_im_start_end
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


def told(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def template_of(name: str) -> Template:
    """XTuner's own where LLaVA has another of that name."""
    return find_template(f"xtuner_{name}" if f"xtuner_{name}" in TEMPLATES else name)


def llava_rows(path: Path, golden: dict):
    """Each sample of a file, its row, and what is made of it here."""
    template = find_template(golden["version"])
    folder = path.parent.parent / "tokenizers" / golden["tokenizer"]
    if golden["mm_use_im_start_end"]:
        template = with_im_start_end(template)
    tokenizer = load_tokenizer(folder, extra_tokens=template.new_tokens)
    rows = rows_by_name(path.parent)
    for sample in golden["samples"]:
        row = rows[sample["name"]]
        yield (
            sample,
            row,
            encoded(
                template,
                tokenizer,
                row,
                max_length=golden["model_max_length"],
                compat=compat_of(path.name),
                images=None if "image" in row else 0,
            ),
        )


def xtuner_rows(path: Path, golden: dict):
    """The same of XTuner's files."""
    folder = path.parent.parent / "tokenizers" / golden["tokenizer"]
    tokenizer = load_tokenizer(folder, dialect="fast")
    rows = rows_by_name(path.parent.parent / "llava_conv")
    compat = "xtuner-images" if "image_only" in golden["map_fn"] else "xtuner"
    for sample in golden["samples"]:
        row = rows[sample["name"]]
        how = {"max_length": golden["max_length"], "compat": compat}
        yield sample, row, encoded(template_of(golden["template"]), tokenizer, row, **how)


def test_llava_ids_and_labels_are_the_references(llava_file: Path):
    wrong = []
    for sample, _, got in llava_rows(llava_file, golden := told(llava_file)):
        if got is None or "error" in sample:
            ok = got is None and "error" in sample
        else:
            ok = got.ids == sample["input_ids"] and got.labels == sample["labels"]
            ok = ok and bool(got.mismatch) == ("mismatch" in sample)
        if not ok:
            wrong.append(sample["name"])
    assert golden["samples"]
    assert wrong == []


def test_llava_batches_and_lengths_are_the_references(llava_file: Path):
    golden = told(llava_file)
    made = {sample["id"]: got for sample, _, got in llava_rows(llava_file, golden)}
    told_rows = [
        (turns_of(row), "image" in row) for row in rows_by_name(llava_file.parent).values()
    ]
    assert [llava_length(*row) for row in told_rows] == golden["lengths"]
    assert [llava_modality_length(*row) for row in told_rows] == golden["modality_lengths"]
    wanted = golden["collated"]
    rows = [(made[name].ids, made[name].labels) for name in wanted["rows"]]
    batch = llava_batch(rows, golden["pad_token_id"], golden["model_max_length"])
    assert batch.ids == wanted["input_ids"]
    assert batch.labels == wanted["labels"]
    assert batch.mask == wanted["attention_mask"]


def test_xtuner_ids_and_labels_are_the_references(xtuner_file: Path):
    wrong = []
    kept = []
    for sample, _, got in xtuner_rows(xtuner_file, golden := told(xtuner_file)):
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


def test_xtuner_batches_and_lengths_are_the_references(xtuner_file: Path):
    golden = told(xtuner_file)
    kept = {
        sample["id"]: (got, row.get("image") is not None)
        for sample, row, got in xtuner_rows(xtuner_file, golden)
        if sample["id"] in golden["kept_ids"]
    }
    lengths = [xtuner_modality_length(got.ids, has_image) for got, has_image in kept.values()]
    assert lengths == golden["modality_length"]
    wanted = golden["collated_first5"]
    batch = xtuner_batch([(kept[name][0].ids, kept[name][0].labels) for name in wanted["ids"]])
    assert batch.ids == wanted["input_ids"]
    assert batch.labels == wanted["labels"]
    assert batch.mask == wanted["attention_mask"]
    assert batch.positions == wanted["position_ids"]


def test_xtuner_rounds_are_the_references(xtuner_file: Path):
    golden = told(xtuner_file)
    template = template_of(golden["template"])
    rows = rows_by_name(xtuner_file.parent.parent / "llava_conv")
    for sample in golden["samples"]:
        if not sample.get("conversation"):
            continue
        want = [(turn["input"], turn["output"]) for turn in sample["conversation"]]
        rounds = xtuner_rounds(
            turns_of(rows[sample["name"]]), images_only="image_only" in golden["map_fn"]
        )
        got = []
        for number, (asked, answer) in enumerate(rounds, 1):
            voice = template.asking(number)
            prompt = voice.open + voice.lead + asked + voice.end
            got.append((prompt, answer + template.assistant.end))
        assert got == want, sample["name"]


def test_prompts_are_the_references(prompt_file: Path):
    wrong = []
    seen = 0
    for case in json.loads(prompt_file.read_text(encoding="utf-8")):
        template = find_template(case["template"])
        if isinstance(case["prompt"], dict):
            # LLaVA cannot write the answer of a plain template; we can.
            assert not template.words_from_user
            continue
        said = [text for pair in case["turns"] for text in pair]
        if case["image"] == "tuple" and template.image_marks[0]:
            # LLaVA's chat answers a tagged picture for the model before the question.
            said[:0] = ["<image>".join(template.image_marks), "Received."]
        elif case["image"] == "tuple" and template.opening:
            said[0] += "\n<image>"  # behind an example LLaVA's chat leaves it where it was sent
            template = replace(template, images_first=False)
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
