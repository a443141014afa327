"""lmms-eval's own evaluator asks our models, through the entry point and the older way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.inference.tiny import picture, tiny_folder

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

QUESTIONS = ["what is the cat", "the horse stands", "a red cat on the blue grass", "what"]
VISUAL = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_visual: !function seeing.visual
doc_to_text: !function seeing.text
doc_to_target: {target}
{more}
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"), template="v1", positions=256)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch) -> Path:
    """A folder of two tasks about four pictures, and a cache of their own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = []
    for number, question in enumerate(QUESTIONS):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append({"question": question, "image": str(tmp_path / f"{number}.png"),
                     "answer": "cat", "gold": number % 2})  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "seeing.py").write_text(VISUAL)
    how = "generation_kwargs: {until: ['blue'], max_new_tokens: 6, temperature: 0}"
    choices = "doc_to_choice: ['a cat', 'the horse']"
    for name, kind, target, more, metric in (
        ("tiny_words", "generate_until", "answer", how, "exact_match"),
        ("tiny_choice", "multiple_choice", "gold", choices, "acc"),
    ):
        page = TASK.format(name=name, data=data, kind=kind, target=target, more=more, metric=metric)
        (tmp_path / f"{name}.yaml").write_text(page)
    return tmp_path


def run(model: Path, tasks: Path, names: list[str], batch: int) -> dict:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    return simple_evaluate(
        model="vlforge",
        model_args=f"pretrained={model},device=cpu",
        tasks=names,
        batch_size=batch,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        process_docs_parallel=1,
    )


def said(found: dict, name: str) -> list:
    rows = sorted(found["samples"][name], key=lambda row: row["doc_id"])
    return [row["filtered_resps"] for row in rows]


def test_its_evaluator_gets_the_answers_that_chat_gives(model, tasks):
    from vlforge.inference.local import LocalChat
    from vlforge.types import Sample, Turn

    found = run(model, tasks, ["tiny_words"], 3)
    chat = LocalChat(model, device="cpu")
    asked = [
        Sample(str(n), (str(tasks / f"{n}.png"),), (Turn("user", f"<image>\n{text}"),))
        for n, text in enumerate(QUESTIONS)
    ]
    whole = [one.text for one in chat.answer(asked, 6)]
    assert [row[0] for row in said(found, "tiny_words")] == [
        text.partition("blue")[0].strip() for text in whole
    ]
    assert any("blue" in text for text in whole)
    assert found["results"]["tiny_words"]["exact_match,none"] == 0.0


def test_options_are_weighed_and_the_likeliest_is_the_answer(model, tasks):
    alone = run(model, tasks, ["tiny_choice"], 1)
    together = run(model, tasks, ["tiny_choice"], 4)
    losses = [[float(loss) for loss, _ in row] for row in said(alone, "tiny_choice")]
    again = [[float(loss) for loss, _ in row] for row in said(together, "tiny_choice")]
    for row, others in zip(losses, again, strict=True):
        assert row == pytest.approx(others, abs=1e-5)
    right = [int(row[n % 2] < row[1 - n % 2]) for n, row in enumerate(losses)]
    assert alone["results"]["tiny_choice"]["acc,none"] == pytest.approx(sum(right) / 4)


def test_both_ways_of_registering_name_the_same_class(monkeypatch):
    from lmms_eval import models
    from lmms_eval.models import registry_v2

    from vlforge.integrations.lmms_eval import manifests

    registry = registry_v2.ModelRegistryV2()
    for manifest in manifests():
        registry.register_manifest(manifest)
    registry_of_plugins = registry_v2.ModelRegistryV2()
    monkeypatch.setitem(os.environ, "LMMS_EVAL_PLUGINS", "vlforge.integrations.lmms_eval")
    with pytest.warns(DeprecationWarning, match="LMMS_EVAL_PLUGINS"):
        models._merge_legacy_plugin_models(registry_of_plugins)
    ours = registry.get_model_class("vlforge")
    assert registry_of_plugins.get_model_class("vlforge") is ours


def test_the_entry_point_is_declared():
    import tomllib

    page = Path(__file__).parents[2] / "pyproject.toml"
    points = tomllib.loads(page.read_text())["project"]["entry-points"]["lmms_eval.models"]
    assert points == {"vlforge": "vlforge.integrations.lmms_eval:manifests"}


def test_rounds_go_on_until_the_task_ends_them(model):
    from lmms_eval.api.instance import Instance

    from vlforge.integrations.lmms_eval.models.vlforge import VLForge

    ours = VLForge(pretrained=str(model), device="cpu")
    ours.task_dict = {"t": {"test": [{"image": picture(1)}]}}
    told = []

    def to_text(doc, previous_output, round_idx, previous_round_info):
        told.append((round_idx, len(previous_output), previous_round_info))
        return [doc["image"]], "what is a cat", round_idx == 3, previous_output, round_idx

    args = ("the cat", {"max_new_tokens": 3}, lambda doc: [doc["image"]], to_text, 0, "t", "test")
    about = {"task": "t", "doc_id": 0, "repeats": 1}
    request = Instance("generate_until_multi_round", args, 0, about)
    (answers,) = ours.generate_until_multi_round([request])
    assert len(answers) == 3
    assert told == [(1, 1, None), (2, 2, 1), (3, 3, 2)]
