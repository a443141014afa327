"""XTuner's commands, typed as its users do; both trainings run in tests/kits."""

import json
import shlex

import pytest
from safetensors.torch import load_file
from torch import load

from tests.checkpoints import tiny_xtuner
from tests.inference.tiny import tiny_tokenizer
from vlforge.cli.familiar.every import translate
from vlforge.cli.familiar.old import take_apart
from vlforge.cli.familiar.xtuner import COMMANDS
from vlforge.cli.start import main
from vlforge.types import RecipeError

PRETRAIN = "llava_internlm2_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"
CHAT = (
    "--max-new-tokens 2048 --temperature 0.1 --top-k 40 --top-p 0.75 --repetition-penalty 1.0 "
    "--seed 0"
)
CONFIG = """
from xtuner.model import LLaVAModel
from xtuner.utils import PROMPT_TEMPLATE
template = PROMPT_TEMPLATE.vicuna
model = dict(
    type=LLaVAModel, freeze_llm=True, freeze_visual_encoder=True,
    llm=dict(pretrained_model_name_or_path='./run/llm'),
    llm_lora=dict(r=3, lora_alpha=6), visual_encoder_lora=dict(r=2, lora_alpha=5),
    visual_encoder=dict(pretrained_model_name_or_path='./run/clip'))
prompt_template = template
train_dataloader = dict(batch_size=2, dataset=dict(
    type=LLaVADataset, data_path='a.json', image_folder='images',
    template_map_fn=dict(template=template), max_length=40, pad_image_to_square=True))
optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
train_cfg = dict(max_epochs=1)
"""


def ours(line):
    return [shlex.join(words) for words in translate(take_apart(shlex.split(line))).commands]


def notes(line):
    return " ".join(translate(take_apart(shlex.split(line))).notes)


@pytest.fixture
def gpus(monkeypatch):
    def there(count):
        monkeypatch.setattr("vlforge.data.machine.visible_gpus", lambda: ["0"] * count)

    there(8)
    return there


def test_training_is_adopted_and_trained_where_xtuner_would_put_it(gpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "NPROC_PER_NODE=8 xtuner train configs/mine.py --deepspeed deepspeed_zero2"
    assert ours(line) == [
        "adopt configs/mine.py NPROC_PER_NODE=8 deepspeed=deepspeed_zero2 -o runs/mine.yaml",
        "train runs/mine.yaml --out work_dirs/mine",
    ]
    more = f"{line} --seed 4 --work-dir w --cfg-options a.b=1 c=[1,2] --resume w/iter_5.pth"
    assert ours(more) == [
        "adopt configs/mine.py a.b=1 'c=[1,2]' NPROC_PER_NODE=8 deepspeed=deepspeed_zero2 "
        "randomness.seed=4 -o runs/mine.yaml",
        "train runs/mine.yaml --out w",
    ]
    assert "goes on from its last checkpoint" in notes(more)
    gpus(2)
    assert "8 GPUs asked for and 2 here" in notes(line)
    script = "torchrun --nproc_per_node=2 xtuner/tools/train.py mine.py --launcher pytorch"
    assert ours(script)[0] == "adopt mine.py NPROC_PER_NODE=2 -o runs/mine.yaml"
    gpus(4)
    assert ours(script)[1].endswith("--processes 2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("NNODES=2 NPROC_PER_NODE=8 xtuner train c.py", r"torchrun --nnodes 2 --nproc_per_node 8"),
        ("xtuner train", "xtuner train takes CFG; given: nothing"),
        ("xtuner train c.py --deepsped x", "has no --deepsped; did you mean 'deepspeed'"),
        ("xtuner train c.py --work-dir", "--work-dir has no value"),
        ("xtuner train c.py --resume old.pth", r"--resume old.pth: the optimiser in XTuner's"),
        ("xtuner convert pth_to_hf PRETRAIN w/iter_9.pth out", "no such checkpoint, and w is no"),
        ("xtuner convert pth_to_hf PRETRAIN old.pth out --save-format x", "--save-format x: xtun"),
        ("xtuner chat llm --lagent", "--lagent: agents are not"),
        ("xtuner chat llm --system-template coder", "--system-template coder: give its words"),
        ("xtuner chat llm --bits 3", "--bits 3: 4 or 8"),
        ("xtuner mmbench llm", "needs --data-path"),
        ("xtuner mmbenhc llm", "xtuner mmbenhc: .*did you mean 'mmbench'"),
        ("python convert_xtuner_weights_to_hf.py --text_model_id a", "needs --vision_model_id"),
    ],
)
def test_what_cannot_be_says_why(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pth").write_bytes(b"")
    with pytest.raises(RecipeError, match=said):
        translate(take_apart(shlex.split(line.replace("PRETRAIN", PRETRAIN))))


def test_chat_and_mmbench_keep_every_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/clip-tiny").mkdir(parents=True)
    words = "llm --visual-encoder openai/clip-tiny --llava hf --prompt-template gemma"
    shared = "--llava hf --visual-encoder models/clip-tiny"
    assert ours(f"xtuner chat {words} --image a.jpg --bits 4 --torch-dtype bf16") == [
        f"chat llm {shared} --prompt-template xtuner_gemma --image a.jpg {CHAT} --precision bf16 "
        "--quantise 4bit"
    ]
    more = "--stop-words 'a b' c --visual-select-layer -1 --system Hi --top-k 5 --no-streamer"
    assert ours(f"xtuner chat llm {more}") == [
        "chat llm --visual-select-layer -1 --stop-words 'a b' --stop-words c --system Hi "
        f"{CHAT.replace('--top-k 40', '--top-k 5')} --precision fp16"
    ]
    assert ours(f"xtuner mmbench {words} --data-path T.tsv --work-dir W --torch-dtype fp32") == [
        f"eval run llm {shared} --prompt-template xtuner_gemma --benchmark mmbench --questions "
        "T.tsv --prompt xtuner --protocol xtuner --max-new-tokens 100 --precision fp32 --out W",
        "eval export W mmbench W/mmbench_result.xlsx --as xtuner",
    ]
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/config.json").write_text('{"torch_dtype": "bfloat16"}')
    assert ours("xtuner chat llm --torch-dtype auto")[0].endswith("--precision bf16")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What a run of XTuner left, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    run = tiny_xtuner.run(tmp_path / "run")
    tiny_tokenizer().save_pretrained(run.llm)
    tiny_xtuner.write_pth(tmp_path / "iter_9.pth", run)
    tiny_xtuner.forget_foreign()
    (tmp_path / "mine.py").write_text(CONFIG)
    return run


def test_checkpoints_of_xtuner_are_converted_and_merged(trained, tmp_path, capsys):
    def typed(line):
        assert main(["compat", *shlex.split(line)]) == 0, capsys.readouterr().err

    typed("xtuner convert pth_to_hf mine.py iter_9.pth hf --safe-serialization")
    assert {str(t.dtype) for t in load_file("hf/llm_adapter/adapter_model.safetensors").values()} \
        == {"torch.float16"}  # fmt: skip
    assert {str(t.dtype) for t in load_file("hf/projector/model.safetensors").values()} \
        == {"torch.float32"}  # fmt: skip
    typed("xtuner convert pth_to_hf mine.py iter_9.pth hf32 --fp32 --max-shard-size 1MB")
    kept = load("hf32/llm_adapter/adapter_model.bin", weights_only=True)
    assert {str(tensor.dtype) for tensor in kept.values()} == {"torch.float32"}
    typed("xtuner convert merge run/llm hf/llm_adapter llm --safe-serialization")
    merged = load_file("llm/model.safetensors")
    assert {str(tensor.dtype) for tensor in merged.values()} == {"torch.float16"}
    typed("xtuner convert merge run/clip hf/visual_encoder_adapter clip --is-clip "
          "--safe-serialization")  # fmt: skip
    assert {str(tensor.dtype) for tensor in load_file("clip/model.safetensors").values()} == {
        "torch.float32"
    }
    (tmp_path / "alone").mkdir()
    (tmp_path / "hf/projector").rename(tmp_path / "alone/projector")
    typed("python convert_xtuner_weights_to_llava.py --text_model_id llm --vision_model_id clip "
          "--projector_weight alone/projector/model.safetensors --save_path whole")  # fmt: skip
    assert json.loads((tmp_path / "whole/config.json").read_text())["mm_projector_type"]
    (tmp_path / "alone/projector").rename(tmp_path / "hf/projector")
    with pytest.raises(RecipeError, match="vlforge merge LLM hf whole2 --vision CLIP"):
        ours("python convert_xtuner_weights_to_hf.py --text_model_id llm --vision_model_id clip "
             "--projector_weight hf/projector/model.safetensors --save_path whole2")  # fmt: skip


def test_configurations_are_listed_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compat", "xtuner", "list-cfg", "-p", "internlm2_chat_20b"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("llava_internlm2_chat_20b") == 3
    assert main(["compat", "xtuner", "copy-cfg", PRETRAIN, "."]) == 0
    assert (tmp_path / f"{PRETRAIN}_copy.yaml").read_text().startswith(f"# From {PRETRAIN}.py")
    assert main(["list", "configs", "llava_x"]) == 2


@pytest.mark.parametrize(
    "line",
    [
        "python xtuner/tools/process_untokenized_llava_data.py mine.py --save-folder d",
        "python zero_to_fp32.py iter_9.pth out",
        "xtuner convert split a b",
    ],
)
def test_what_is_not_needed_says_so_in_one_line(line, capsys):
    assert main(["compat", *line.split()]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("note: nothing to ")
    assert len(said.err.splitlines()) == 1


def test_rows_of_the_table_run_as_they_stand():
    assert len(COMMANDS) == 15
    for one in COMMANDS:
        assert one.fits(take_apart(shlex.split(one.old)))
