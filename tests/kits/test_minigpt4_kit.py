"""MiniGPT-4's own command lines, on its folder in small, from its lists to the demo page."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from tests.download_site import running_site
from tests.kits.typed import PATIENCE_S, lines_of, serving, typed
from vlforge.checkpoints.checkpoint import Parts
from vlforge.checkpoints.index import read_checkpoint
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature
from vlforge.miniatures.minigpt4 import LISTS, SITE

RECIPES = Path(__file__).parents[2] / "recipes"
PARTS = """--vision weights/eva_vit_g.pth \
    --qformer weights/blip2_pretrained_flant5xxl.pth --language weights/vicuna-7b"""
FEW = "run.max_epoch=2 run.iters_per_epoch=2 run.batch_size_train=4 run.warmup_steps=2"
TRAIN = "vlforge compat torchrun --nproc-per-node 1 train.py --cfg-path train_configs"
FIRST = "runs/minigpt4_stage1_pretrain/01-align"
SECOND = "runs/minigpt4_stage2_finetune/01-instruct"
FETCH = """--processes_count 1 --thread_count 8 --allow_private true --number_sample_per_shard 6 \
    --timeout 300 --total_timeout 900"""
DEMO = f"""compat python demo.py --cfg-path eval_configs/minigpt4_eval.yaml --gpu-id 0 \
    --options model.ckpt={SECOND}/checkpoint_1.pth"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder after all of the first release's commands, and what each of them said."""
    folder = tmp_path_factory.mktemp("kits") / "minigpt4"
    make_miniature("minigpt4", folder, MiniatureConfig("minigpt4", rows=12))
    said: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch, running_site(patch) as site:
        site.files |= pictures(folder)
        for path in LISTS.values():
            text = (folder / path).read_text(encoding="utf-8")
            (folder / path).write_text(text.replace(SITE, site.url), encoding="utf-8")
        for name, home in (("laion", "laion"), ("cc_sbu", "cc_sbu")):
            said[f"convert {name}"] = typed(
                f"vlforge compat python ../dataset/convert_{name}.py", folder / home
            )
            said[f"download {name}"] = typed(
                f"vlforge compat bash download_{name}.sh {FETCH}", folder / home
            )
    for name in ("laion", "cc_sbu"):
        storage(folder / f"minigpt4/configs/datasets/{name}/defaults.yaml", name)
    said["first"] = typed(f"{TRAIN}/minigpt4_stage1_pretrain.yaml --options {FEW}", folder)
    said["second"] = typed(
        f"{TRAIN}/minigpt4_stage2_finetune.yaml "
        f"--options {FEW} model.ckpt={FIRST}/checkpoint_1.pth",
        folder,
    )
    return folder, said


def pictures(folder: Path) -> dict[str, bytes]:
    """What the site has: a picture for each address but the last of each list."""
    found = {}
    shown = sorted((folder / "cc_pictures").iterdir())
    for path in LISTS.values():
        items = json.loads((folder / path).read_text(encoding="utf-8"))
        for number, item in enumerate(items[:-1]):
            picture = shown[number % len(shown)].read_bytes()
            found[item["url"].removeprefix(SITE)] = picture
        found[items[-1]["url"].removeprefix(SITE)] = b"<html>gone</html>"
    return found


def storage(path: Path, name: str) -> None:
    """The user's own line in a dataset's defaults: where its shards lie."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    shards = f"{name}/{name}_dataset/{{00000..00001}}.tar"
    tree["datasets"][name]["build_info"]["storage"] = shards
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")


@pytest.mark.slow
def test_lists_become_tables_and_shards(kit):
    folder, said = kit
    for name, rows in (("laion", 12), ("cc_sbu", 6)):
        assert f"Written {rows} of {rows} rows" in said[f"convert {name}"]
        shards = folder / name / f"{name}_dataset"
        stats = [json.loads(path.read_text()) for path in sorted(shards.glob("*_stats.json"))]
        assert sum(one["count"] for one in stats) == rows
        assert sum(one["successes"] for one in stats) == rows - 1
        assert sum(one["failed_to_resize"] for one in stats) == 1
        assert {path.suffix for path in shards.glob("00000*")} >= {".tar", ".parquet", ".json"}


@pytest.mark.slow
def test_both_stages_train_and_leave_minigpt4s_checkpoints(kit):
    folder, said = kit
    for run, log in ((FIRST, said["first"]), (SECOND, said["second"])):
        steps = lines_of(folder / run / "metrics.jsonl")
        assert [step["step"] for step in steps] == [1, 2, 3, 4]
        assert all(step["loss"] > 0 for step in steps)
        assert "model.freeze_vit" in log  # what has no counterpart is told
        held = torch.load(folder / run / "checkpoint_1.pth")
        assert set(held["model"]) == {"llama_proj.weight", "llama_proj.bias"}
        recipe = (folder / f"{Path(run).parts[0]}/{Path(run).parts[1]}.yaml").read_text()
        assert "run.init_lr" in recipe
    rates = [step["lr"] for step in lines_of(folder / SECOND / "metrics.jsonl")]
    assert rates[0] == pytest.approx(1e-6)  # warmup_lr
    first, second = (
        torch.load(folder / run / "checkpoint_1.pth")["model"]["llama_proj.weight"]
        for run in (FIRST, SECOND)
    )
    assert 0 < (first - second).abs().max() < 0.01  # it went on from the first stage's
    read = read_checkpoint(
        folder / SECOND / "checkpoint_1.pth",
        Parts(vision=folder / "weights/eva_vit_g.pth", language=folder / "weights/vicuna-7b",
              qformer=folder / "weights/blip2_pretrained_flant5xxl.pth"),
    )  # fmt: skip
    read.check()
    assert torch.equal(read.weights["connector.weight"].read(), second)


@pytest.mark.slow
def test_a_stages_checkpoint_talks_in_8_bit(kit):
    folder, _ = kit
    asked = f"""vlforge chat {SECOND}/checkpoint_1.pth {PARTS} --quantise 8bit --style reference \
        --image cc_pictures/00000.jpg --question "What is this?" --max-new-tokens 8"""
    said = typed(asked, folder)
    assert "in 8bit an answer may change" in said
    assert len(said.splitlines()) >= 2


@pytest.mark.slow
def test_the_second_stage_is_scored_on_what_it_never_saw(kit):
    folder, _ = kit
    said = typed(
        f"""vlforge eval run {SECOND} --benchmark gqa --out scores --max-new-tokens 4 \
            --annotation eval/gqa/testdev_balanced_questions.json --images eval/gqa/images""",
        folder,
    )
    assert re.search(r"^gqa +\d+\.\d %", said, re.M), said
    metrics = json.loads((folder / "scores/metrics.json").read_text())["gqa"]
    assert metrics["missing"] == 0
    assert metrics["n"] == len(lines_of(folder / "scores/predictions.gqa.jsonl")) > 12


@contextlib.contextmanager
def page(folder: Path, words: str) -> Iterator[tuple[str, str]]:
    """The address of a page that `vlforge …` serves, and what it said."""
    with serving(folder, words.split(), "Open", signal.SIGINT) as said:
        assert "Open " in said, said
        yield said.split()[-1], said


@pytest.mark.slow
def test_the_demo_is_a_page_that_answers_about_a_picture(kit):
    folder, _ = kit
    with page(folder, DEMO) as (address, said):
        assert "--low-resource" in said
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            room = f"/api/rooms/{client.post('/api/rooms').json()['room']}"
            picture = (folder / "cc_pictures/00001.jpg").read_bytes()
            sent = client.post(f"{room}/pictures", params={"name": "a.jpg"}, content=picture)
            exchange = {"question": "What is this?", "pictures": [sent.json()["number"]]}
            body = {"exchanges": [exchange], "settings": {"max_tokens": 6}}
            answer = client.post(f"{room}/answers", json=body)
    assert answer.status_code == 200, answer.text
    events: list[dict[str, Any]] = [json.loads(line) for line in answer.text.splitlines()]
    assert "error" not in answer.text
    assert events


@pytest.mark.slow
def test_a_second_stage_is_made_by_the_first(kit):
    folder, _ = kit
    typed(
        f"""vlforge run {RECIPES / "minigpt4_second_stage.yaml"} --size tiny \
            stages.describe.process.1.long_caption_mapper.model={FIRST} \
            stages.instruct.model={FIRST}""",
        folder,
    )
    run = folder / "runs/minigpt4_second_stage"
    scores = json.loads((run / "scores.json").read_text())
    assert scores["model"]["n"] == {"captions": 6}
    assert (run / "report.html").is_file()
    rows = next(run.glob("*-polish")) / "data.jsonl"
    made = lines_of(rows)
    assert 0 < len(made) <= 6
    models = [[step["model"] for step in row["provenance"]] for row in made]
    assert all(len(one) == 2 for one in models)
    typed(f"vlforge convert {rows.relative_to(folder)} mine --to cc_sbu_align", folder)
    kept = json.loads((folder / "mine/filter_cap.json").read_text())["annotations"]
    assert len(kept) == len(made)
    assert all((folder / f"mine/image/{row['image_id']}.jpg").is_file() for row in kept)
