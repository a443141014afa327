"""LLaVA's first stage: `mm_projector.bin`, the connector alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.hints import write_hint
from vlforge.checkpoints.llava_fields import (
    NEWLINE,
    PROJECTOR,
    checkpoint_of,
    is_llava,
    our_name,
    their_config,
    their_weights,
)
from vlforge.checkpoints.llava_lora import base_of, read_base, with_tower
from vlforge.checkpoints.lora import is_adapter, plain_name
from vlforge.checkpoints.weights import (
    INDEXES,
    SINGLES,
    open_file,
    write_weights,
)
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

FILE = "mm_projector.bin"
_ENDINGS = (".bin", ".safetensors", ".pt", ".pth")


class LlavaProjectorLayout:
    """`mm_projector.bin` in a folder, or such a file (`mm_projector/checkpoint-100.bin`)."""

    name = "llava_projector"
    says = "LLaVA's first stage: mm_projector.bin alone; needs --base and the encoder"
    is_part = True

    def matches(self, path: Path) -> bool:
        """A file of LLaVA's connector, or a folder with one and no language model."""
        if path.is_dir():
            holds_more = any((path / name).is_file() for name in (*INDEXES, *SINGLES))
            if holds_more or is_adapter(path) or not (path / FILE).is_file():
                return False
            if (path / "config.json").is_file() and not is_llava(read_config(path)):
                return False
            return _is_projector(path / FILE)
        return path.suffix in _ENDINGS and _is_projector(path)

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The connector with the language model and the encoder that `parts` name."""
        file = path / FILE if path.is_dir() else path
        fields = _settings(file)
        given = {_plain(name): lazy for name, lazy in open_file(file).items()}
        wrong = [lazy.where for name, lazy in given.items() if not _belongs(name)]
        if wrong:
            raise ModelError(f"{wrong[0]} is no part of a LLaVA connector; {len(wrong)} are not")
        base = base_of(file.parent, parts)
        language, known, held = read_base(base, parts)
        whole = {our_name(name): lazy for name, lazy in given.items()}
        if "mm_vision_tower" not in known | fields and parts.vision is None:
            raise ModelError(f"{file} leaves its vision encoder out; name its folder with --vision")
        parts = with_tower(file.parent, known | fields, parts, base)
        kept = {name: lazy for name, lazy in held.items() if not name.startswith("connector.")}
        return checkpoint_of(
            file.parent, self.name, known | fields, {**kept, **whole}, parts, language
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The connector and LLaVA's configuration."""
        own = [name for name in checkpoint.weights if name.startswith("connector.")]
        own += [name for name in checkpoint.weights if name == "image_newline"]
        if not own:
            raise ModelError(f"{checkpoint.path}: its connector is an identity, nothing to write")
        write_weights(
            their_weights(how.cast(checkpoint.weights), own),
            out,
            kind="bin",
            stem=FILE.removesuffix(".bin"),
            shard_bytes=2**62,
            on_shard=how.on_shard,
        )
        fields = their_config(checkpoint, holds_tower=False) | {"tune_mm_mlp_adapter": True}
        write_json(out / "config.json", fields)
        write_hint(checkpoint, out)
        how.say("only the connector is written; the language model and the encoder are not")


def _plain(name: str) -> str:
    """`model.mm_projector.0.weight`, whatever stands before it."""
    name = plain_name(name)
    at = name.find("mm_projector.")
    return f"model.{name[at:]}" if at >= 0 else name


def _belongs(name: str) -> bool:
    return name.startswith(PROJECTOR) or name in (NEWLINE, "model.embed_tokens.weight")


def _is_projector(file: Path) -> bool:
    try:
        names = [_plain(name) for name in open_file(file)]
    except ModelError:
        return False
    return any(name.startswith(PROJECTOR) for name in names) and all(map(_belongs, names))


def _settings(file: Path) -> dict[str, Any]:
    """LLaVA's configuration beside the file, or one folder up (`mm_projector/checkpoint-N.bin`)."""
    for folder in (file.parent, file.parent.parent):
        if (folder / "config.json").is_file():
            fields = read_config(folder)
            return fields if is_llava(fields) else {}
    return {}
