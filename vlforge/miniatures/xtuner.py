"""XTuner's llava-internlm2-7b in small: data/llava_data, models, MMBench's tables."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.benchmarks import CCBENCH, eval_scenes, write_mmbench
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.llava_data import MIX_NAME, write_mix, write_pretrain
from vlforge.miniatures.parts.clip import write_clip
from vlforge.miniatures.parts.internlm2 import write_internlm2


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole folder, as XTuner's page on preparing data has it."""
    seed, data = int(config.seed), folder / "data/llava_data"
    write_pretrain(data / "LLaVA-Pretrain", seed, config.rows)
    mix = data / "LLaVA-Instruct-150K" / MIX_NAME
    write_mix(mix, data / "llava_images", seed, config.rows)
    write_clip(folder / "models/clip-vit-large-patch14-336", seed)
    write_internlm2(folder / "models/internlm2-chat-7b", seed)
    tables = folder / "data/mmbench"
    write_mmbench(tables / "MMBench_DEV_EN.tsv", eval_scenes(seed, 4))
    unseen = eval_scenes(seed, 4, skip=500)
    write_mmbench(tables / "MMBench_TEST_EN.tsv", unseen, has_answers=False)
    write_mmbench(tables / "MMBench_DEV_CN.tsv", eval_scenes(seed, 4), is_chinese=True)
    write_mmbench(tables / "MMBench_TEST_CN.tsv", unseen, has_answers=False, is_chinese=True)
    chinese = eval_scenes(seed, 4, skip=600)
    write_mmbench(tables / "CCBench.tsv", chinese, is_chinese=True, columns=CCBENCH)
