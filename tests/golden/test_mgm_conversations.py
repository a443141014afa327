"""MGM's text pipeline: ids and labels of every conversation file of a known template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from vlforge.text.compat import reference_text
from vlforge.text.compat_batches import llava_length, llava_modality_length
from vlforge.text.encode import encode_turns
from vlforge.text.render import render
from vlforge.text.templates import TEMPLATES, Template, find_template
from vlforge.text.tokenizers import load_tokenizer
from vlforge.types import DataError, Turn

GOLDEN = {
    "conversation_file": "mgm/conversations/*__*.jsonl",
    "prompt_file": "mgm/conversations/*prompts*.json",
    "lengths_file": "mgm/preprocess/meta*.json",
}
ROLES = {"human": "user", "gpt": "assistant"}


def turns_of(row: dict) -> tuple[Turn, ...]:
    return tuple(Turn(ROLES.get(t["from"], "system"), t["value"]) for t in row["conversations"])


def template_of(name: str) -> Template:
    """MGM's own where LLaVA has another of that name."""
    template = find_template(f"mgm_{name}" if f"mgm_{name}" in TEMPLATES else name)
    assert "mgm" in template.references
    return template


def test_ids_and_labels_are_the_references(conversation_file: Path):
    name, tokenizer_name = conversation_file.stem.split("__")
    template = template_of(name)
    sources = json.loads((conversation_file.parent / "sources.json").read_text(encoding="utf-8"))
    source = {row["id"]: row for row in sources}
    folder = conversation_file.parent.parent / "tokenizers" / tokenizer_name
    tokenizer = load_tokenizer(folder)
    lines = conversation_file.read_text(encoding="utf-8").splitlines()
    wrong = []
    for row in map(json.loads, lines):
        marks = ("<im_start>", "<im_end>") if row["mm_use_im_start_end"] else ("", "")
        try:
            got = encode_turns(
                template,
                tokenizer,
                turns_of(source[row["id"]]),
                max_length=row["model_max_length"],
                compat="mgm",
                images=None if row["has_image"] else 0,
                image_marks=marks,
            )
        except DataError:
            got = None
        if got is None or "error" in row:
            ok = got is None and "error" in row
        else:
            ok = got.ids == row["input_ids"] and got.labels == row["labels"]
            ok = ok and bool(got.mismatch) == any("mismatch" in w for w in row["warnings"])
        if not ok:
            wrong.append((row["id"], row["model_max_length"], row["mm_use_im_start_end"]))
    assert lines
    assert wrong == []


def test_prompts_are_the_references(prompt_file: Path):
    wrong = []
    seen = 0
    for entry in json.loads(prompt_file.read_text(encoding="utf-8")):
        template = template_of(entry["template"])
        # The file's messages were written as they stand, images in mid-sentence too, and
        # with the template's own end of sequence whatever the tokenizer's is.
        template = replace(
            template, images_first=False, words_from_user=True, eos="", image_marks=("", "")
        )
        for case in entry["cases"]:
            if "error" in case:
                # MGM cannot write the answer of a plain template; we can.
                assert entry["sep_style"] == "PLAIN"
                continue
            said = [message for message in case["messages"] if message is not None]
            is_open = case["messages"][-1] is None
            roles = ["user", "assistant"] * len(said)
            turns = tuple(Turn(r, m) for r, m in zip(roles, said, strict=False))
            folder = prompt_file.parent.parent / "tokenizers" / case["tokenizer"]
            got = encode_turns(
                template, load_tokenizer(folder), turns, max_length=None, generation=is_open
            )
            seen += 1
            texts = {
                render(template, turns, generation=is_open).text,
                reference_text(template, turns, is_open=is_open),
            }
            if texts != {case["prompt"]} or got.ids != case["input_ids"]:
                wrong.append((entry["template"], case["messages"]))
    assert seen
    assert wrong == []


def test_lengths_are_the_references(lengths_file: Path):
    meta = json.loads(lengths_file.read_text(encoding="utf-8"))
    data = json.loads(lengths_file.with_name("data.json").read_text(encoding="utf-8"))
    rows = [(turns_of(row), "image" in row) for row in data]
    cases = {key.partition("/")[0] for key in meta if key.endswith("/lengths")}
    assert cases
    for case in cases:
        assert [llava_length(*row) for row in rows] == meta[f"{case}/lengths"]
        assert [llava_modality_length(*row) for row in rows] == meta[f"{case}/modality_lengths"]
