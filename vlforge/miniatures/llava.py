"""LLaVA-1.5 in small, as its scripts expect it: playground/data, and models by their names."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.benchmarks import (
    eval_scenes,
    write_mmbench,
    write_pope,
    write_textvqa,
)
from vlforge.miniatures.config import MiniatureConfig
from vlforge.miniatures.llava_data import MIX_NAME, write_mix, write_pretrain
from vlforge.miniatures.parts.clip import write_clip
from vlforge.miniatures.parts.llama import write_vicuna


def write(folder: Path, config: MiniatureConfig) -> None:
    """The whole folder; `lmsys/vicuna-7b-v1.5` is found as a path, as its hub's name is."""
    seed, data = int(config.seed), folder / "playground/data"
    write_pretrain(data / "LLaVA-Pretrain", seed, config.rows)
    write_mix(data / MIX_NAME, data, seed, config.rows)
    asked = data / "eval"
    write_textvqa(asked / "textvqa", eval_scenes(seed, 6, has_word=True))
    write_mmbench(asked / "mmbench/mmbench_dev_20230712.tsv", eval_scenes(seed, 4, skip=500))
    write_pope(asked / "pope", asked / "pope/val2014", eval_scenes(seed, 3, skip=700))
    write_clip(folder / "openai/clip-vit-large-patch14-336", seed)
    write_vicuna(folder / "lmsys/vicuna-7b-v1.5", seed)
