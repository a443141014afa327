"""The LLaVA configurations that XTuner ships, by name: what they say, as a table.

Facts of InternLM/xtuner v0.1.23, xtuner/configs/llava. `values_of` lays a row out by the
names that a configuration's file has, so that both are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlforge.recipe.adopt.xtuner_config import Dotted, Said, said_of

WHERE = "XTuner 0.1.23"
CLIP = "openai/clip-vit-large-patch14-336"
LLAVA, SHAREGPT4V, INTERNVL = "llava_data", "sharegpt4v", "internvl_sft"
_MIX = (
    ("sharegpt4v_instruct_gpt4-vision_cap100k.jsonl", "data"),
    ("llava_instruct_150k_zh.jsonl", "data/coco"),
    ("sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.jsonl", "data"),
    ("dvqa_train_200k.jsonl", "data/dvqa"),
    ("chartqa_train_18k.jsonl", "data/chartqa"),
    ("ai2d_train_12k.jsonl", "data/ai2d"),
    ("docvqa_train_10k.jsonl", "data/docvqa"),
    ("geoqa+.jsonl", "data/geoqa+"),
    ("synthdog_en.jsonl", "data/synthdog-en"),
)
"""InternVL's finetuning data: file and picture folder of each."""


@dataclass(frozen=True)
class BuiltIn:
    """One configuration.

    gpus: those of its name, or of the page that tells how to run it.
    rows: of a GPU and pass; count: passes that make a step.
    full: whether the whole language model learns; tower: the whole encoder.
    lora, vision_lora: ranks and alphas.
    """

    llm: str
    template: str
    gpus: int = 8
    data: str = LLAVA
    pretrained: str = ""
    rows: int = 32
    count: int = 1
    lr: float = 1e-3
    epochs: int = 1
    text: int = 1472
    save: int = 500
    four_bits: bool = False
    full: bool = False
    tower: bool = False
    lora: tuple[int, int] | None = None
    vision_lora: tuple[int, int] | None = None


def _table() -> dict[str, BuiltIn]:
    made: dict[str, BuiltIn] = {}
    end = "clip_vit_large_p14_336"
    llms = {
        "internlm2_chat_1_8b": ("internlm/internlm2-chat-1_8b", "internlm2_chat"),
        "internlm2_chat_7b": ("internlm/internlm2-chat-7b", "internlm2_chat"),
        "internlm2_chat_20b": ("internlm/internlm2-chat-20b", "internlm2_chat"),
        "internlm_chat_7b": ("internlm/internlm-chat-7b", "internlm_chat"),
        "vicuna_7b_v15": ("lmsys/vicuna-7b-v1.5", "vicuna"),
        "vicuna_13b_v15": ("lmsys/vicuna-13b-v1.5", "vicuna"),
    }
    for short, (llm, template) in llms.items():
        pretrain = f"llava_{short}_{end}_e1_gpu8_pretrain"
        align = BuiltIn(llm, template, four_bits=True)
        small = (8, 2) if short == "internlm2_chat_20b" else (16, 1)
        made[pretrain] = align
        made[f"llava_{short}_qlora_{end}_lora_e1_gpu8_finetune"] = replace(
            align, pretrained=f"{pretrain}/iter_2181.pth", rows=small[0], count=small[1], lr=2e-4,
            lora=(512, 256), vision_lora=(64, 16),
        )  # fmt: skip
        if short in ("internlm2_chat_7b", "internlm2_chat_20b"):
            rows, count = (8, 2) if short == "internlm2_chat_7b" else (4, 4)
            made[f"llava_{short}_{end}_e1_gpu8_finetune"] = replace(
                align, pretrained=f"{pretrain}/iter_2181.pth", rows=rows, count=count, lr=2e-5,
                full=True, four_bits=False,
            )  # fmt: skip
    return made | _llama_3(end) | _phi_3(end) | _official()


def _llama_3(end: str) -> dict[str, BuiltIn]:
    begin = "llava_llama3_8b_instruct"
    align = BuiltIn("meta-llama/Meta-Llama-3-8B-Instruct", "llama3_chat")
    pretrain = f"{begin}_{end}_e1_gpu8_pretrain"
    more = f"{begin}_{end}_e1_gpu8_sharegpt4v_pretrain"
    quant = f"{begin}_quant_{end}_e1_gpu1_pretrain"
    full = replace(align, pretrained=f"{pretrain}/iter_2181.pth", rows=8, count=2, lr=2e-5,
                   save=1000, full=True)  # fmt: skip
    return {
        pretrain: align,
        more: replace(align, data=SHAREGPT4V, rows=16, count=2, text=3520, save=1000),
        quant: replace(align, gpus=1, rows=1, count=256, save=50000, four_bits=True),
        # Of the 70B by its name; the language model in it is the one of 8B.
        f"llava_llama3_70b_instruct_quant_{end}_e1_gpu8_pretrain": replace(
            align, lr=5e-4, four_bits=True
        ),
        f"{begin}_full_{end}_e1_gpu8_finetune": full,
        f"{begin}_full_{end}_lora_e1_gpu8_finetune": replace(full, vision_lora=(64, 16)),
        f"{begin}_full_{end}_lora_e1_gpu8_internvl_finetune": replace(
            full, data=INTERNVL, pretrained=f"{more}/iter_9742.pth", rows=4, count=4, text=3520,
            save=5000, vision_lora=(64, 16),
        ),
        f"{begin}_qlora_{end}_e1_gpu1_finetune": replace(
            align, gpus=1, pretrained=f"{quant}/558128.pth", rows=1, count=128, lr=2e-4,
            save=50000, four_bits=True, lora=(64, 16),
        ),
    }  # fmt: skip


def _phi_3(end: str) -> dict[str, BuiltIn]:
    begin = "llava_phi3_mini_4k_instruct"
    align = BuiltIn("microsoft/Phi-3-mini-4k-instruct", "phi3_chat")
    pretrain = f"{begin}_{end}_e1_gpu8_pretrain"
    more = f"{begin}_{end}_e1_gpu8_sharegpt4v_pretrain"
    full = replace(align, pretrained=f"{pretrain}/iter_2181.pth", rows=8, count=2, lr=2e-5,
                   save=1000, full=True)  # fmt: skip
    return {
        pretrain: align,
        more: replace(align, data=SHAREGPT4V, rows=16, count=2, text=3520, save=1000),
        f"{begin}_full_{end}_e1_gpu8_finetune": full,
        f"{begin}_full_{end}_full_e2_gpu8_internvl_finetune": replace(
            full, data=INTERNVL, pretrained=f"{more}/iter_9742.pth", epochs=2, text=3520,
            save=5000, tower=True,
        ),
    }  # fmt: skip


def _official() -> dict[str, BuiltIn]:
    """LLaVA 1.5 as LLaVA's own authors trained it."""
    made = {}
    for size in ("7b", "13b"):
        pretrain = f"llava_v15_{size}_pretrain"
        align = BuiltIn(f"lmsys/vicuna-{size}-v1.5", "vicuna")
        tune = replace(align, pretrained=f"{pretrain}/iter_2181.pth", rows=16)
        made[pretrain] = align
        made[f"llava_v15_{size}_finetune"] = replace(tune, lr=2e-5, full=True)
        made[f"llava_v15_{size}_finetune_lora"] = replace(tune, lr=2e-4, lora=(128, 256))
    return made


BUILT_INS: Mapping[str, BuiltIn] = _table()
NOT_READ = {
    "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune_refcoco": (
        "mixes in RefCOCO by a dataset class of XTuner's; convert its rows to LLaVA's json and "
        "name both files in `data` of the configuration without _refcoco"
    ),
}
"""Those that are known and not read, with the reason."""


def values_of(row: BuiltIn) -> dict[str, Said]:
    """What a configuration with these facts would say, by the names of its top."""
    values = {
        "llm_name_or_path": row.llm, "visual_encoder_name_or_path": CLIP,
        "pretrained_pth": f"./work_dirs/{row.pretrained}" if row.pretrained else None,
        "data_root": f"./data/{row.data}/", "batch_size": row.rows,
        "accumulative_counts": row.count, "max_epochs": row.epochs, "lr": row.lr,
        "betas": [0.9, 0.999], "weight_decay": 0, "max_norm": 1, "warmup_ratio": 0.03,
        "save_steps": row.save, "save_total_limit": 2, "max_length": row.text,
    }  # fmt: skip
    said = {name: said_of(value, WHERE, name) for name, value in values.items()}
    said["prompt_template"] = _said("prompt_template", Dotted(f"PROMPT_TEMPLATE.{row.template}"))
    return said


def sections_of(row: BuiltIn, top: Mapping[str, Said]) -> dict[str, Said]:
    """The sections that XTuner's runner reads, made of the names of the top."""
    return {
        "model": _said("model", _model(row, top)),
        "train_dataloader": _said("train_dataloader", _loader(row, top)),
        "optim_wrapper": _said("optim_wrapper", {
            "type": _name("AmpOptimWrapper"), "dtype": _said("dtype", "float16"),
            "accumulative_counts": top["accumulative_counts"],
            "optimizer": _said("optimizer", {
                "type": _name("AdamW"), "lr": top["lr"], "betas": top["betas"],
                "weight_decay": top["weight_decay"],
            }),
            "clip_grad": _said("clip_grad", {"max_norm": top["max_norm"]}),
        }),
        "param_scheduler": _said("param_scheduler", _schedule(top)),
        "train_cfg": _said("train_cfg", {
            "type": _name("TrainLoop"), "max_epochs": top["max_epochs"],
        }),
        "default_hooks": _said("default_hooks", {"checkpoint": _said("checkpoint", {
            "by_epoch": _said("by_epoch", False), "interval": top["save_steps"],
            "max_keep_ckpts": top["save_total_limit"],
        })}),
    }  # fmt: skip


def _model(row: BuiltIn, top: Mapping[str, Said]) -> dict[str, Said]:
    llm: dict[str, Said] = {"pretrained_model_name_or_path": top["llm_name_or_path"]}
    if row.four_bits:
        llm["quantization_config"] = said_of({"load_in_4bit": True}, WHERE, "quantization_config")
    encoder = {"pretrained_model_name_or_path": top["visual_encoder_name_or_path"]}
    model: dict[str, Said] = {
        "type": _name("LLaVAModel"),
        "freeze_llm": _said("freeze_llm", not row.full),
        "freeze_visual_encoder": _said("freeze_visual_encoder", not row.tower),
        "llm": _said("llm", llm),
        "visual_encoder": _said("visual_encoder", encoder),
        "pretrained_pth": top["pretrained_pth"],
    }
    for key, ranks in (("llm_lora", row.lora), ("visual_encoder_lora", row.vision_lora)):
        if ranks is not None:
            fields = {"r": ranks[0], "lora_alpha": ranks[1], "lora_dropout": 0.05, "bias": "none"}
            model[key] = said_of(fields, WHERE, key)
    return model


def _loader(row: BuiltIn, top: Mapping[str, Said]) -> dict[str, Said]:
    root = str(top["data_root"].value)
    is_tuned = bool(row.pretrained)
    if row.data == INTERNVL:
        files: tuple[tuple[str, str], ...] = _MIX
    elif row.data == SHAREGPT4V:
        files = (("share-captioner_coco_lcs_sam_1246k_1107.json", "data"),)
    elif is_tuned:
        files = (("LLaVA-Instruct-150K/llava_v1_5_mix665k.json", "llava_images"),)
    else:
        files = (("LLaVA-Pretrain/blip_laion_cc_sbu_558k.json", "LLaVA-Pretrain/images"),)
    sets = [
        _said("dataset", {
            "type": _name("LLaVADataset"),
            "data_path": _said("data_path", root + file),
            "image_folder": _said("image_folder", root + folder),
            "dataset_map_fn": _said("dataset_map_fn", Dotted("llava_map_fn")),
            "template_map_fn": _said("template_map_fn", {"template": top["prompt_template"]}),
            "max_length": top["max_length"],
            "pad_image_to_square": _said("pad_image_to_square", is_tuned),
        })
        for file, folder in files
    ]  # fmt: skip
    sampler: dict[str, Said] = {"type": _name("DefaultSampler")}
    if is_tuned:
        sampler = {
            "type": _name("LengthGroupedSampler"),
            "length_property": _said("length_property", "modality_length"),
        }
    joined = {"type": _name("ConcatDataset"), "datasets": Said(sets, WHERE, "datasets")}
    return {
        "batch_size": top["batch_size"],
        "dataset": sets[0] if len(sets) == 1 else _said("dataset", joined),
        "sampler": _said("sampler", sampler),
    }


def _schedule(top: Mapping[str, Said]) -> list[Said]:
    epochs, share = top["max_epochs"].value, top["warmup_ratio"]
    end = replace(share, value=share.value * epochs)
    warmup = {
        "type": _name("LinearLR"), "start_factor": _said("start_factor", 1e-5),
        "by_epoch": _said("by_epoch", True), "end": end,
    }  # fmt: skip
    cosine = {
        "type": _name("CosineAnnealingLR"), "eta_min": _said("eta_min", 0.0),
        "end": top["max_epochs"],
    }  # fmt: skip
    return [_said("param_scheduler", warmup), _said("param_scheduler", cosine)]


def _said(key: str, value: Any) -> Said:
    return Said(value, WHERE, key)


def _name(text: str) -> Said:
    return Said(Dotted(text), WHERE, text)
