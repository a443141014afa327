"""The recipes that are measured, as Data-Juicer reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

R1: list[dict[str, Any]] = [
    {"text_length_filter": {"min_len": 20, "max_len": 1000}},
    {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.5}},
    {"special_characters_filter": {"min_ratio": 0.0, "max_ratio": 0.5}},
    {"character_repetition_filter": {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.3}},
    {"word_repetition_filter": {"rep_len": 5, "min_ratio": 0.0, "max_ratio": 0.3}},
]
R2: list[dict[str, Any]] = [
    {"image_aspect_ratio_filter": {"min_ratio": 0.333, "max_ratio": 3.0}},
    {"image_shape_filter": {"min_width": 60, "min_height": 60}},
    {"image_size_filter": {"min_size": "2kb", "max_size": "1MB"}},
]
PHASH = {"image_deduplicator": {"method": "phash", "consider_text": False}}
FAST_PHASH = {"image_deduplicator": {"method": "phash", "consider_text": False, "hash": "fast"}}
MINHASH = {
    "document_minhash_deduplicator": {
        "tokenization": "space",
        "window_size": 3,
        "num_permutations": 256,
        "jaccard_threshold": 0.7,
        "lowercase": True,
    }
}
EXACT = {"document_deduplicator": {"lowercase": False, "ignore_non_character": False}}

RECIPES: dict[str, list[dict[str, Any]]] = {
    "R1": R1,
    "R2": R2,
    "R3x": [*R1, *R2, EXACT],
    "R3p": [*R1, *R2, PHASH],
    "R3": [*R1, *R2, PHASH, MINHASH],
    "R3fast": [*R1, *R2, FAST_PHASH, MINHASH],
}
PEER_RECIPE = {"R3fast": "R3"}
"""Which recipe Data-Juicer runs beside ours, where it does not know ours."""


def write_recipe(path: Path, name: str, dataset: Path, workers: int) -> Path:
    """The recipe as a file (JSON, which is YAML) that both tools read."""
    recipe = {
        "project_name": name,
        "dataset_path": str(dataset),
        "np": workers,
        "auto_op_parallelism": False,
        "use_cache": False,
        "open_tracer": False,
        "keep_stats_in_res_ds": True,
        "process": RECIPES[name],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
    return path
