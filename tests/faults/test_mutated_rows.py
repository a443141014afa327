"""Ten thousand mutated lines: none crashes a recipe, none is lost without a reason."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.engine.made import config, lines
from vlforge.engine.local import run_process

EXAMPLES, LINES = 50, 200
RECIPE = (
    {"text_length_filter": {"min_len": 3}},
    "fix_unicode_mapper",
    "clean_links_mapper",
    "whitespace_normalization_mapper",
    "clean_html_mapper",
    "clean_ip_mapper",
    "punctuation_normalization_mapper",
    "remove_long_words_mapper",
    "remove_repeat_sentences_mapper",
    "remove_specific_chars_mapper",
    "pii_redaction_mapper",
    {"language_id_score_filter": {"min_score": 0.0}},
    {"alphanumeric_filter": {"min_ratio": 0.1}},
    {"special_characters_filter": {"max_ratio": 0.7}},
    {"character_repetition_filter": {"rep_len": 3}},
    {"word_repetition_filter": {"rep_len": 2}},
    {"words_num_filter": {"min_num": 1}},
    "average_line_length_filter",
    {"image_shape_filter": {"min_width": 8}},
    "image_size_filter",
    {"specified_numeric_field_filter": {"field_key": "meta.score", "min_value": -50}},
    "document_deduplicator",
    {"document_minhash_deduplicator": {"window_size": 2}},
    {"topk_specified_field_selector": {"field_key": "meta.score", "top_ratio": 0.9}},
)
SAFE = {
    "id": "safe",
    "text": "<__dj__image> a calm lake at dawn <|__dj__eoc|>",
    "images": ["a.png"],
    "meta": {"score": 1e9, "tags": ["x", None]},
}


def rows() -> list[bytes]:
    """Lines of every shape that a row may have."""
    values = [
        {"id": "0", "text": "<__dj__image> two cats sit. <|__dj__eoc|>", "images": ["a.png"]},
        {"id": 1, "text": "ein Haus \U0001f3e0 und 一只猫 \u0301", "meta": {"score": 3.5}},
        {"text": "see http://a.example/b and mail x@y.example", "images": [], "meta": {"score": 7}},
        {"text": "a\tb\u2028c\\n\n" * 9, "images": ["a.png", "gone.png"], "__dj__stats__": {}},
        {"text": "w " * 300, "images": None, "extra": [[1, {"k": [True, None]}], "\x00"]},
    ]
    return [json.dumps(value, ensure_ascii=number % 2 == 0).encode() for number, value in
            enumerate(values)]  # fmt: skip


def mutated(line: bytes, draw: random.Random) -> bytes:
    """The line after some changes of bytes; never with a line end inside."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(line) + 1)
        what = draw.choice(("flip", "flip", "cut", "insert", "double", "swap"))
        if what == "flip" and line:
            at %= len(line)
            line = line[:at] + bytes([line[at] ^ (1 << draw.randrange(8))]) + line[at + 1 :]
        elif what == "cut":
            line = line[:at]
        elif what == "insert":
            line = line[:at] + draw.randbytes(draw.randint(1, 8)) + line[at:]
        elif what == "double":
            line = line[:at] + line[at // 2 : at] + line[at:]
        else:
            line = line[at:] + line[:at]
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**63))
def test_every_mutated_line_is_kept_or_dropped_with_its_reason(seed):
    draw = random.Random(seed)
    originals = rows()
    given_lines = [mutated(draw.choice(originals), draw) for _ in range(LINES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.effect_mandelbrot((32, 24), (-2, -1, 1, 1), 20).save(folder / "a.png")
        path = folder / "rows.jsonl"
        path.write_bytes(b"\n".join([json.dumps(SAFE).encode(), *given_lines]) + b"\n")
        out = folder / "out"
        funnel = run_process(config(path, *RECIPE), out, workers=1)
        dropped = lines(out / "dropped.jsonl")
        kept = lines(out / "stats.jsonl")
        blank = sum(not line.strip() for line in given_lines)
        assert funnel["rows_in"] == len(given_lines) + 1 - blank
        assert len(kept) + len(dropped) == funnel["rows_in"]
        assert len({row["uid"] for row in kept + dropped}) == funnel["rows_in"]
        assert all(row["reason"] and row["op"] for row in dropped)
        assert "safe" in [row["id"] for row in kept]
