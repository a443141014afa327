"""A converter of another system as a step of a recipe; answers to a file as another."""

from __future__ import annotations

import base64
import json

import pytest

from tests.data.pictures_made import picture
from vlforge.data.config import SplitConfig, ToolConfig
from vlforge.evaluation.benchmarks import captions
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.recipe.load import load_recipe
from vlforge.runs.job import Job
from vlforge.runs.kinds import split, tool
from vlforge.serving.predict.config import PredictConfig
from vlforge.types import DataError, RecipeError

PIXELS = picture(3)


def labels(folder) -> None:
    """Three rows of the ad-caption task, one without a picture."""
    content = base64.b64encode(PIXELS).decode()
    lines = [f"a\t{content}\t红色的猫。", "b\tbm8=\t没有。", f"c\t{content}\t蓝色的狗。"]
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")


def test_labels_are_converted_into_the_stages_folder(tmp_path):
    labels(tmp_path)
    lines: list[dict] = []
    config = ToolConfig("convert_labels", str(tmp_path / "train.txt"), options={"val_every": 2})
    tool.run(config, Job("labels", tmp_path / "out", tmp_path, log=lines.append))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"train.json", "val.json", "chat_template.json", "dropped.jsonl"}
    (told,) = lines
    assert (told["read"], told["written"]) == (3, 2)
    assert told["files"] == {"train.json": 1, "val.json": 1}
    assert told["dropped"] == {"no picture in base64": 1}


def test_its_rows_are_asked_their_own_question_and_scored_by_their_caption(tmp_path):
    labels(tmp_path)
    config = ToolConfig("convert_labels", str(tmp_path / "train.txt"))
    tool.run(config, Job("labels", tmp_path, tmp_path))
    (asked,) = captions.read(BenchmarkSpec("captions", annotation=str(tmp_path / "val.json")))
    assert (asked.id, asked.text, asked.answers) == (
        "identity_0",
        "请描述图片内容。",
        ("红色的猫。",),
    )
    assert asked.images == (PIXELS,)
    rows = json.loads((tmp_path / "val.json").read_text())
    rows[0]["image"] = "no base64!"
    (tmp_path / "bad.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"bad.json: entry 0: no \[\[question, caption\]\]"):
        captions.read(BenchmarkSpec("captions", annotation=str(tmp_path / "bad.json")))


@pytest.mark.parametrize(
    ("name", "target"),
    [("convert_labels", "."), ("convert_laion", "laion_synthetic_filtered_large.tsv"),
     ("llava_to_dj", "data.jsonl"), ("dj_to_llava.py", "data.json")],
)  # fmt: skip
def test_what_a_tool_writes_has_a_name_of_its_own(name, target):
    assert ToolConfig(name, "rows").target_name == target


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("tool: convert_label", "unknown tool 'convert_label': did you mean 'convert_labels'"),
        ("tool: convert_labels, options: {promt: x}", "no option 'promt'; did you mean 'prompt'"),
        ("tool: convert_labels, options: {mode: all}", "options.mode is 'all'; take one of split"),
        ("tool: convert_labels, target: x", "names its files itself; leave target out"),
    ],
)
def test_a_wrong_word_is_told_before_anything_runs(tmp_path, settings, says):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages:\n  labels: {{kind: tool, source: x, {settings}}}\n")
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe)


def test_parts_of_a_dataset_share_no_picture(tmp_path):
    content = [base64.b64encode(picture(number)).decode() for number in (1, 2, 3, 4)]
    lines = [f"{n}\t{content[n % 4]}\tcaption {n}" for n in range(12)]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    config = SplitConfig(
        str(tmp_path / "train.txt"), {"train": 0.75, "val": 3.0}, to="chatml_paddle"
    )
    told: list[dict] = []
    split.run(config, Job("parts", tmp_path / "parts", tmp_path, log=told.append))
    train, val = (json.loads((tmp_path / "parts" / f"{n}.json").read_text()) for n in config.parts)
    assert (len(train), len(val)) == (9, 3)
    assert not {row["image"] for row in train} & {row["image"] for row in val}
    assert told[0]["written"] == {"train": 9, "val": 3}
    with pytest.raises(ValueError, match="val=half"):
        SplitConfig("rows", {"train": 0.5, "val": "half"})


def test_a_file_of_answers_is_named_without_a_folder():
    with pytest.raises(ValueError, match="give a file's name"):
        PredictConfig("model", "rows", output="../answers.tsv")
    with pytest.raises(ValueError, match="top_p is 2; give a share"):
        PredictConfig("model", "rows", top_p=2)
