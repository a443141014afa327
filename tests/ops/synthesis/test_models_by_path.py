"""Operators that ask about pictures, with models opened by their folders and a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.endpoint_server import endpoint
from tests.inference.tiny import picture, tiny_folder
from tests.ops.synthesis.asked import EOC, IMAGE
from vlforge.data.convert import convert
from vlforge.data.formats.cc_sbu_align import CcSbuAlignFormat
from vlforge.data.formats.dj import DjFormat, write
from vlforge.engine.config import ModelLoading, ProcessConfig
from vlforge.engine.local import run_process
from vlforge.inference.local import LocalModels
from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.recipe.load import load_recipe
from vlforge.recipe.typed import build
from vlforge.types import Drop, EndpointSpec

RECIPE = Path(__file__).parents[3] / "recipes" / "minigpt4_second_stage.yaml"
LONG = (
    "A red bus stands at a stop. Behind it there are some trees and a tall grey house. A few "
    "people wait beside the road, one of them holds a blue umbrella, the other reads. The sky "
    "is bright and the street is wet from rain."
)


def pictures(folder, count):
    """Paths of pictures of noise, and their rows."""
    folder.mkdir()
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return [
        {
            "id": str(n),
            "text": f"{IMAGE}\nwhat is the cat {EOC}",
            "images": [str(folder / f"{n}.png")],
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("heat", [0.0, 1.0])
def test_answers_of_a_folders_model_do_not_depend_on_the_batch(tmp_path, heat):
    rows = pictures(tmp_path / "images", 5)
    rows.append({**rows[0], "images": [str(tmp_path / "gone.png")]})
    model = tiny_folder(tmp_path / "model", "vicuna_v1", positions=200)
    params = {"hf_model": str(model), "max_new_tokens": 6, "temperature": heat}
    op = bind([{"mllm_mapper": params}])[0].op
    items = [Item(f"u{n}", n, row) for n, row in enumerate(rows)]
    together = op.apply(Batch(items, Context(models=LocalModels("cpu"))))
    alone = [op.apply(Batch([item], Context(models=LocalModels("cpu"))))[0] for item in items[:2]]
    assert together[:2] == alone
    assert len({row["text"] for row in together[:5]}) > 1
    assert all(row["text"].startswith(f"{IMAGE}\n") for row in together[:5])
    drop = together[5]
    assert isinstance(drop, Drop)
    assert drop.reason == "picture cannot be read"
    assert "gone.png" in drop.value


def stage(name, made):
    """A stage of the recipe as it is written, with what `made` says in place of paths."""
    settings = dict(load_recipe(RECIPE).stages[name].settings)
    text = json.dumps(settings)
    for old, new in made.items():
        assert old in text
        text = text.replace(old, new)
    return build(ProcessConfig, json.loads(text), lambda *keys: name)


def test_the_second_stage_recipe_from_pictures_to_the_published_layout(tmp_path):
    rows = pictures(tmp_path / "images", 4)
    write(tmp_path / "rows.jsonl", rows)
    model = tiny_folder(tmp_path / "model", "minigpt4_pretrain", positions=800)
    made = {"cc_pictures.jsonl": str(tmp_path / "rows.jsonl"), "5000": "4",
            "runs/minigpt4/align": str(model), "weights/vicuna-7b": str(model)}  # fmt: skip
    first = stage("describe", made)
    assert first.models == ModelLoading(template="minigpt4")
    (tmp_path / "describe").mkdir()
    run_process(first, tmp_path / "describe", models=LocalModels("cpu", loading=first.models))
    lines = (tmp_path / "describe" / "data.jsonl").read_text(encoding="utf-8").splitlines()
    described = [json.loads(line) for line in lines]
    assert {row["provenance"][0]["op"] for row in described} == {"long_caption_mapper"}

    def polisher(body, times):
        first = next(m["content"] for m in body["messages"] if m["role"] == "user")
        said = first.rpartition("\n\n")[2]
        if said == described[0]["text"].removeprefix(f"{IMAGE}\n").removesuffix(f" {EOC}"):
            return "I'm sorry, but there is nothing to mend."
        return f"{LONG} {LONG} And then"

    with endpoint(polisher) as server:
        found = {"$describe/data.jsonl": str(tmp_path / "describe" / "data.jsonl"), "1.3": "99"}
        second = stage("polish", found)
        assert list(second.endpoints) == ["polisher"]
        here = {"polisher": EndpointSpec("mender", server.url, retries=0)}
        models = LocalModels("cpu", endpoints=here)
        funnel = run_process(second, tmp_path / "polish", models=models)
    assert funnel["rows_out"] == len(described) - 1
    convert(tmp_path / "polish" / "data.jsonl", tmp_path / "cc_sbu_align", DjFormat(),
            CcSbuAlignFormat())  # fmt: skip
    notes = json.loads((tmp_path / "cc_sbu_align" / "filter_cap.json").read_bytes())["annotations"]
    assert [note["caption"] for note in notes] == [LONG] * (len(described) - 1)
    assert all((tmp_path / f"cc_sbu_align/image/{note['image_id']}.jpg").exists() for note in notes)


def test_a_stage_1_model_is_asked_in_the_second_stages_words(tmp_path):
    from vlforge.inference.load import load_model

    model = tiny_folder(tmp_path / "model", "minigpt4_pretrain", positions=200)
    own = LocalModels("cpu").loaded(str(model))
    told = LocalModels("cpu", loading=ModelLoading(template="minigpt4")).loaded(str(model))
    assert own.template == load_model(model, "cpu").template
    assert not own.template.words_from_user
    assert told.template.words_from_user
    assert told.decoding(5).stop_strings == ("###",)
