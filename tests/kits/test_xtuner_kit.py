"""XTuner's LLaVA from its own files, by the commands that its users type."""

import json
import shlex
from pathlib import Path

import pytest

from vlforge.cli.start import main
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.make import make_miniature

pytestmark = pytest.mark.slow

PRETRAIN = "llava_internlm2_chat_7b_clip_vit_large_p14_336_e1_gpu8_pretrain"
FINETUNE = "llava_internlm2_chat_7b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
LLM, CLIP = "internlm/internlm2-chat-7b", "openai/clip-vit-large-patch14-336"
SMALL = "--cfg-options train_dataloader.batch_size=4 optim_wrapper.type=OptimWrapper"
HERE = "--torch-dtype fp32"
"""fp16, XTuner's default, is no CPU's."""


def typed(line, capsys=None):
    """One command line as it was typed; what it said."""
    assert main(["compat", *shlex.split(line)]) == 0, line
    return capsys.readouterr().out if capsys else ""


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """Both stages trained and converted, in the folder that XTuner's page on data describes."""
    folder = tmp_path_factory.mktemp("xtuner") / "kit"
    make_miniature("xtuner", folder, MiniatureConfig(system="xtuner", rows=8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        typed(f"NPROC_PER_NODE=1 xtuner train {PRETRAIN} {SMALL}")
        typed(f"xtuner convert pth_to_hf {PRETRAIN} ./work_dirs/{PRETRAIN}/iter_2181.pth ./pre_hf")
        typed(f"NPROC_PER_NODE=1 xtuner train {FINETUNE} {SMALL} --seed 3 --work-dir work_dirs/ft")
        typed(f"xtuner convert pth_to_hf {FINETUNE} work_dirs/ft/iter_5198.pth ./hf")
        yield folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_stages_are_those_of_the_configurations(kit):
    first, second = (
        json.loads((kit / "work_dirs" / name / "graph.json").read_text())["nodes"]
        for name in (PRETRAIN, "ft")
    )
    assert [node["node"].split(".")[0] for node in first] == ["align"]
    assert [node["node"].split(".")[0] for node in second] == ["instruct"]
    recipe = (kit / "runs" / f"{FINETUNE}.yaml").read_text()
    assert f"model: work_dirs/{PRETRAIN}/01-align.s0" in recipe
    assert "quantise: 4bit" in recipe
    assert "seed: 3" in recipe
    log = (kit / "work_dirs/ft/01-instruct/metrics.jsonl").read_text().splitlines()
    assert len(log) >= 2


def test_pth_to_hf_writes_xtuners_layout(kit):
    assert {"projector/config.json", "projector/pytorch_model.bin"} <= names(kit / "pre_hf")
    assert not (kit / "pre_hf/llm_adapter").exists()
    assert not (kit / "pre_hf/visual_encoder").exists()
    assert {
        "projector/config.json", "projector/pytorch_model.bin",
        "llm_adapter/adapter_config.json", "llm_adapter/adapter_model.bin",
        "visual_encoder_adapter/adapter_config.json", "visual_encoder_adapter/adapter_model.bin",
    } <= names(kit / "hf")  # fmt: skip
    lora = json.loads((kit / "hf/llm_adapter/adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"]) == (512, 256)
    lora = json.loads((kit / "hf/visual_encoder_adapter/adapter_config.json").read_text())
    assert (lora["r"], lora["lora_alpha"]) == (64, 16)


def test_a_merged_model_says_what_the_stage_says(kit, capsys):
    picture = min((kit / "data/llava_data/llava_images/coco").rglob("*.jpg"))
    ask = f"--image {picture} --max-new-tokens 6 --temperature 0 {HERE}"
    typed(f"xtuner convert merge {LLM} hf/llm_adapter llm_merged --device cpu")
    typed(f"xtuner convert merge {CLIP} hf/visual_encoder_adapter clip_merged --is-clip")
    assert "pytorch_model.bin" in names(kit / "clip_merged")
    merged = json.loads((kit / "llm_merged/config.json").read_text())
    assert (merged["model_type"], merged["torch_dtype"]) == ("internlm2", "float16")
    (kit / "alone").mkdir()
    (kit / "hf/projector").rename(kit / "alone/projector")
    capsys.readouterr()
    whole = said(kit, capsys, f"{LLM} --visual-encoder {CLIP} --llava pre_hf {ask}")
    apart = said(kit, capsys, f"llm_merged --visual-encoder clip_merged --llava alone {ask}")
    (kit / "alone/projector").rename(kit / "hf/projector")
    trained = said(kit, capsys, f"{LLM} --visual-encoder {CLIP} --llava hf {ask}")
    assert main(["chat", "work_dirs/ft/01-instruct", "--image", str(picture), "-q", "What?",
                 "--max-new-tokens", "6"]) == 0  # fmt: skip
    stage = capsys.readouterr().out.splitlines()[0]
    assert trained == stage
    assert apart
    assert whole


def said(kit, capsys, words):
    """What `xtuner chat` answers to one question."""
    patch = pytest.MonkeyPatch()
    with patch.context() as on:
        import io

        on.setattr("sys.stdin", io.StringIO("What?\n/quit\n"))
        out = typed(f"xtuner chat {words} --prompt-template internlm2_chat", capsys)
    lines = out.splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("> What?")) + 1]


def test_a_dev_set_prints_scores_and_a_test_set_leaves_the_sheet(kit, capsys):
    from openpyxl import load_workbook

    words = f"--visual-encoder {CLIP} --llava hf --prompt-template internlm2_chat {HERE}"
    for part, has_score in (("DEV", True), ("TEST", False)):
        out = typed(
            f"xtuner mmbench {LLM} {words} --data-path data/mmbench/MMBench_{part}_EN.tsv "
            f"--work-dir scores/{part} --max-new-tokens 8", capsys,
        )  # fmt: skip
        assert ("%" in out) == has_score, out
        book = load_workbook(kit / f"scores/{part}/mmbench_result.xlsx")
        head = [cell.value for cell in next(iter(book.active.iter_rows(max_row=1)))]
        assert head == ["question", *"ABCD", "prediction", "category", "l2-category", "index",
                        "split", "answer"]  # fmt: skip
        assert book.active.max_row > 4


def test_whole_models_leave_for_llava_and_transformers(kit):
    typed(f"xtuner convert pth_to_hf {FINETUNE} work_dirs/ft/iter_5198.pth official "
          "--save-format official --safe-serialization --fp32")  # fmt: skip
    assert json.loads((kit / "official/config.json").read_text())["model_type"].startswith("llava")
    for name, layout in (("llava", "llava"), ("hf", "llava_hf")):
        typed(f"python convert_xtuner_weights_to_{name}.py --text_model_id {LLM} "
              f"--vision_model_id {CLIP} --projector_weight pre_hf/projector/pytorch_model.bin "
              f"--save_path whole_{layout}")  # fmt: skip
        assert "config.json" in names(kit / f"whole_{layout}")


def test_a_dataset_is_checked_and_shown(kit, capsys):
    assert "align" in typed(f"xtuner check-custom-dataset {PRETRAIN}", capsys)
    shown = typed(f"xtuner log-dataset {PRETRAIN} --show all", capsys)
    assert "<|im_start|>" in shown


def test_one_command_runs_both_stages(kit, capsys):
    """A finetuning whose pretraining has not been run brings it along."""
    (kit / "apart").mkdir()
    for name in ("data", "models"):
        (kit / "apart" / name).symlink_to(kit / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(kit / "apart")
        assert main(["plan", FINETUNE]) == 0
        told = capsys.readouterr()
        assert "so its pretraining comes first" in told.err + told.out
        assert "align" in told.out
        assert "instruct" in told.out
        assert Path(f"runs/{FINETUNE}.yaml").is_file()
