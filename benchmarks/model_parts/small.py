"""The published models scaled down: an eighth or a sixteenth as wide, as deep as they are.

Depths, and the proportions of widths, vocabulary, picture tokens and text, are those of the
real models, so that every part has about its real share of a step; a picture has 8 x 8
tokens where the real one has 24 x 24, and text shrinks with it.
"""

from __future__ import annotations

from vlforge.models.sizes import SIZES, Config

from .cases import Case


def _clip(width: int) -> Config:
    return SIZES["llava-1.5-7b"]["vision_config"] | {
        "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4,
        "image_size": 112, "projection_dim": width,
    }  # fmt: skip


VICUNA: Config = SIZES["llava-1.5-7b"]["text_config"] | {
    "hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8,
    "num_key_value_heads": 8, "vocab_size": 2000, "max_position_embeddings": 256,
}  # fmt: skip
GEMMA: Config = SIZES["mgm-2b"]["text_config"] | {
    "hidden_size": 256, "intermediate_size": 2048, "head_dim": 32, "vocab_size": 32000,
    "max_position_embeddings": 256,
}  # fmt: skip
MGM: Config = SIZES["mgm-2b"] | {
    "vision_config": _clip(128), "text_config": GEMMA, "image_size_high": 256,
    "vision_high_config": SIZES["mgm-2b"]["vision_high_config"]
    | {"hidden_sizes": [24, 48, 96, 192]},
}  # fmt: skip
LLAVA: Config = SIZES["llava-1.5-7b"] | {"vision_config": _clip(64), "text_config": VICUNA}
MINIGPT4: Config = SIZES["minigpt4-7b"] | {
    "text_config": VICUNA,
    "vision_config": SIZES["minigpt4-7b"]["vision_config"]
    | {"hidden_size": 88, "intermediate_size": 384, "num_attention_heads": 4, "image_size": 112},
    "qformer_config": SIZES["minigpt4-7b"]["qformer_config"]
    | {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 4,
       "encoder_hidden_size": 88},
}  # fmt: skip

SMALL = (
    Case("mgm-2b/8", MGM, stage=1, text=8, supervised=6, ragged=True),
    Case("mgm-2b/8", MGM, stage=2, text=36, supervised=26, ragged=True),
    Case("llava-1.5-7b/16", LLAVA, stage=1, text=4, supervised=2, ragged=True),
    Case("llava-1.5-7b/16", LLAVA, stage=2, text=28, supervised=13, ragged=True),
    Case("minigpt4-7b/16", MINIGPT4, stage=1, text=26, supervised=25),
    Case("minigpt4-7b/16", MINIGPT4, stage=2, text=108, supervised=80, ragged=True),
)
"""Text and supervised tokens: those that the real stages have on average, in proportion;
MiniGPT-4's real ones, as its 32 picture tokens are not scaled down."""
