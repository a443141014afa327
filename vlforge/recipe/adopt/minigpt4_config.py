"""MiniGPT-4's layered configuration: defaults of the model and of each dataset, then the user's
file, then `--options`.

Its users set paths in the default files of the package (`minigpt4/configs/`): those are read
where a checkout lies around the configuration. Elsewhere this module knows what they say. As
there, the model's default file is chosen by the user's own `model_type`: one that comes by
`--options` changes the value and not the choice.

Source: Vision-CAIR/MiniGPT-4@22d8888 (common/config.py, configs/).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.recipe.nearest import nearest
from vlforge.recipe.source import Source, parse_value, read_source
from vlforge.types import RecipeError

_PROCESSORS = {
    "vis_processor": {
        "train": {"name": "blip2_image_train", "image_size": 224},
        "eval": {"name": "blip2_image_eval", "image_size": 224},
    },
    "text_processor": {"train": {"name": "blip_caption"}, "eval": {"name": "blip_caption"}},
}
_MODEL = {
    "arch": "mini_gpt4",
    "image_size": 224,
    "drop_path_rate": 0,
    "use_grad_checkpoint": False,
    "vit_precision": "fp16",
    "freeze_vit": True,
    "freeze_qformer": True,
    "num_query_token": 32,
    "llama_model": "/path/to/vicuna/weights/",
    "prompt": "",
}
_LATER = {
    **_MODEL,
    "arch": "minigpt4",
    "llama_model": "please set this value to the path of vicuna model",
}
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "pretrain_vicuna": ("minigpt4.yaml", _MODEL),
    "pretrain_vicuna0": ("minigpt4_vicuna0.yaml", _LATER),
}
"""By `model_type`: its default file and that file's `model`."""
ARCHITECTURES = ("mini_gpt4", "minigpt4")
DATASETS: Mapping[str, tuple[str, str]] = {
    "laion": ("laion/defaults.yaml", "/path/to/laion_dataset/{00000..10488}.tar"),
    "cc_sbu": ("cc_sbu/defaults.yaml", "/path/to/cc_sbu_dataset/{00000..01255}.tar"),
    "cc_sbu_align": ("cc_sbu/align.yaml", "/path/to/cc_sbu_align/"),
}
"""Datasets of both stages: their default files, and where those look for the data."""
PACKAGE = Path("minigpt4") / "configs"
_INTERPOLATED = re.compile(r"\$\{")


@dataclass(frozen=True)
class Layered:
    """The merged tree, and where a value in it came from: `sources`, the user's file first."""

    tree: dict[str, Any]
    sources: tuple[Source, ...]
    options: Mapping[str, Any]

    @property
    def given(self) -> dict[str, Any]:
        """What the user's file says."""
        return self.sources[0].plain()

    def get(self, dotted: str, default: Any = None) -> Any:
        """The value at a dotted key."""
        node: Any = self.tree
        for key in dotted.split("."):
            if not isinstance(node, Mapping) or key not in node:
                return default
            node = node[key]
        return node

    def origin(self, dotted: str) -> str:
        """The line of a file, `--options`, or MiniGPT-4's defaults; with the key."""
        place = self.where(dotted)
        return f"{place} {dotted}" if ":" in place else f"{place}, {dotted}"

    def where(self, dotted: str) -> str:
        """`file:line` of the key in the uppermost layer that has it."""
        for named in self.options:
            if dotted == named or dotted.startswith(f"{named}."):
                return "--options"
        for source in self.sources:
            if holds(source.plain(), dotted):
                place = source.where(*dotted.split("."))
                return f"{source.path.name}:{place.rpartition(':')[2]}"
        return "default of MiniGPT-4"


def merged_config(path: Path, options: Sequence[str] | None = None) -> dict[str, Any]:
    """The tree that MiniGPT-4 runs with: `run`, `model`, `preprocess`, `datasets`.

    Args:
        options: as behind `--options`: `a.b=c` words, or keys and values in turn, decided
            by the first word.

    Raises:
        RecipeError: as `read_layers`.
    """
    return read_layers(path, option_list(options or ())).tree


def read_layers(path: Path, options: Mapping[str, str]) -> Layered:
    """The user's file upon the defaults, `options` (dotted key -> text) upon both.

    Raises:
        RecipeError: no such file, no YAML, a model or dataset that MiniGPT-4 has not, with
            file, line and the nearest name.
    """
    source = read_source(path, "1.1")
    given = source.plain()
    _refuse_interpolation(source, given)
    package = find_package(path)
    changed = {key: parse_value(text, "1.1") for key, text in options.items()}
    tree: dict[str, Any] = {"run": _part(source, given, "run")}
    model = _part(source, given, "model")
    below, files = _model_defaults(source, model, package)
    tree = _merge(tree, _merge(below, {"model": model}))
    for name, settings in _part(source, given, "datasets").items():
        below, more = _dataset_defaults(source, name, settings, package)
        tree = _merge(tree, _merge(below, {"datasets": {name: settings}}))
        files += more
    for key, value in changed.items():
        nested: Any = value
        for name in reversed(key.split(".")):
            nested = {name: nested}
        tree = _merge(tree, nested)
    return Layered(tree, (source, *files), changed)


def find_package(path: Path) -> Path | None:
    """`minigpt4/configs` of the checkout that a configuration belongs to, as train.py finds it."""
    for home in (Path(), path.parent.parent, path.parent):
        if (home / PACKAGE / "models").is_dir():
            return home / PACKAGE
    return None


def option_list(words: Sequence[str]) -> dict[str, str]:
    """`--options` as dotted key -> text; of a pair without its second word nothing is taken."""
    if not words:
        return {}
    if "=" in words[0]:
        pairs = [word.partition("=") for word in words]
        return {key: value for key, _, value in pairs}
    return dict(zip(words[0::2], words[1::2], strict=False))


def _part(source: Source, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = given.get(name)
    if not isinstance(part, dict):
        raise RecipeError(
            f"{source.where(name)}: `{name}` is missing; a configuration of MiniGPT-4 has model, "
            "datasets and run"
        )
    return part


def _model_defaults(
    source: Source, model: Mapping[str, Any], package: Path | None
) -> tuple[dict[str, Any], list[Source]]:
    for key, known in (("arch", ARCHITECTURES), ("model_type", tuple(MODELS))):
        value = model.get(key)
        if value not in known:
            hint = nearest(str(value), known) or f"; known: {', '.join(known)}"
            if any(word in str(value) for word in ("v2", "llama2")):
                hint = "; only the first release is: Vicuna behind a Q-Former"
            raise RecipeError(f"{source.where('model', key)}: {key} {value!r} is not there{hint}")
    file, settings = MODELS[str(model["model_type"])]
    if package is not None and (package / "models" / file).is_file():
        return _default_file(package / "models" / file)
    return copy.deepcopy({"model": settings, "preprocess": _PROCESSORS}), []


def _dataset_defaults(
    source: Source, name: str, settings: Any, package: Path | None
) -> tuple[dict[str, Any], list[Source]]:
    if name not in DATASETS:
        known = nearest(name, DATASETS) or f"; known: {', '.join(DATASETS)}"
        raise RecipeError(f"{source.where('datasets', name)}: no dataset {name!r}{known}")
    if not isinstance(settings, dict):
        raise RecipeError(f"{source.where('datasets', name)}: {name} is no mapping of settings")
    kind = settings.get("type", "default")
    if kind != "default":
        raise RecipeError(
            f"{source.where('datasets', name, 'type')}: type {kind!r} of {name} is not there; "
            "it has `default` alone"
        )
    file, storage = DATASETS[name]
    if package is not None and (package / "datasets" / file).is_file():
        return _default_file(package / "datasets" / file)
    default = {"data_type": "images", "build_info": {"storage": storage}}
    return {"datasets": {name: default}}, []


def _default_file(path: Path) -> tuple[dict[str, Any], list[Source]]:
    source = read_source(path, "1.1")
    return source.plain(), [source]


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key; anything else of `above` takes the place of what is below."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(under, value) if both else value  # type: ignore[arg-type]
    return merged


def holds(tree: Any, dotted: str) -> bool:
    """Whether a tree has a dotted key."""
    for key in dotted.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return False
        tree = tree[key]
    return True


def _refuse_interpolation(source: Source, given: Mapping[str, Any]) -> None:
    for keys, value in leaves(given):
        if isinstance(value, str) and _INTERPOLATED.search(value):
            raise RecipeError(
                f"{source.where(*keys)}: {'.'.join(keys)} is {value!r}: write the value itself"
            )


def leaves(node: Any, keys: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    """The keys and value of everything in a tree that is no mapping, or an empty one."""
    if isinstance(node, Mapping) and (node or not keys):
        for key, value in node.items():
            yield from leaves(value, (*keys, str(key)))
    else:
        yield keys, node
