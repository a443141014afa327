"""Scripts of Mini-Gemini and LLaVA become the recipes that their tables say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipe import launch_scripts as scripts
from tests.recipe.adopting import adopted, check_origins
from vlforge.recipe.adopt.systems import adopt_file
from vlforge.recipe.kinds import find_kind
from vlforge.recipe.load import load_recipe
from vlforge.recipe.typed import build
from vlforge.types import RecipeError

GEMMA, VICUNA = "model_zoo/LLM/gemma/gemma-2b-it", "model_zoo/LLM/vicuna/7B-V1.5"
LARGE = "model_zoo/LLM/vicuna/13B-V1.5"
LLAMA3 = "model_zoo/LLM/llama-3/Meta-Llama-3-8B-Instruct"
MIXTRAL = "model_zoo/LLM/mixtral/Mixtral-8x7B-Instruct-v0.1"
YI = "model_zoo/LLM/yi/Nous-Hermes-2-Yi-34B"
MULTI = {"learning_rate": "1e-5", "lr_multi": "model.mm_projector:2,model.vlm_uni:2"}
TWO, FOUR = "deepspeed --hostfile hostfile", "deepspeed --hostfile hostfile_4"
PUBLISHED = {
    "2B": (GEMMA, "gemma gemma", "zero2_offload zero2", "8x4 8x2", "deepspeed --num_gpus 8", {}),
    "7B": (VICUNA, "plain v1", "zero2_offload zero2_offload", "16x1 8x1", TWO, {}),
    "13B": (LARGE, "plain v1", "zero2 zero2", "8x1 4x1", FOUR, {}),
    "8B": (LLAMA3, "llama_3 llama_3", "zero2_offload zero2_offload", "16x1 8x1", TWO, {}),
    "8x7B": (MIXTRAL, "plain mistral_instruct", "zero3 zero3", "8x1 4x1", FOUR, MULTI),
    "34B": (YI, "plain chatml_direct", "zero3 zero3", "8x1 4x1", FOUR, MULTI),
}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = "gpu{} slots=8\n"
    Path("hostfile").write_text("".join(node.format(k) for k in range(2)))
    Path("hostfile_4").write_text("# four\n" + "".join(node.format(k) for k in range(4)))


def settings(name: str, text: str) -> dict[str, dict]:
    """The stages' settings of a script, adopted and read back."""
    recipe = adopted(scripts.write(Path(f"{name}.sh"), text), Path("out.yaml"))[1]
    return {stage: dict(one.settings) for stage, one in recipe.stages.items()}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_rows_of_their_table(size):
    language, versions, zero, batch, launcher, changes = PUBLISHED[size]
    text = scripts.mgm(
        language, versions.split(), zero.split(), batch.split(), launcher=launcher, **changes
    )
    found = settings(f"stage_1_2_{size}", text)
    for number, stage in enumerate(("align", "instruct")):
        made = found[stage]
        template = versions.split()[number].replace("mistral_instruct", "mgm_mistral_instruct")
        rate = (1e-3, float(changes.get("learning_rate", 2e-5)))[number]
        optimiser = {"lr": rate, "schedule": "cosine", "warmup_ratio": 0.03, "weight_decay": 0}
        assert {key: made["optimiser"][key] for key in optimiser} == optimiser
        assert made["template"] == template
        assert made["batch"] == (256, 128)[number]
        assert made["micro_batch"] == int(batch.split()[number].partition("x")[0])
        assert made["save_every_samples"] == (24000 * 256, 1000 * 128)[number]
        assert (made["max_length"], made["epochs"], made["seed"]) == (2048, 1, 42)
        assert made["parallel"] == zero.split()[number]
        assert made.get("tokenizer") == (None if size in ("2B", "8B") else "slow")
    first, second = found["align"], found["instruct"]
    assert (first["train"], second["train"]) == ("align", "instruct")
    assert (first.get("group"), second["group"]) == (None, "mgm")
    assert second["model"] == "$align"
    assert (first["model"]["image_aspect_ratio"], second["image_aspect_ratio"]) == ("square", "pad")
    assert second["optimiser"].get("lr_multi") == (
        {"model.mm_projector": 2, "model.vlm_uni": 2} if "lr_multi" in changes else None
    )
    spec = {key: first["model"][key] for key in ("family", "language", "image_size_high")}
    assert spec == {"family": "mgm", "language": language, "image_size_high": 768}
    assert (first["model"]["drop_path"], first["model"]["select_layer"]) == (0.1, -2)


@pytest.mark.parametrize(("size", "language", "gpus"), [("2B", GEMMA, 32), ("7B", VICUNA, 32)])
def test_hd_begins_with_the_parts_and_the_connector_of_the_336_pixels(size, language, gpus):
    version = "gemma" if size == "2B" else "v1"
    text = scripts.mgm(
        language, ("", version), ("", "zero2"), ("1x1", "4x1"), launcher=FOUR, hd=True
    )
    made = settings(f"stage_2_{size}", text)["instruct"]
    model = made["model"]
    assert (model["image_size_high"], model["image_grid"], model["image_global"]) == (1536, 2, True)
    assert model["connector_weights"] == "work_dirs/MGM-Pretrain/mm_projector.bin"
    assert (made["batch"], made["micro_batch"], made["max_length"]) == (4 * gpus, 4, 4096)
    assert (model["image_aspect_ratio"], made["template"]) == ("pad", version)


def test_another_model_in_stage_2_takes_the_connector_alone():
    text = scripts.mgm(
        VICUNA, ("plain", "v1"), ("zero2", "zero2"), ("16x1", "8x1"), drop_path="False"
    )
    found = settings("stage_1_2_nodp", text)
    assert found["align"]["model"]["drop_path"] == 0.1
    assert found["instruct"]["model"]["drop_path"] == 0
    assert found["instruct"]["model"]["connector_weights"] == "$align/mm_projector.bin"
    assert found["align"]["export"] == "both"
    assert found["instruct"]["batch"] == "auto"
    assert found["instruct"]["accumulation"] == 1


def test_llava_as_published():
    both = scripts.llava("pretrain") + scripts.llava("finetune")
    found = settings("both", both)
    first, second = found["align"], found["instruct"]
    assert first["model"]["family"] == "llava"
    assert "vision_high" not in first["model"]
    assert (first["micro_batch"], second["micro_batch"]) == (32, 16)
    assert (first["optimiser"]["lr"], second["optimiser"]["lr"]) == (1e-3, 2e-5)
    assert (first["template"], second["template"]) == ("plain", "v1")
    assert (second["model"], second["group"], second["tokenizer"]) == ("$align", "llava", "slow")
    assert second["parallel"] == "zero3"
    lora = settings("lora", scripts.llava("finetune_lora"))["instruct"]
    assert lora["lora"] == {"rank": 128, "alpha": 256, "dropout": 0.05, "bias": "none",
                            "targets": "all_linear"}  # fmt: skip
    assert lora["optimiser"]["lr_parts"] == {"mm_projector": 2e-5}
    assert (lora["optimiser"]["lr"], lora["train"]) == (2e-4, ["connector", "language"])
    assert (
        lora["model"]["connector_weights"] == "checkpoints/llava-v1.5-13b-pretrain/mm_projector.bin"
    )


def test_better_synth_is_the_published_recipe_behind_its_data():
    path = scripts.write(Path("toolkit/train_mgm_2b_stage_1.sh"), scripts.better_synth())
    made, recipe = adopted(path, Path("kit.yaml"))
    ours = load_recipe(Path(__file__).parents[2] / "recipes/better_synth/published.yaml")
    assert list(recipe.stages) == ["align", "instruct", "score", "report"]
    for name in recipe.stages:
        assert typed(recipe, name) == typed(ours, name), name
    assert not made.notes
    data = recipe.stages["align"].settings["data"][0]
    assert data["path"] == "input/pretrain_stage_1_10k/mgm_pretrain_stage_1_10k.jsonl"
    assert data["image_root"] == "input/pretrain_stage_1_10k"


def typed(recipe, name):
    """A stage's whole configuration, but for where its data come from."""
    stage = recipe.stages[name]
    told = {key: value for key, value in stage.settings.items() if key not in ("kind", "needs")}
    made = build(find_kind(stage.kind).config_class(), told, lambda *keys: str(keys))
    if name != "align":
        return made
    part = replace(made.data[0], path="", image_root=None)
    return replace(made, data=(part,))


def test_the_editable_block_is_the_contestants_and_the_rest_is_noted():
    text = scripts.better_synth(
        EXP_NAME="try_3", PRETRAIN_DATASET="/data/mine.jsonl", PRETRAIN_BATCH_SIZE_PER_GPU="8",
        PRETRAIN_GRADIENT_ACCUMULATION_STEPS="16", CKPT_SAVE_STEPS="50", INFER_CUDA_IDX='"0,1"',
    )  # fmt: skip
    path = scripts.write(Path("toolkit/train_gemma_v2b_336_hr_768_stage_1.sh"), text)
    made, recipe = adopted(path, Path("kit.yaml"))
    align = recipe.stages["align"].settings
    assert recipe.name == "better_synth_try_3"
    assert (align["micro_batch"], align["accumulation"]) == (8, 16)
    assert align["expect_global_batch"] == 256
    assert align["save_every_samples"] == 50 * 256
    assert align["data"][0]["path"] == "/data/mine.jsonl"
    assert not made.notes
    changed = text.replace("--learning_rate 1e-3", "--learning_rate 5e-4")
    changed = changed.replace("MAX_SAMPLE_NUM=200000", "MAX_SAMPLE_NUM=400000")
    made, recipe = adopted(scripts.write(path, changed), Path("kit.yaml"))
    assert recipe.stages["align"].settings["optimiser"]["lr"] == 5e-4
    assert recipe.stages["align"].settings["data"][0]["at_most"] == 400000
    assert sorted(made.notes) == [
        "not comparable: stage align: learning_rate is 0.0005, in the kit 0.001",
        "not comparable: the largest number of rows is 400000, in the kit 200000",
    ]
    made, recipe = adopted(
        path, Path("kit.yaml"), EXP_NAME="again", FINETUNE_BATCH_SIZE_PER_GPU="2"
    )
    assert recipe.name == "better_synth_again"
    assert recipe.stages["instruct"].settings["micro_batch"] == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--version gemma", "--verson gemma", r"kit.sh:\d+: --verson is no .* mean 'version'"),
        ("--bf16 True", "--bf16 maybe", r"kit.sh:\d+: --bf16 is 'maybe': take True or False"),
        ("--learning_rate 1e-3", "--learning_rate", r"kit.sh:\d+: --learning_rate has no value"),
        ("--image_size_aux $AUX_SIZE", "--image_size_aux $AUX_SZE",
         r"--image_size_aux is made of \$AUX_SZE, which the script does not set; give AUX_SZE="),
        ("--lr_scheduler_type \"cosine\"", "--lr_scheduler_type cosin", r"'cosin' is no schedule"),
        ("--tf32 True", "--tf32 True --neftune_noise_alpha 5", "is not possible here: no noise"),
        ("check_sample_number.py", "check_samples.py", r"kit.sh: calls no check_sample_number.py"),
        ("MAX_SAMPLE_NUM=200000", "MAX_SAMPLE_NUM=many", "'many' is no number of rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_line(old, new, said):
    text = scripts.better_synth()
    assert old in text
    path = scripts.write(Path("kit.sh"), text.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        adopt_file(path)


def test_a_bare_argument_list_is_a_recipe_of_its_own():
    given = {
        "model_name_or_path": "llm", "version": "v1", "vision_tower": "clip",
        "data_path": "d.json", "output_dir": "./runs of/My Run", "deepspeed": "my.json",
        "max_steps": "10", "num_gpus": "4", "freeze_mm_mlp_adapter": "True", "bits": "4",
        "lora_enable": "True", "report_to": "none",
    }  # fmt: skip
    Path("my.json").write_text(json.dumps({
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        "train_batch_size": "auto", "bf16": {"enabled": "auto"},
    }))  # fmt: skip
    made = adopt_file(Path("llava/train/train_mem.py"), given)
    check_origins(made)
    tree = made.tree
    stage = tree["stages"]["instruct"]
    assert tree["name"] == "My_Run"
    assert (stage["steps"], stage["batch"], stage["parallel"]) == (10, 32, "zero2_offload")
    assert (stage["train"], stage["quantise"]) == (["language"], "4bit")
    assert (
        stage["optimiser"] | {"lr": 5e-5, "schedule": "linear", "warmup_ratio": 0}
        == stage["optimiser"]
    )
    assert (stage["max_length"], stage["precision"], stage["tf32"]) == (512, "fp32", False)
    assert stage["model"]["select_layer"] == -1
    assert stage["model"]["connector"] == "linear"
    assert any("untrained connector" in note for note in made.notes)
    with pytest.raises(RecipeError, match=r"lerning_rate: neither .*did you mean 'learning_rate'"):
        adopt_file(Path("llava/train/train_mem.py"), {**given, "lerning_rate": "1"})
    with pytest.raises(RecipeError, match="--vision_tower_aux is Mini-Gemini's argument alone"):
        adopt_file(scripts.write(Path("x.sh"), scripts.command(
            "llava/train/train_mem.py", {"vision_tower_aux": "a"})))  # fmt: skip


def test_a_model_that_sees_already_goes_on_as_a_whole():
    text = scripts.command("llava/train/train_mem.py", {
        "model_name_or_path": "liuhaotian/llava-v1.5-13b", "version": "v1",
        "data_path": "d.json", "vision_tower": "clip", "output_dir": "out",
    })  # fmt: skip
    made = settings("task", text)["instruct"]
    assert (made["model"], made["image_aspect_ratio"]) == ("liuhaotian/llava-v1.5-13b", "square")
