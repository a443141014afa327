"""A tokenizer's files, carried from one folder to another as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SETTINGS = "tokenizer_config.json"
FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja",
    "chat_template.json", "generation_config.json", "qwen.tiktoken", "spiece.model",
    "vlforge_tokenizer.json",
)  # fmt: skip
"""What may belong to a tokenizer; code that some repositories ship beside it does not."""


def copy_tokenizer(source: Path, out: Path) -> list[str]:
    """Copy a tokenizer's files; returns their names.

    InternLM2's becomes Llama's, which it is: its own class is code that is not carried.
    """
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, out / name)
    if SETTINGS in found:
        _without_internlm2s_code(out / SETTINGS)
    return found


def _without_internlm2s_code(file: Path) -> None:
    fields = json.loads(file.read_text(encoding="utf-8"))
    if not str(fields.get("tokenizer_class")).startswith("InternLM2Tokenizer"):
        return
    fields |= {"tokenizer_class": "LlamaTokenizer"}
    fields.pop("auto_map", None)
    file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "qwen.tiktoken", "vocab.json")
    )
