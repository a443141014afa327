"""Our own layout of what a train stage with adapters leaves: all but the base.

`adapter/` and `vision_adapter/` are peft's, under the names of transformers' own models;
`non_lora_trainables.safetensors` holds what was trained whole and what is new, under our
names; `adapted.json` the configuration and where the base is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge import __version__
from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.index import detect
from vlforge.checkpoints.lora import Adapter, open_adapter
from vlforge.checkpoints.tokenizers import has_tokenizer
from vlforge.checkpoints.weights import Lazy, Weights, open_file
from vlforge.checkpoints.xtuner import Half, Trained
from vlforge.checkpoints.xtuner_projector import assemble_parts
from vlforge.checkpoints.xtuner_recipe import Recipe
from vlforge.models.config import ModelSpec
from vlforge.models.families import find_family
from vlforge.models.folder import META_NAME
from vlforge.models.reading import read_processor
from vlforge.types import ModelError

ADAPTED = "adapted.json"
FOLDERS = {"language": "adapter", "vision": "vision_adapter"}
WHOLE = "non_lora_trainables.safetensors"


class VlforgeAdapterLayout:
    """`adapted.json`, `adapter/`, `vision_adapter/`, `non_lora_trainables.safetensors`."""

    name = "vlforge_adapter"
    says = "what a train stage with lora writes: adapted.json, adapter/; finds its base itself"
    is_part = True

    def matches(self, path: Path) -> bool:
        """A folder that says what it adapts."""
        return (path / ADAPTED).is_file()

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The base with the adapters in it; every tensor of them has to land."""
        told = _told(path)
        kind: Any = find_family(str(told["family"])).config_class
        config = kind.from_dict(told["config"])
        whole = dict(open_file(path / WHOLE)) if (path / WHOLE).is_file() else {}
        weights = {**_base_weights(path, told, parts), **whole}
        adapters = {}
        for part, root in told["roots"].items():
            adapters[part] = open_adapter(path / FOLDERS[part]).renamed(f"{root}.{{}}".format)
            weights = adapters[part].onto(weights)
        meta = json.loads((path / META_NAME).read_text(encoding="utf-8"))
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=weights,
            tokenizer=path if has_tokenizer(path) else None,
            processor=read_processor(path, config.vision_config, config.image_aspect_ratio),
            template=meta.get("template", "plain"),
            extra={"history": meta.get("history", []), **_apart(adapters, whole)},
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """Not done: only a train stage knows the base.

        Raises:
            ModelError: always; says what to write instead.
        """
        del out, how
        raise ModelError(
            f"{checkpoint.path}: this layout is written by a train stage with lora; take --to "
            "peft_adapter, llava_lora or xtuner for an adapter, vlforge for the whole model"
        )


def base_facts(model: ModelSpec | str, out: Path) -> dict[str, Any]:
    """What `adapted.json` keeps of the model that a stage began from: paths, or its parts."""
    if isinstance(model, str):
        folder = Path(model).resolve()
        return {"path": str(folder), "beside": os.path.relpath(folder, out.resolve())}
    fields = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return {"spec": {name: value for name, value in fields.items() if value is not None}}


def told_fields(family: str, config: Any, base: Mapping[str, Any], roots: Mapping[str, str]) -> Any:
    """The content of `adapted.json`; what the base was quantised with is left out."""
    fields = config.to_dict()
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        part.pop("quantization_config", None)
        part.pop("_name_or_path", None)
    return {
        "family": family,
        "config": fields,
        "base": dict(base),
        "roots": dict(roots),
        "vlforge_version": __version__,
    }


def _told(path: Path) -> dict[str, Any]:
    file = path / ADAPTED
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if not isinstance(told, dict) or not {"family", "config", "base", "roots"} <= set(told):
        raise ModelError(f"{file} does not say what it adapts; copy the stage's folder again")
    return told


def _base_weights(path: Path, told: Mapping[str, Any], parts: Parts) -> Weights:
    """The tensors of the base, under our names.

    Raises:
        ModelError: it is not where it was.
    """
    given, base = parts.base, told["base"]
    if given is None and "spec" in base:
        made = assemble_parts(_spec(base["spec"])).model
        return {name: Lazy.of(value, name) for name, value in _state(made).items()}
    places = [given] if given else [Path(base["path"]), path / base["beside"]]
    folder = next((place for place in places if place and place.is_dir()), None)
    if folder is None:
        raise ModelError(
            f"{path} adapts {base.get('path', given)}, which is not there; name the base: vlforge "
            f"merge BASE {path} OUT"
        )
    return detect(folder).read(folder, Parts()).weights


def _spec(fields: Mapping[str, Any]) -> ModelSpec:
    pinpoints = tuple((int(w), int(h)) for w, h in fields.get("image_grid_pinpoints", ()))
    return ModelSpec(**{**fields, "image_grid_pinpoints": pinpoints})


def _state(model: Any) -> dict[str, Any]:
    tied = set(getattr(model, "all_tied_weights_keys", ()))
    return {name: value for name, value in model.state_dict().items() if name not in tied}


def _apart(adapters: Mapping[str, Adapter], whole: Weights) -> dict[str, Any]:
    """The adapters as LLaVA's and XTuner's layouts write them again."""
    found: dict[str, Any] = {}
    language, vision = adapters.get("language"), adapters.get("vision")
    if language is not None and vision is None:
        found["adapter"] = Adapter(language.settings, language.pairs, {**language.whole, **whole})
    halves = {
        "language": _half(language, "language.", ""),
        "vision": _half(vision, "vision.tower.", "vision_model."),
    }
    names = {name.partition(".")[0] for name in whole}
    if names <= {"connector"}:
        projector = {name.removeprefix("connector."): lazy for name, lazy in whole.items()}
        found["xtuner"] = Trained(projector, halves["language"], halves["vision"], Recipe())
    return found


def _half(adapter: Adapter | None, ours: str, theirs: str) -> Half:
    if adapter is None:
        return Half()
    return Half(adapter.renamed(lambda name: theirs + name.removeprefix(ours)))
