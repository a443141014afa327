"""MiniGPT-4's configurations become recipes: published values, origins, fates, refusals."""

from __future__ import annotations

import pytest

from tests.recipe.adopting import adopted
from vlforge.cli.recipes import shipped_folder
from vlforge.recipe.adopt.adopted import read_foreign
from vlforge.recipe.adopt.minigpt4 import demo_words
from vlforge.recipe.adopt.minigpt4_config import merged_config, option_list, read_layers
from vlforge.recipe.adopt.systems import adopt_file, system_of
from vlforge.recipe.load import load_recipe
from vlforge.types import RecipeError

RUN = """\
run:
  {{task: image_text_pretrain, lr_sched: linear_warmup_cosine_lr, init_lr: {lr}, min_lr: {low},
   warmup_lr: 1e-6, weight_decay: 0.05, max_epoch: {epochs}, iters_per_epoch: {iters},
   batch_size_train: {batch}, batch_size_eval: {batch}, num_workers: 4, warmup_steps: {iters},
   seed: 42, output_dir: output/minigpt4_{name}, amp: True, resume_ckpt_path: null,
   evaluate: False, train_splits: [train], device: cuda, world_size: 1, dist_url: 'env://',
   distributed: True}}
"""
PROCESSORS = "vis_processor: {train: {name: blip2_image_train, image_size: 224}}"
BLIP = "text_processor: {train: {name: blip_caption}}"
FIRST = (
    "model: {arch: mini_gpt4, model_type: pretrain_vicuna, freeze_vit: True,\n"
    "        freeze_qformer: True}\n"
    "datasets:\n"
    f"  laion: {{{PROCESSORS}, {BLIP}, sample_ratio: 115}}\n"
    f"  cc_sbu: {{{PROCESSORS}, {BLIP}, sample_ratio: 14}}\n"
) + RUN.format(lr="1e-4", low="8e-5", epochs=4, iters=5000, batch=64, name="first")
SECOND = (
    "model: {arch: mini_gpt4, model_type: pretrain_vicuna, max_txt_len: 160, end_sym: '###',\n"
    "        prompt_path: prompts/alignment.txt, llama_model: my/vicuna,\n"
    "        prompt_template: '###Human: {} ###Assistant: ', ckpt: out/checkpoint_3.pth}\n"
    f"datasets: {{cc_sbu_align: {{{PROCESSORS}, {BLIP}}}}}\n"
) + RUN.format(lr="3e-5", low="1e-5", epochs=5, iters=200, batch=12, name="second")
DEMO = (
    "model: {arch: mini_gpt4, model_type: pretrain_vicuna, end_sym: '###', low_resource: True,\n"
    "        ckpt: weights/prerained_minigpt4_7b.pth}\n"
    "datasets: {cc_sbu_align: {vis_processor: {train: {name: blip2_image_eval}}}}\n"
    "run: {task: image_text_pretrain}\n"
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Puts a text into a file of the working folder; torch's cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))

    def write(text, name="theirs.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def settings(recipe, stage):
    """The stage as its dataclass's plain values, what both say in another way taken out."""
    found = dict(recipe.stages[stage].settings)
    optimiser = dict(found.pop("optimiser"))
    for key in ("batch", "expect_global_batch", "save_every_samples", "keep_last", "precision",
                "kind"):  # fmt: skip
        found.pop(key, None)
    found.pop("random_crop", None)
    return found, optimiser


@pytest.mark.parametrize(("text", "stage"), [(FIRST, "align"), (SECOND, "instruct")])
def test_a_stage_is_the_shipped_recipes(written, tmp_path, text, stage):
    made, recipe = adopted(written(text), tmp_path / "ours.yaml")
    assert list(recipe.stages) == [stage]
    shipped = load_recipe(shipped_folder() / "minigpt4.yaml")
    (ours, mine), (theirs, published) = settings(recipe, stage), settings(shipped, stage)
    assert mine == published
    if stage == "instruct":
        model, micro = ours.pop("model"), ours.pop("micro_batch")
        theirs.pop("model")
        assert (model["language"], micro) == ("my/vicuna", 12)
        assert model["connector_weights"] == "out/checkpoint_3.pth"
        assert [part["path"] for part in ours["data"]] == ["cc_sbu_align"]
    assert ours == theirs
    assert recipe.stages[stage].settings["batch"] == "auto"
    rows = {"align": 64, "instruct": 12}[stage]
    assert made.notes[-1] == (
        f"each process has batches of {rows}: `--processes 4` trains with {4 * rows}"
    )


def test_every_line_names_its_place_and_every_key_that_does_nothing_its_reason(written, tmp_path):
    path = written(SECOND)
    made, _ = adopted(path, tmp_path / "ours.yaml", run__init_lr="2e-5")
    where = made.origins
    assert where["stages.instruct.optimiser.lr"] == "--options, run.init_lr"
    assert where["stages.instruct.epochs"] == "theirs.yaml:7 run.max_epoch"
    assert where["stages.instruct.model.language"] == "theirs.yaml:2 model.llama_model"
    assert "fetch minigpt4" in where["stages.instruct.model.vision"]
    left = {one.key: one for one in made.unused}
    assert left["datasets.cc_sbu_align.text_processor.train.name"].why.startswith("MiniGPT-4 keeps")
    assert left["run.world_size"].where == "theirs.yaml:10"
    assert "run.resume_ckpt_path" not in left
    assert made.get("stages.instruct.optimiser.lr") == 2e-5


def test_paths_come_from_the_packages_own_default_files(written, tmp_path):
    home = "minigpt4/configs"
    written("model: {arch: mini_gpt4, llama_model: /my/vicuna, image_size: 224}\n",
            f"{home}/models/minigpt4.yaml")  # fmt: skip
    written("datasets: {laion: {build_info: {storage: '/my/{000..009}.tar'}}}\n",
            f"{home}/datasets/laion/defaults.yaml")  # fmt: skip
    made, recipe = adopted(written(FIRST, "train_configs/one.yaml"), tmp_path / "ours.yaml")
    stage = recipe.stages["align"].settings
    assert stage["model"]["language"] == "/my/vicuna"
    assert made.origins["stages.align.model.language"] == "minigpt4.yaml:1 model.llama_model"
    assert [part["path"] for part in stage["data"]] == [
        "/my/{000..009}.tar", "cc_sbu_dataset/{00000..01255}.tar",
    ]  # fmt: skip


def test_what_torch_has_downloaded_is_taken(written, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    written("x", "torch/hub/checkpoints/eva_vit_g.pth")
    made = adopt_file(written(FIRST))
    model = made.get("stages.align.model")
    assert model["vision"] == str(tmp_path / "torch/hub/checkpoints/eva_vit_g.pth")
    assert model["qformer"] == "weights/blip2_pretrained_flant5xxl.pth"
    written("y", "weights/eva_vit_g.pth")
    assert adopt_file(written(FIRST)).get("stages.align.model.vision") == "weights/eva_vit_g.pth"


def test_settings_that_are_not_published_find_ours(written, tmp_path):
    changes = {
        "run__amp": "False", "run__accum_grad_iters": "2", "run__beta2": "0.98",
        "run__wandb_log": "True", "model__low_resource": "True", "model__freeze_qformer": "False",
        "model__use_grad_checkpoint": "True", "model__vit_precision": "fp32",
        "datasets__cc_sbu_align__vis_processor__train__name": "blip2_image_eval",
        "model__q_former_model": "my/blip2.pth", "run__resume_ckpt_path": "out/checkpoint_1.pth",
    }  # fmt: skip
    made, recipe = adopted(written(SECOND), tmp_path / "ours.yaml", **changes)
    stage = recipe.stages["instruct"].settings
    assert stage["precision"] == stage["frozen_precision"] == "fp32"
    assert (stage["accumulation"], stage["quantise"]) == (2, "8bit")
    assert stage["optimiser"]["betas"] == [0.9, 0.98]
    assert (stage["trackers"], stage["checkpointing"]) == (["wandb"], ["vision"])
    assert stage["train"] == ["connector", r"vision\.(qformer|query_tokens)"]
    assert stage["random_crop"] is False
    assert stage["model"]["qformer"] == "my/blip2.pth"
    assert stage["model"]["connector_weights"] == "out/checkpoint_1.pth"
    assert any("resume_ckpt_path" in note for note in made.notes)


def test_a_stage_of_ours_may_be_the_checkpoint(written, tmp_path):
    written("{}", "runs/first/align/config.json")
    _, recipe = adopted(written(SECOND), tmp_path / "o.yaml", model__ckpt="runs/first/align")
    assert recipe.stages["instruct"].settings["model"] == "runs/first/align"


def test_later_releases_have_the_batch_in_each_dataset(written, tmp_path):
    text = SECOND.replace("mini_gpt4", "minigpt4").replace("pretrain_vicuna", "pretrain_vicuna0")
    text = text.replace("{cc_sbu_align: {", "{cc_sbu_align: {batch_size: 6, ")
    made, recipe = adopted(written(text), tmp_path / "ours.yaml")
    assert recipe.stages["instruct"].settings["micro_batch"] == 6
    assert "batch_size" in made.origins["stages.instruct.micro_batch"]


def test_without_ratios_datasets_are_drawn_alike(written, tmp_path):
    text = FIRST.replace(", sample_ratio: 115", "")
    made, recipe = adopted(written(text), tmp_path / "ours.yaml")
    assert [part["weight"] for part in recipe.stages["align"].settings["data"]] == [1, 1]
    assert any(one.key == "datasets.cc_sbu.sample_ratio" for one in made.unused)
    streams = FIRST.replace(" iters_per_epoch: 5000,", "")
    _, recipe = adopted(written(streams), tmp_path / "ours.yaml")
    assert recipe.stages["align"].settings["iters_per_epoch"] == 10_000


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("init_lr: 3e-5", "init_lr: fast", "theirs.yaml:6: run.init_lr is 'fast'; give a number"),
        ("max_epoch: 5", "max_epohc: 5", "theirs.yaml:7: unknown key 'run.max_epohc'; did you "
         "mean 'run.max_epoch'"),
        ("linear_warmup_cosine_lr", "linear_warmup_step_lr", "there is linear_warmup_cosine_lr"),
        ("'###',", "'</s>',", "is no template here; known: minigpt4_pretrain"),
        ("cc_sbu_align:", "cc_sbu_aling:", "no dataset 'cc_sbu_aling'; did you mean"),
        ("pretrain_vicuna", "pretrain_llama2", "only the first release is"),
        ("arch: mini_gpt4", "arch: mini_gpt5", "did you mean 'mini_gpt4'"),
        ("evaluate: False", "evaluate: True", "run.evaluate is True; only False is there"),
        ("image_size: 224", "image_size: 448", "the encoder takes 224; `image_size` in"),
        ("blip2_image_train", "blip_image_train", "there are blip2_image_train and"),
        ("my/vicuna", "'${oc.env:V}'", "write the value itself"),
        ("run:", "ran:", "`run` is missing"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_its_line(written, old, new, said):
    path = written(SECOND.replace(old, new))
    with pytest.raises(RecipeError) as raised:
        adopt_file(path) if "run:" not in old else read_layers(path, {})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_half_the_ratios_and_two_ways_of_cutting_are_refused(written):
    with pytest.raises(RecipeError, match=r"datasets\.cc_sbu has no sample_ratio"):
        adopt_file(written(FIRST.replace(", sample_ratio: 14", "")))
    path, key = written(FIRST), "datasets.laion.vis_processor.train.name"
    with pytest.raises(RecipeError, match="cuts all pictures at random or none"):
        adopt_file(path, {key: "blip2_image_eval"})


def test_a_demos_file_names_the_command(written):
    path = written(DEMO)
    assert system_of(read_foreign(path, {})).name == "MiniGPT-4"
    with pytest.raises(RecipeError, match=r"trains nothing .* vlforge web weights/prerained"):
        adopt_file(path)
    assert demo_words(read_layers(path, {}), "cuda:1") == (
        "web", "weights/prerained_minigpt4_7b.pth", "--vision", "weights/eva_vit_g.pth",
        "--qformer", "weights/blip2_pretrained_flant5xxl.pth", "--language", "weights/vicuna-7b",
        "--device", "cuda:1", "--low-resource",
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"model\.ckpt is '/path/to/x'; name the checkpoint"):
        demo_words(read_layers(path, {"model.ckpt": "/path/to/x"}))


def test_options_are_words_with_equals_or_pairs(written):
    assert option_list(["a.b=1", "c=x=y"]) == {"a.b": "1", "c": "x=y"}
    assert option_list(["a.b", "1", "c"]) == {"a.b": "1"}
    tree = merged_config(written(SECOND), ["run.seed", "7", "run.note.more", "[1, off]"])
    assert (tree["run"]["seed"], tree["run"]["note"]) == (7, {"more": [1, False]})
    assert tree["preprocess"]["vis_processor"]["eval"]["name"] == "blip2_image_eval"
    other = merged_config(written(SECOND), ["model.model_type=pretrain_vicuna0"])
    assert (other["model"]["model_type"], other["model"]["arch"]) == (
        "pretrain_vicuna0", "mini_gpt4",
    )  # fmt: skip
