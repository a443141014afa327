"""A part of Data-Juicer's recorded results, kept here so that a lone clone has them too.

`data_juicer_cases.json` and `pictures/` were made by running Data-Juicer 1.6.1
(Pillow 13, imagededup 0.3.3) on texts and pictures of this project.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.data.images import header_size, load_upright
from vlforge.ops.base import TextMapper
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.ops.dedup.hashes import image_hash

HERE = Path(__file__).parent
CASES = json.loads((HERE / "data_juicer_cases.json").read_text(encoding="utf-8"))


def batch_of(texts) -> Batch:
    return Batch([Item(str(n), n + 1, {"text": t}) for n, t in enumerate(texts)], Context())


def name_of(case) -> str:
    return f"{case['op']}{case['params'] or ''}"


@pytest.mark.parametrize("case", CASES["filters"], ids=name_of)
def test_filters_measure_and_keep_what_data_juicer_does(case):
    (bound,) = bind([{case["op"]: case["params"]}])
    (values,) = bound.op.measure(batch_of(CASES["rows"]))
    assert values == pytest.approx(case["values"], abs=1e-9)
    assert [n for n, value in enumerate(values) if bound.op.keep(value)] == case["kept"]


@pytest.mark.parametrize("case", CASES["mappers"], ids=name_of)
def test_mappers_write_what_data_juicer_does(case):
    (bound,) = bind([{case["op"]: case["params"]}])
    assert isinstance(bound.op, TextMapper)
    rows = case.get("rows", range(len(CASES["rows"])))
    changed = {
        str(n): after
        for n in rows
        if (after := bound.op.rewrite(CASES["rows"][n])) != CASES["rows"][n]
    }
    assert changed == case["changed"]


@pytest.mark.parametrize("case", CASES["dedup"]["cases"], ids=lambda c: str(c["params"]))
def test_dedup_keeps_the_rows_that_data_juicer_keeps(case):
    (bound,) = bind([{"document_deduplicator": case["params"]}])
    keys = bound.op.keys(batch_of(CASES["dedup"]["rows"]))
    assert [n for n, key in enumerate(keys) if key not in keys[:n]] == case["kept"]


@pytest.mark.parametrize("picture", CASES["pictures"]["hashes"])
def test_hashes_have_the_recorded_bits(picture):
    image = load_upright(HERE / "pictures" / picture, truncated="fill").convert("RGB")
    expected = CASES["pictures"]["hashes"][picture]
    assert {method: image_hash(image, method).hex() for method in expected} == expected


@pytest.mark.parametrize("picture", CASES["pictures"]["sizes"])
def test_sizes_are_the_recorded_ones(picture):
    assert list(header_size(HERE / "pictures" / picture)) == CASES["pictures"]["sizes"][picture]
