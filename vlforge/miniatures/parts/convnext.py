"""OpenCLIP's ConvNeXt in small, as its folder on the hub has it."""

from __future__ import annotations

from pathlib import Path

from vlforge.miniatures.parts.clip import MEAN, STD
from vlforge.miniatures.weights import Shapes, random_state, write_bin, write_json

WIDTHS, DEPTHS = (8, 12, 16, 20), (1, 1, 2, 1)
NAME = "openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"
_WORDS, _TEXT, _SHARED = 48, 16, 16


def trunk_shapes(at: str = "visual.trunk.") -> Shapes:
    """timm's ConvNeXt: stem, four stages, the head's norm."""
    shapes = {
        f"{at}stem.0.weight": (WIDTHS[0], 3, 4, 4), f"{at}stem.0.bias": (WIDTHS[0],),
        f"{at}stem.1.weight": (WIDTHS[0],), f"{at}stem.1.bias": (WIDTHS[0],),
    }  # fmt: skip
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        own = f"{at}stages.{stage}."
        if stage:
            before = WIDTHS[stage - 1]
            shapes |= {
                f"{own}downsample.0.weight": (before,), f"{own}downsample.0.bias": (before,),
                f"{own}downsample.1.weight": (width, before, 2, 2),
                f"{own}downsample.1.bias": (width,),
            }  # fmt: skip
        for block in range(depth):
            shapes |= _block(f"{own}blocks.{block}.", width)
    return shapes | {
        f"{at}head.norm.weight": (WIDTHS[-1],), f"{at}head.norm.bias": (WIDTHS[-1],),
    }  # fmt: skip


def _block(at: str, width: int) -> Shapes:
    return {
        f"{at}gamma": (width,),
        f"{at}conv_dw.weight": (width, 1, 7, 7), f"{at}conv_dw.bias": (width,),
        f"{at}norm.weight": (width,), f"{at}norm.bias": (width,),
        f"{at}mlp.fc1.weight": (4 * width, width), f"{at}mlp.fc1.bias": (4 * width,),
        f"{at}mlp.fc2.weight": (width, 4 * width), f"{at}mlp.fc2.bias": (width,),
    }  # fmt: skip


def write_convnext(folder: Path, seed: int) -> Path:
    """`open_clip_pytorch_model.bin` with a picture's and a text's tower, and its settings."""
    shapes = {
        "positional_embedding": (77, _TEXT), "text_projection": (_TEXT, _SHARED),
        "logit_scale": (), **trunk_shapes(),
        "visual.head.mlp.fc1.weight": (_SHARED, WIDTHS[-1]),
        "visual.head.mlp.fc2.weight": (_SHARED, _SHARED),
        "token_embedding.weight": (_WORDS, _TEXT),
        "ln_final.weight": (_TEXT,), "ln_final.bias": (_TEXT,),
    }  # fmt: skip
    write_bin(folder, random_state(shapes, seed), name="open_clip_pytorch_model")
    vision = {
        "timm_model_name": "convnext_large", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "mlp", "timm_drop": 0.0, "timm_drop_path": 0.1, "image_size": 320,
    }  # fmt: skip
    text = {
        "context_length": 77, "vocab_size": _WORDS, "width": _TEXT, "heads": 2, "layers": 1,
    }  # fmt: skip
    fields = {
        "model_cfg": {"embed_dim": _SHARED, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": MEAN, "std": STD},
    }
    write_json(folder / "open_clip_config.json", fields)
    return folder
