"""Stage kinds by name: which dataclass is their schema, which module runs them.

Nothing is imported until a recipe uses the kind. A kind from outside is a
dotted path to a module with `Config`, `run` and `estimate`; with `check(config)` it may
raise for settings that cannot work, before the run's first stage begins.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError


@dataclass(frozen=True)
class Kind:
    """`config` is "module:Class", `runner` a module with `run(config, job)` and `estimate`."""

    name: str
    config: str
    runner: str
    does: str

    def config_class(self) -> type[Any]:
        """The frozen dataclass that is this kind's schema."""
        module, _, name = self.config.partition(":")
        found: type[Any] = getattr(importlib.import_module(module), name)
        return found

    def module(self) -> Any:
        """The module that runs this kind."""
        return importlib.import_module(self.runner)


def _kind(name: str, config: str, runner: str, does: str) -> tuple[str, Kind]:
    return name, Kind(name, f"vlforge.{config}", f"vlforge.{runner}", does)


KINDS: dict[str, Kind] = dict(
    (
        _kind("render", "quickstart.config:WorldConfig", "quickstart.render_kind",
              "draw the quickstart's world of pictures"),
        _kind("photos", "quickstart.config:PhotosConfig", "quickstart.photos_kind",
              "prepare the real photographs' captions and questions"),
        _kind("miniature", "miniatures.config:MiniatureConfig", "miniatures.kind",
              "write a known system's folder in small"),
        _kind("process", "engine.config:ProcessConfig", "runs.kinds.process",
              "clean and rewrite a dataset"),
        _kind("tokenizer", "training.config:TokenizerConfig", "runs.kinds.tokenizer",
              "train a tokenizer"),
        _kind("pretrain", "training.config:PretrainConfig", "runs.kinds.pretrain",
              "train a vision encoder or a language model alone"),
        _kind("train", "training.config:TrainConfig", "runs.kinds.train",
              "train a vision-language model"),
        _kind("merge", "training.config:MergeConfig", "runs.kinds.merge",
              "put an adapter into its base"),
        _kind("convert", "training.config:ConvertConfig", "runs.kinds.convert",
              "write a model in another layout"),
        _kind("evaluate", "evaluation.config:EvalConfig", "runs.kinds.evaluate",
              "ask and score benchmarks"),
        _kind("predict", "serving.predict.config:PredictConfig", "runs.kinds.predict",
              "answer every row of a file"),
        _kind("split", "data.config:SplitConfig", "runs.kinds.split",
              "divide a dataset into parts that share nothing"),
        _kind("tool", "data.config:ToolConfig", "runs.kinds.tool",
              "run another system's converter"),
        _kind("report", "recipe.schema:ReportConfig", "runs.kinds.report",
              "write the run's page and its scores"),
    )
)  # fmt: skip


def find_kind(name: str) -> Kind:
    """The kind called `name`, built in or dotted; RecipeError names the nearest."""
    if name in KINDS:
        return KINDS[name]
    if "." in name:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RecipeError(f"stage kind {name!r} cannot be imported: {error}") from None
        return Kind(name, f"{name}:Config", name, "from outside")
    raise RecipeError(
        f"unknown stage kind {name!r}{nearest(name, KINDS)}; known: {', '.join(KINDS)}"
    )
