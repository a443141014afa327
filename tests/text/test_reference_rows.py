"""Recorded rows of LLaVA and XTuner over made conversations: equal to the last id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.text.encode import encode_turns
from vlforge.text.templates import TEMPLATES
from vlforge.text.tokenizers import load_tokenizer
from vlforge.types import DataError, Turn

LINES = (Path(__file__).with_name("made") / "cases.jsonl").read_text(encoding="utf-8")
CASES = [json.loads(line) for line in LINES.splitlines()]
ROLES = {"human": "user", "gpt": "assistant"}


def case_id(case: dict) -> str:
    legacy = "legacy" if case["legacy"] else "new"
    return f"{case['template']}-{legacy}-{case['max_length']}-{case['name']}"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_ids_and_labels_equal_the_recorded_ones(case, sentencepiece_folders):
    dialect = "fast" if case["compat"] == "xtuner" else "slow"
    tokenizer = load_tokenizer(sentencepiece_folders[case["legacy"]], dialect=dialect)
    turns = [Turn(ROLES.get(role, "system"), text) for role, text in case["turns"]]

    def encode():
        return encode_turns(
            TEMPLATES[case["template"]],
            tokenizer,
            turns,
            max_length=case["max_length"],
            compat=case["compat"],
            images=None if case["has_image"] else 0,
        )

    if case["ids"] is None:
        with pytest.raises(DataError):
            encode()
        return
    got = encode()
    assert (got.ids, got.labels) == (case["ids"], case["labels"])
    assert bool(got.mismatch) == case["mismatch"]
