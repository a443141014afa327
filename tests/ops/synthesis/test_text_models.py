"""Writing operators with the models of folders: a row's text does not depend on its neighbours."""

from __future__ import annotations

import pytest

from tests.inference.test_writers import WORDS, tiny_text
from vlforge.inference.local import LocalModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import ModelError

ROWS = [{"text": " ".join(WORDS[n : n + 4]), "query": " ".join(WORDS[: n + 2])} for n in range(5)]
OPS = {
    "llm_ray_vllm_engine_pipeline": {"sampling_params": {"temperature": 1.0, "max_tokens": 6}},
    "sentence_augmentation_mapper": {"temperature": 1.0, "max_new_tokens": 6,
                                     "text_key_second": "response",
                                     "task_sentence": "on red grass", "system_prompt": "the cat"},
}  # fmt: skip


def apply(op, folder, items, **params):
    key = "api_or_hf_model" if op.startswith("llm") else "hf_model"
    (bound,) = bind([{op: {key: str(folder), **params}}])
    context = Context(seed=3, models=LocalModels(device="cpu"))
    return bound.op.apply(Batch(items, context))


@pytest.mark.parametrize("op", OPS)
def test_a_folder_answers_each_row_as_if_it_were_alone(tmp_path, op):
    folder = tiny_text(tmp_path / "model")
    items = [Item(f"u{n}", n, dict(row)) for n, row in enumerate(ROWS)]
    together = apply(op, folder, items, **OPS[op])
    alone = [apply(op, folder, [item], **OPS[op])[0] for item in reversed(items)]
    assert together == alone[::-1]
    texts = {row["response"] for row in together}
    assert len(texts) > 2
    assert together[0]["provenance"][0]["model"] == str(folder)


def test_a_name_that_is_no_folder_ends_the_run_with_what_to_do(tmp_path):
    items = [Item("u", 1, dict(ROWS[0]))]
    op = "llm_ray_vllm_engine_pipeline"
    with pytest.raises(ModelError, match="neither a model folder here nor an endpoint"):
        apply(op, tmp_path / "gone", items, **OPS[op])
