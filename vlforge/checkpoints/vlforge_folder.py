"""Our own layout: what `models.folder.write_folder` writes."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge import __version__
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.weights import open_weights, write_weights
from vlforge.models.families import family_of, find_family
from vlforge.models.folder import META_NAME
from vlforge.models.parts import image_processor
from vlforge.models.reading import read_config, read_processor, read_tokenizer, write_json
from vlforge.text.two_tokenizers import with_dialect


class VlforgeLayout:
    """`config.json` with a `model_type` of ours, `model.safetensors`, `vlforge.json`."""

    name = "vlforge"
    says = "what a train stage writes: config.json (vlforge_*), model.safetensors, vlforge.json"

    def matches(self, path: Path) -> bool:
        """A folder whose configuration is of one of our families."""
        if not (path / "config.json").is_file():
            return False
        return family_of(read_config(path).get("model_type")) is not None

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """Everything lies in the folder; `parts` is not needed."""
        fields = read_config(path)
        family = find_family(str(family_of(fields["model_type"])))
        config = family.config_class.from_dict(fields)
        file = path / META_NAME
        meta = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=open_weights(path),
            tokenizer=path if has_tokenizer(path) else None,
            processor=read_processor(path, config.vision_config, config.image_aspect_ratio),
            template=meta.get("template", "plain"),
            extra={"history": meta.get("history", [])},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The folder as a train stage leaves it."""
        write_weights(
            how.cast(checkpoint.weights), out, shard_bytes=how.shard_bytes, on_shard=how.on_shard
        )
        fields = checkpoint.config.to_dict() | {"architectures": [f"{_camel(checkpoint)}Model"]}
        write_json(out / "config.json", fields)
        if checkpoint.tokenizer is not None:
            copy_tokenizer(checkpoint.tokenizer, out)
            if checkpoint.dialect != "auto":
                whole = read_tokenizer(checkpoint.tokenizer)
                with_dialect(whole, checkpoint.tokenizer, checkpoint.dialect).save_pretrained(out)
        if checkpoint.processor is not None:
            write_json(out / image_processor.FILE_NAME, checkpoint.processor.to_json())
        meta = {
            "family": checkpoint.family,
            "template": checkpoint.template,
            "image_aspect_ratio": checkpoint.config.image_aspect_ratio,
            "history": list(checkpoint.extra.get("history", [])),
            "vlforge_version": __version__,
        }
        write_json(out / META_NAME, meta)


def _camel(checkpoint: Checkpoint) -> str:
    return "".join(word.capitalize() for word in checkpoint.family.split("_"))
