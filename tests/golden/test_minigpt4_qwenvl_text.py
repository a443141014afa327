"""MiniGPT-4's captions, letter for letter."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.text.captions import BlipCaption

GOLDEN = {
    "caption_file": "minigpt4_qwenvl/minigpt4/text*/*.json",
}


def test_captions_are_prepared_as_the_reference_does(caption_file: Path):
    cases = json.loads(caption_file.read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        assert BlipCaption(**case["kwargs"])(case["input"]) == case["output"], case
