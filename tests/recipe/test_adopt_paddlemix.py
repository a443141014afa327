"""PaddleMIX's JSON becomes a recipe: published values, what is frozen, fates, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest

from tests import tiny_qwen
from tests.recipe.adopting import adopted
from vlforge.cli.recipes import shipped_folder
from vlforge.recipe.adopt.paddlemix_keys import DEFAULTS, IDLE, LEFT, ONLY
from vlforge.recipe.adopt.paddlemix_names import learning, names
from vlforge.recipe.adopt.systems import adopt_file
from vlforge.recipe.load import load_recipe
from vlforge.recipe.typed import build
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze
from vlforge.training.schedules import Schedule
from vlforge.types import RecipeError


def entry(name):
    return [{"name": "chatml_dataset", "data_files": name, "chat_template": "chat_template.json"}]


SHARED = {
    "model_name_or_path": "weights/mgen-vl-chat-7b", "freeze_include": ["*visual*"],
    "freeze_exclude": ["*visual.attn_pool*"],
    "dataset": {"train": entry("data/train.json"), "eval": entry("data/val.json")},
    "mixtoken": False, "output_dir": "./checkpoints/ad_lora", "overwrite_output_dir": True,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16,
    "per_device_eval_batch_size": 1, "eval_accumulation_steps": 16, "num_train_epochs": 1,
    "learning_rate": 1e-05, "weight_decay": 0.1, "adam_beta2": 0.95, "warmup_ratio": 0.01,
    "lr_scheduler_type": "cosine", "logging_steps": 1, "save_steps": 100,
    "evaluation_strategy": "epoch", "save_strategy": "steps", "max_length": 2048, "fp16": True,
    "fp16_opt_level": "O2", "do_train": True, "do_eval": True, "disable_tqdm": True,
    "load_best_model_at_end": False, "eval_with_do_generation": False,
    "skip_memory_metrics": False, "save_total_limit": 2, "tensor_parallel_degree": 1,
    "sharding_parallel_degree": 1, "sharding": "stage2", "pipeline_parallel_degree": 1,
}  # fmt: skip
LORA = SHARED | {
    "lora": True, "lora_rank": 64, "lora_alpha": 16, "lora_dropout": 0.05,
    "lora_target_modules": [".*attn.c_attn.*", ".*attn.c_proj.*", ".*mlp.w1.*", ".*mlp.w2.*"],
}  # fmt: skip
FULL = SHARED | {"lora": False}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Puts arguments into a JSON of the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(arguments, **more):
        path = tmp_path / "theirs.json"
        path.write_text(json.dumps(arguments | more, indent=2))
        return path

    return write


def stage(path, out="ours.yaml", **changes):
    made, recipe = adopted(path, path.with_name(out), **changes)
    return made, recipe.stages["tune"].settings


@pytest.mark.parametrize(
    ("arguments", "shipped"), [(LORA, "ad_captions.yaml"), (FULL, "ad_captions_full.yaml")]
)
def test_a_stage_is_the_shipped_recipes(written, arguments, shipped):
    _, ours = stage(written(arguments))
    theirs = dict(load_recipe(shipped_folder() / shipped).stages["tune"].settings)
    assert (ours["batch"], ours["accumulation"]) == ("auto", theirs["batch"])
    own = ("batch", "accumulation", "expect_global_batch", "model", "data", "parallel",
           "keep_last")  # fmt: skip
    for name in set(theirs) - set(own):
        shown, wanted = (
            sorted(one) if name == "train" else one for one in (ours[name], theirs[name])
        )
        assert shown == wanted, name
    added = {"precision", "keep_last", "evaluate", "seed", "batch", "accumulation", "data", "model"}
    assert set(ours) - set(theirs) <= added


def test_the_ten_rates_are_those_that_the_sample_logged(written):
    _, ours = stage(written(LORA, max_steps=10, save_steps=10))
    settings = build(Optimiser, ours["optimiser"], lambda *keys: "here")
    run = Schedule(settings, ours["steps"])
    rates = [settings.lr * run.factor(step) for step in range(1, 11)]
    assert rates == pytest.approx(
        [9.755e-06, 9.045e-06, 7.939e-06, 6.545e-06, 5e-06, 3.455e-06, 2.061e-06, 9.549e-07,
         2.447e-07, 0.0], rel=5e-4, abs=1e-12,
    )  # fmt: skip
    assert (run.warmup, ours["save_every_samples"], "epochs" in ours) == (0, 160, False)


@pytest.mark.parametrize("arguments", [LORA, FULL])
def test_every_argument_is_used_or_left_with_a_reason(written, arguments):
    made, _ = stage(written(arguments))
    words = set(re.findall(r"\w+", " ".join(made.origins.values())))
    left = {one.key for one in made.unused}
    assert set(arguments) <= words | left
    assert all(one.why for one in made.unused)


def test_every_argument_has_one_fate_and_refusals_have_a_remedy():
    assert not set(DEFAULTS) & set(LEFT)
    assert set(IDLE) <= set(DEFAULTS)
    assert set(ONLY) <= set(LEFT)
    assert all(why or key in ONLY for key, why in LEFT.items())


def test_names_of_weights_are_the_models():
    ours = {name for name, _ in tiny_qwen.model().named_parameters()}
    known = {name for _, name in names()}
    assert {name for name in known if not re.search(r"\.([2-9]|\d\d)\.", name)} == ours


@pytest.mark.parametrize(
    ("include", "exclude", "told"),
    [
        (["*visual*"], ["*visual.attn_pool*"], [r"connector\.attn_pool\.", "language"]),
        ([], [], ["vision", "connector", "language"]),
        (["*visual*"], [], ["language"]),
        (["*"], ["lm_head*", "*ln_f*"], [r"language\.transformer\.ln_f\.",
         r"language\.lm_head\."]),
        (["*visual.vit*", "transformer*", "lm_head*"], ["*.h.31.*"],
         ["connector", r"language\.transformer\.h\.31\."]),
        (["*"], ["visual.proj"], [r"connector\.proj$"]),
        (["*"], ["*h.0.mlp.w?.weight"], [r"language\.transformer\.h\.0\.mlp\.w1\.",
         r"language\.transformer\.h\.0\.mlp\.w2\."]),
    ],
)  # fmt: skip
def test_patterns_over_their_names_become_what_learns(include, exclude, told):
    assert learning(include, exclude) == told


def test_what_learns_is_found_in_a_model(written):
    _, ours = stage(written(FULL))
    learns = freeze(tiny_qwen.model(), ours["train"], ("vision", "connector", "language"))
    assert any(name.startswith("connector.attn_pool.") for name in learns)
    assert "language.lm_head.weight" in learns
    assert not any(name.startswith(("vision", "connector.proj", "connector.ln")) for name in learns)


def test_with_lora_the_resampler_ends_frozen_and_says_so(written):
    made, ours = stage(written(LORA))
    assert ours["train"] == ["language"]
    why = {one.key: one.why for one in made.unused}
    assert "the resampler neither" in why["freeze_exclude"]


def test_other_settings_find_ours(written):
    made, ours = stage(
        written(LORA, mixtoken=True, sharding="stage3 offload", sharding_parallel_degree=4,
                lr_scheduler_type="polynomial", warmup_steps=7, recompute=True, bf16=True,
                fp16=False, evaluation_strategy="steps", eval_steps=5, max_evaluate_steps=3,
                report_to=["visualdl"], load_best_model_at_end=True, max_grad_norm=0.5,
                lora_target_modules=[".*transformer.llm.h.*c_attn.*"], num_train_epochs=2.5),
    )  # fmt: skip
    assert (ours["pack"], ours["pack_length"]) == ("isolated", 2048)
    assert (ours["parallel"], ours["checkpointing"]) == ("zero3_offload", ["vision", "language"])
    assert ours["optimiser"] == {
        "lr": 1e-5, "schedule": "polynomial", "warmup_steps": 7, "min_lr": 1e-7, "power": 1.0,
        "weight_decay": 0.1, "betas": [0.9, 0.95], "max_grad_norm": 0.5, "groups": "paddle",
    }  # fmt: skip
    assert ours["evaluate"] == {"data": "data/val.json", "rows": 3, "every_samples": 80}
    assert (ours["trackers"], ours["keep_best"], ours["epochs"]) == (["tensorboard"], True, 2.5)
    assert ours["lora"]["targets"] == [".*transformer.h.*c_attn.*"]
    assert any("mixtoken: each of the 16 rows" in note for note in made.notes)


def test_processes_that_share_a_row_are_shared_out_over(written):
    made, ours = stage(written(FULL, tensor_parallel_degree=2, pipeline_parallel_degree=2))
    assert (ours["parallel"], ours["accumulation"]) == ("fsdp2", 4)
    assert "over the 4 processes" in made.origins["stages.tune.accumulation"]
    with pytest.raises(RecipeError, match="give a multiple of 3"):
        adopt_file(written(FULL, tensor_parallel_degree=3))


def test_what_is_left_out_has_the_trainers_default(written):
    few = {key: LORA[key] for key in ("model_name_or_path", "dataset", "output_dir")}
    made, ours = stage(written(few, learning_rate=3e-5))
    assert (ours["micro_batch"], ours["accumulation"], ours["epochs"]) == (8, 1, 1)
    assert ours["optimiser"]["schedule"] == "paddle_linear"
    assert ours["precision"] == "fp32"
    assert ours["train"] == ["vision", "connector", "language"]
    assert made.origins["stages.tune.micro_batch"].startswith("default of PaddleNLP")


def test_a_chat_template_that_is_there_is_held_to_chatml(written, tmp_path):
    path = written(LORA)
    turns = ["<|im_start|>user\n{{user}}<|im_end|>\n", "<|im_start|>assistant\n{{bot}}<|im_end|>\n"]
    beside = tmp_path / "chat_template.json"
    beside.write_text(json.dumps({"conversation": turns}))
    made, _ = stage(path)
    assert made.origins["stages.tune.template"] == "theirs.json:14 chat_template"
    beside.write_text(json.dumps({"conversation": ["Q: {{user}}", "A: {{bot}}"]}))
    with pytest.raises(RecipeError, match="only ChatML"):
        adopt_file(path)
    beside.write_text("{")
    with pytest.raises(RecipeError, match=r"chat_template\.json: no chat template"):
        adopt_file(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"lora_rnak": 8}, "unknown argument 'lora_rnak'; did you mean 'lora_rank'"),
        ({"learning_rate": "fast"}, "theirs.json:33: learning_rate is 'fast'; give a number"),
        ({"do_train": False}, "do_train is False; nothing would train"),
        ({"lora_path": "old"}, "merge it first"),
        ({"lr_scheduler_type": "cosin"}, "it is not there; did you mean 'cosine'"),
        ({"bf16": True}, "bf16 is true, too"),
        ({"lora_target_modules": None}, "lora needs lora_target_modules"),
        ({"sharding": "stage9"}, "give stage1, stage2, stage3"),
        ({"optim": "adafactor"}, "there is adamw"),
        ({"fp16": "yes"}, "give true or false"),
        ({"dataset": {"eval": entry("a")}}, "dataset has no `train`"),
        ({"dataset": {"train": [{"name": "coco_caption"}]}}, "'coco_caption' is not read"),
        ({"model_name_or_path": ""}, "model_name_or_path is missing"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(written, more, said):
    with pytest.raises(RecipeError) as raised:
        adopt_file(written(LORA, **more))
    assert said in str(raised.value)
    assert str(raised.value).startswith("theirs.json:")
    assert "\n" not in str(raised.value)


def test_rows_that_name_their_picture_in_the_text_are_refused(written, tmp_path):
    (tmp_path / "data").mkdir()
    rows = [{"conversations": [["Picture 1: <img>a.jpg</img>\\nwhat", "a cat"]]}]
    (tmp_path / "data/train.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(RecipeError, match=r"train\.json:5: a conversation names its picture"):
        adopt_file(written(LORA))


def test_a_broken_json_says_where(written, tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text('{"model_name_or_path": "m",\n "dataset": [{"name": "chatml_dataset"}],}')
    with pytest.raises(RecipeError, match=r"theirs\.json:2: no valid JSON"):
        adopt_file(path)


def test_an_argument_changed_on_the_command_line_says_so(written):
    made, ours = stage(written(LORA), learning_rate="3e-5", bf16="False")
    assert ours["optimiser"]["lr"] == 3e-5
    assert made.origins["stages.tune.optimiser.lr"] == "command line learning_rate"
    assert {field.name for field in fields(Optimiser)} >= set(ours["optimiser"])
