"""XTuner's LLaVA configurations, files and names, become recipes; nothing of them is run."""

import json
from pathlib import Path

import pytest

from tests.recipe.adopting import adopted, check_origins
from vlforge.recipe.adopt.systems import adopt_file
from vlforge.recipe.adopt.xtuner_built_in import BUILT_INS, NOT_READ
from vlforge.recipe.load import load_recipe
from vlforge.recipe.typed import build
from vlforge.training.config import TrainConfig
from vlforge.types import RecipeError

END = "clip_vit_large_p14_336"
PRETRAIN = f"llava_internlm2_chat_7b_{END}_e1_gpu8_pretrain"
QLORA = f"llava_internlm2_chat_7b_qlora_{END}_lora_e1_gpu8_finetune"
SHIPPED = Path(__file__).parents[2] / "recipes" / "xtuner_llava_internlm2.yaml"
HEAD = """\
import torch
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from peft import LoraConfig
from torch.optim import AdamW
from xtuner.dataset import ConcatDataset, LLaVADataset
from xtuner.dataset.map_fns import llava_map_fn, template_map_fn_factory
from xtuner.engine.hooks import DatasetInfoHook, EvaluateChatHook
from xtuner.model import LLaVAModel
from xtuner.utils import PROMPT_TEMPLATE

llm = 'my/tiny-llm'
root = './data/'
size, patch = 28, 14
rows = 3
epochs = 2
share = 0.1
template = PROMPT_TEMPLATE.qwen_chat
"""
BODY = """\
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=llm)
model = dict(
    type=LLaVAModel, freeze_llm=True, freeze_visual_encoder=True,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=llm),
    llm_lora=dict(type=LoraConfig, r=8, lora_alpha=16, modules_to_save=['embed_tokens']),
    visual_encoder=dict(pretrained_model_name_or_path=f'clip-patch{patch}-{size}'))
text = dict(
    type=LLaVADataset, data_path=root + 'a.json', image_folder=root + 'images',
    dataset_map_fn=llava_map_fn,
    template_map_fn=dict(type=template_map_fn_factory, template=template),
    max_length=int(100 - (size / patch)**2), pad_image_to_square=True, tokenizer=tokenizer)
train_dataloader = dict(
    batch_size=rows, num_workers=4, dataset=text,
    sampler=dict(type=LengthGroupedSampler, length_property='modality_length'))
optim_wrapper = dict(
    type=AmpOptimWrapper, dtype='bfloat16', accumulative_counts=4,
    optimizer=dict(type=AdamW, lr=2e-5, betas=(0.9, 0.95), weight_decay=0.1),
    clip_grad=dict(max_norm=0.5))
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=True, begin=0, end=share * epochs),
    dict(type=CosineAnnealingLR, eta_min=1e-6, begin=share * epochs, T_max=epochs)]
train_cfg = dict(type=TrainLoop, max_epochs=epochs)
custom_hooks = [dict(type=EvaluateChatHook, every_n_iters=9, evaluation_inputs=['What?'])]
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=10),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=50, max_keep_ckpts=3))
log_level = 'INFO'
resume = False
randomness = dict(seed=7, deterministic=False)
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text="", name="mine.py", head=HEAD, body=BODY):
        path = tmp_path / name
        path.write_text(head + body + text)
        return path

    return write


def settings(recipe, stage):
    return dict(recipe.stages[stage].settings)


def test_the_two_configurations_of_internlm2_equal_the_shipped_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_recipe(SHIPPED)
    made, recipe = adopted(Path(QLORA), tmp_path / "ours.yaml", deepspeed="deepspeed_zero2")
    assert any("so its pretraining comes first" in note for note in made.notes)
    alone = adopt_file(Path(PRETRAIN), {"deepspeed": "deepspeed_zero2"})
    for stage in ("align", "instruct"):
        ours = settings(recipe, stage)
        expected = {**settings(shipped, stage), "parallel": "zero2"}
        assert build(TrainConfig, ours, str) == build(TrainConfig, expected, str)
    aligned = {**alone.tree["stages"]["align"], "parallel": "zero2"}
    assert aligned.pop("kind") == "train"
    assert build(TrainConfig, aligned, str) == build(
        TrainConfig, {**settings(shipped, "align"), "parallel": "zero2"}, str
    )


def test_without_deepspeed_the_wrapper_says_the_precision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, recipe = adopted(Path(PRETRAIN), tmp_path / "ours.yaml")
    expected = {**settings(load_recipe(SHIPPED), "align"), "precision": "fp16"}
    assert build(TrainConfig, settings(recipe, "align"), str) == build(TrainConfig, expected, str)


@pytest.mark.parametrize(
    ("name", "batch", "micro", "lr", "lora", "vision", "quantise", "train"),
    [
        (PRETRAIN, 256, 32, 1e-3, None, None, None, "align"),
        (QLORA, 128, 16, 2e-4, (512, 256), (64, 16), "4bit", ["connector", "language", "vision"]),
        (f"llava_internlm2_chat_20b_qlora_{END}_lora_e1_gpu8_finetune", 128, 8, 2e-4, (512, 256),
         (64, 16), "4bit", ["connector", "language", "vision"]),
        (f"llava_internlm2_chat_7b_{END}_e1_gpu8_finetune", 128, 8, 2e-5, None, None, None,
         ["connector", "language"]),
        ("llava_v15_7b_pretrain", 256, 32, 1e-3, None, None, None, "align"),
        ("llava_v15_13b_finetune", 128, 16, 2e-5, None, None, None, ["connector", "language"]),
        ("llava_v15_7b_finetune_lora", 128, 16, 2e-4, (128, 256), None, None,
         ["connector", "language"]),
        (f"llava_llama3_8b_instruct_full_{END}_lora_e1_gpu8_finetune", 128, 8, 2e-5, None, (64, 16),
         None, ["connector", "language", "vision"]),
        (f"llava_llama3_8b_instruct_qlora_{END}_e1_gpu1_finetune", 128, 1, 2e-4, (64, 16), None,
         "4bit", ["connector", "language"]),
        (f"llava_phi3_mini_4k_instruct_full_{END}_full_e2_gpu8_internvl_finetune", 128, 8, 2e-5,
         None, None, None, ["connector", "language", "vision"]),
    ],
)  # fmt: skip
def test_hyper_parameters_by_name(name, batch, micro, lr, lora, vision, quantise, train):
    made = adopt_file(Path(name))
    stage = made.tree["stages"]["instruct" if "instruct" in made.tree["stages"] else "align"]
    assert (stage["batch"], stage["micro_batch"], stage["optimiser"]["lr"]) == (batch, micro, lr)
    for found, wanted in ((stage.get("lora"), lora), (stage.get("vision_lora"), vision)):
        assert (found and (found["rank"], found["alpha"], found["dropout"])) == (
            wanted and (*wanted, 0.05)
        )
    assert stage.get("quantise") == quantise
    assert stage["train"] == train
    assert stage["optimiser"]["warmup_ratio"] == 0.03
    assert stage["optimiser"]["schedule"] == "xtuner"
    assert (stage.get("group") == "xtuner") == (stage["train"] != "align")


def test_every_name_is_a_recipe_whose_settings_are_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BUILT_INS) == 32
    for name in BUILT_INS:
        made = adopt_file(Path(name))
        check_origins(made)
        for stage in made.tree["stages"].values():
            build(TrainConfig, {k: v for k, v in stage.items() if k != "kind"}, str)
    for name in NOT_READ:
        with pytest.raises(RecipeError, match="RefCOCO by a dataset class"):
            adopt_file(Path(name))
    with pytest.raises(RecipeError, match=f"did you mean '{PRETRAIN}'"):
        adopt_file(Path(PRETRAIN[:-1]))


def test_a_file_of_ones_own(config, tmp_path):
    made, recipe = adopted(config(), tmp_path / "ours.yaml", NPROC_PER_NODE="2", NNODES="3")
    ours = settings(recipe, "instruct")
    typed = build(TrainConfig, ours, str)
    assert ours["model"]["language"] == "models/tiny-llm"
    assert ours["data"] == "data/a.json"
    assert typed.batch == typed.expect_global_batch == 3 * 4 * 6
    assert (typed.micro_batch, typed.save_every_samples, typed.keep_last) == (3, 50 * 3 * 6, 3)
    assert typed.max_length == 96 + 4 - 1
    assert (typed.epochs, typed.precision, typed.seed) == (2, "bf16", 7)
    assert typed.optimiser.warmup_ratio == 0.1
    assert (typed.optimiser.min_lr, typed.optimiser.max_grad_norm) == (1e-6, 0.5)
    assert typed.lora is not None
    assert typed.lora.modules_to_save == ("embed_tokens",)
    assert (typed.lora.dropout, typed.lora.targets) == (0.0, "all_linear")
    assert "# mine.py:35 lr" in made.text()
    left = {one.key for one in made.unused}
    assert {"train_dataloader.num_workers", "custom_hooks: EvaluateChatHook", "log_level",
            "default_hooks.logger", "resume", "randomness.deterministic"} <= left  # fmt: skip
    assert not {"rows", "size", "patch", "share", "root", "tokenizer"} & left


def test_changes_go_where_the_name_is_used(config, tmp_path):
    made, recipe = adopted(
        config(), tmp_path / "o.yaml", rows="5", epochs="4", model__freeze_visual_encoder="False",
        optim_wrapper__optimizer__lr="1e-4", param_scheduler__1__eta_min="0", root="other/",
    )  # fmt: skip
    typed = build(TrainConfig, settings(recipe, "instruct"), str)
    assert (typed.micro_batch, typed.epochs, typed.optimiser.lr) == (5, 4, 1e-4)
    assert typed.optimiser.warmup_ratio == 0.1
    assert typed.optimiser.min_lr == "auto"
    assert typed.data == "other/a.json"
    assert "vision" in typed.train
    assert any(note.startswith("rows is changed wherever") for note in made.notes)
    assert "optim_wrapper.optimizer.lr, changed on the command line" in made.text()


def test_another_language_model_is_its_path_and_its_template(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, recipe = adopted(Path(PRETRAIN), tmp_path / "o.yaml", llm_name_or_path="models/llama3",
                           prompt_template="llama3_chat")  # fmt: skip
    ours = settings(recipe, "align")
    assert (ours["model"]["language"], ours["template"]) == ("models/llama3", "llama3_chat")
    assert "tokenizer" not in ours
    assert not any("models/llama3" in note for note in made.notes)


def test_deepspeed_shares_the_model_and_chooses_the_precision(config, tmp_path):
    made, recipe = adopted(config(), tmp_path / "o.yaml", deepspeed="ds.json")
    ours = settings(recipe, "instruct")
    assert (ours["parallel"], ours.get("precision")) == ("ds.json", None)
    assert any(one.key == "optim_wrapper.dtype" for one in made.unused)


def test_what_the_pretraining_left(config, tmp_path):
    pth = "model['pretrained_pth'] = './out/pre/iter_9.pth'\n"
    made, recipe = adopted(config(pth), tmp_path / "o.yaml")
    assert settings(recipe, "instruct")["model"]["connector_weights"] == "out/pre/iter_9.pth"
    assert any("iter_9.pth is not there yet" in note for note in made.notes)

    run = tmp_path / "out" / "pre"
    (run / "01-align.s0").mkdir(parents=True)
    nodes = [{"kind": "train", "folder": "01-align.s0"}, {"kind": "report", "folder": "r"}]
    (run / "graph.json").write_text(json.dumps({"nodes": nodes}))
    made, recipe = adopted(config(pth), tmp_path / "o.yaml")
    assert settings(recipe, "instruct")["model"] == "out/pre/01-align.s0"
    assert "out/pre is a run of VLForge" in made.text()

    (run / "iter_9.pth").write_bytes(b"")
    made, recipe = adopted(config(pth), tmp_path / "o.yaml")
    assert settings(recipe, "instruct")["model"]["connector_weights"] == "out/pre/iter_9.pth"
    assert not any("iter_9.pth" in note for note in made.notes)


def test_a_pretraining_beside_comes_first(config, tmp_path):
    frozen = "model['llm_lora'] = None\ndel tokenizer\n"
    config(frozen, name="pre.py")
    made, recipe = adopted(
        config("model.update(dict(pretrained_pth='./out/pre/iter_9.pth'))\n"), tmp_path / "o.yaml"
    )
    assert list(recipe.stages) == ["align", "instruct"]
    assert settings(recipe, "instruct")["model"] == "$align"
    assert "# mine.py:" in made.text()
    assert "# pre.py:" in made.text()


def test_bases_beside_and_by_name(config, tmp_path):
    config(name="base.py")
    path = config(
        name="top.py", body="",
        head="from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
             "optim_wrapper.update(dict(accumulative_counts=2))\n"
             "train_dataloader['batch_size'] = rows * 2\n",
    )  # fmt: skip
    made, recipe = adopted(path, tmp_path / "o.yaml")
    ours = settings(recipe, "instruct")
    assert (ours["batch"], ours["micro_batch"]) == (12, 6)
    assert "# base.py:18 template" in made.text()
    assert "# top.py:5 batch_size" in made.text()
    named = "from mmengine.config import read_base\nwith read_base():\n"
    named += f"    from xtuner.configs.llava.x.{PRETRAIN} import *\n"
    made = adopt_file(config(name="named.py", head=named, body=""), {"NPROC_PER_NODE": "8"})
    assert made.tree["stages"] == adopt_file(Path(PRETRAIN)).tree["stages"]
    with pytest.raises(RecipeError, match=r"top\.py:3: the base 'absent' is neither"):
        adopt_file(config(name="top.py", body="", head="import xtuner\nwith read_base():\n"
                          "    from .absent import *\n"))  # fmt: skip


def test_the_old_way_of_bases_merges_dictionaries(config, tmp_path):
    config(name="base.py")
    head = "_base_ = ['./base.py']\n# xtuner.\n"
    path = config("train_dataloader = dict(batch_size=9)\n", name="top.py", head=head, body="")
    made = adopt_file(path)
    assert made.get("stages.instruct.micro_batch") == 9
    assert made.get("stages.instruct.data") == "data/a.json"


def test_several_datasets_share_a_stage(config, tmp_path):
    more = (
        "second = dict(**text)\nsecond['data_path'] = 'b.jsonl'\n"
        "second['max_dataset_length'] = 70\n"
        "train_dataloader['dataset'] = dict(type=ConcatDataset, datasets=[text, second])\n"
    )
    _, recipe = adopted(config(more), tmp_path / "o.yaml")
    typed = build(TrainConfig, settings(recipe, "instruct"), str)
    assert [(one.path, one.image_root, one.rows) for one in typed.data] == [
        ("data/a.json", "data/images", None), ("b.jsonl", "data/images", 70),
    ]  # fmt: skip
    with pytest.raises(RecipeError, match=r"mine\.py:\d+ max_length: max_length is 5, and 96 of"):
        adopt_file(config(more.replace("['max_dataset_length'] = 70", "['max_length'] = 5")))


def test_pictures_alone_and_offline_rows(config, tmp_path):
    images = "text['dataset_map_fn'] = llava_image_only_map_fn\n"
    made = adopt_file(config(images))
    assert made.get("stages.instruct.compat") == "xtuner-images"
    offline = "text['offline_processed_text_folder'] = './done'\n"
    made = adopt_file(config(offline))
    assert [one.value for one in made.unused if "offline" in one.key] == ["./done"]
    with pytest.raises(RecipeError, match=r"mine\.py:\d+ offline_processed.*set data_path"):
        adopt_file(config(offline + "text['data_path'] = None\n"))


def test_passes_in_place_of_epochs(config, tmp_path):
    more = (
        "train_cfg = dict(type=IterBasedTrainLoop, max_iters=100)\n"
        "param_scheduler[0].update(dict(by_epoch=False, end=20))\n"
        "optim_wrapper['type'] = OptimWrapper\n"
    )
    _, recipe = adopted(config(more), tmp_path / "o.yaml")
    typed = build(TrainConfig, settings(recipe, "instruct"), str)
    assert (typed.steps, typed.optimiser.warmup_steps, typed.precision) == (25, 5, "fp32")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optim_wrapper['optimizer']['lr'] = rate()\n",
         r"mine\.py:48: lr is `rate\(\)`, which would have to be run; write its value"),
        ("for x in range(3):\n    pass\n", r"mine\.py:48: `for x in range\(3\):` would have to"),
        ("def f():\n    pass\n", r"mine\.py:48: `def f\(\):` would have to be run"),
        ("model['freeze_lm'] = True\n", r"mine\.py:48 freeze_lm: model has no 'freeze_lm'; did you "
         r"mean 'freeze_llm'\?"),
        ("text['data_pth'] = 'a'\n", r"mine\.py:48 data_pth: dataset has no 'data_pth'; did you "
         r"mean 'data_path'"),
        ("text['type'] = MyDataset\n", r"mine\.py:48 type: MyDataset is not read here"),
        ("text['template_map_fn']['template'] = PROMPT_TEMPLATE.qwen_chatt\n",
         r"mine\.py:48 template: no template is called 'qwen_chatt'; did you mean 'qwen_chat'"),
        ("model['type'] = SupervisedFinetune\n",
         r"mine\.py:48 type: a LLaVAModel is read here, not SupervisedFinetune"),
        ("train_dataloader['batch_size'] = 'x'\n", r"mine\.py:48 batch_size: 'x' is not a whole"),
        ("param_scheduler = [dict(type=PolyLR)]\n", r"mine\.py:48 PolyLR|param_scheduler: PolyLR"),
        ("custom_hooks.append(dict(type=MyHook))\n", r"mine\.py:48: the hook 'MyHook' is code"),
        ("optim_wrapper['optimizer']['type'] = Lion\n", r"mine\.py:48 type: the optimiser Lion"),
        ("text['dataset_map_fn'] = oasst1_map_fn\n", r"mine\.py:48 dataset_map_fn: oasst1_map_fn"),
        ("x = (\n", r"mine\.py:\d+: is no Python"),
        ("model.llm.deep.er = 1\n", r"mine\.py:48: `model\.llm\.deep\.er` is not there to be set"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(config, text, said):
    with pytest.raises(RecipeError, match=said):
        adopt_file(config(text))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.frozen": "1"}, "model.frozen, changed on the command line: model has no 'frozen'"),
        ({"modle.freeze_llm": "1"}, "modle.freeze_llm: the configuration has no 'modle'.*'model'"),
        ({"NPROC_PER_NODE": "many"}, "NPROC_PER_NODE=many: give a number from 1"),
        ({"param_scheduler.7.end": "1"}, "has no entry '7' to change"),
    ],
)
def test_a_wrong_change_is_named(config, changes, said):
    with pytest.raises(RecipeError, match=said):
        adopt_file(config(), changes)


def test_nothing_is_run_and_large_sums_are_not_worked_out(config, tmp_path):
    trap = "danger = __import__('os').mkdir('made')\nhuge = 9 ** 9 ** 9\nlong = 'a' * 10 ** 9\n"
    made = adopt_file(config(trap))
    assert not (tmp_path / "made").exists()
    assert {"danger", "huge", "long"} <= {one.key for one in made.unused}


def test_names_that_are_dumped_as_text_are_understood(config, tmp_path):
    """mmengine keeps a configuration with names as texts, as `config.py` of a run."""
    head = HEAD + "LLaVAModel = 'xtuner.model.LLaVAModel'\nAdamW = 'torch.optim.AdamW'\n"
    head += "template = 'xtuner.utils.PROMPT_TEMPLATE.vicuna'\n"
    head += "LLaVADataset = 'xtuner.dataset.LLaVADataset'\n"
    made = adopt_file(config(head=head))
    assert made.get("stages.instruct.template") == "vicuna"
