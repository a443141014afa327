"""The `process` stage of a recipe, in Data-Juicer's words. Light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vlforge.types import EndpointSpec, Loading


@dataclass(frozen=True)
class InputPart:
    """A file or a folder of a mixed dataset, and its share of the rows."""

    path: str
    weight: float = 1.0
    type: Literal["local"] = "local"


@dataclass(frozen=True)
class Mix:
    """Several datasets as one; `max_sample_num` rows of them, shared out by weight."""

    configs: tuple[InputPart, ...] = ()
    max_sample_num: int | None = None


@dataclass(frozen=True)
class ModelLoading(Loading):
    """How the models of operators are put into memory, and spoken to.

    `template` is the conversation template of all of them; auto is each model's own. A
    model trained on captions alone (MiniGPT-4's first stage) has to be given one before it
    takes questions: minigpt4.
    """

    template: str = "auto"


@dataclass(frozen=True)
class ProcessConfig:
    """Read a dataset, run operators over it, write what is kept.

    Names and defaults follow Data-Juicer 1.x recipes; `process` is its list of
    `{operator: parameters}`. `dataset_path` is a file, a folder, or several with
    weights ("0.5 a.jsonl 2 b.parquet"); `dataset` names several in a table.
    `export_path` may be empty inside a run, where the stage folder is the place.
    `open_tracer` writes Data-Juicer's trace files too; only false keeps the first
    changed rows out of `changed.jsonl`. `limit` takes the first rows, `sample` that
    many rows drawn by `seed`, in order. `strict` stops at the first bad row,
    `confine` refuses pictures outside the dataset's folder, `compat: data_juicer`
    brings back what Data-Juicer does where that is wrong. `models` says how the models
    of operators are loaded; where an operator names a model it may name one of `endpoints`
    instead, an OpenAI-compatible server. `model_workers` processes hold models (0: one per
    GPU). `replies` is a file that keeps what endpoints answered, for later runs too. `seed`
    is of all that operators draw.
    """

    dataset_path: str = ""
    dataset: Mix | None = None
    export_path: str = ""
    process: tuple[str | dict[str, dict[str, Any] | None], ...] = ()
    np: int = 0
    suffixes: tuple[str, ...] = ()
    load_dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    sample: int | None = None
    text_key: str = "text"
    text_keys: tuple[str, ...] = ()
    image_key: str = "images"
    image_bytes_key: str = "image_bytes"
    audio_key: str = "audios"
    video_key: str = "videos"
    image_special_token: str = "<__dj__image>"
    eoc_special_token: str = "<|__dj__eoc|>"
    validators: tuple[dict[str, Any], ...] = ()
    add_suffix: bool = False
    absolute_paths: bool = True
    confine: bool = False
    strict: bool = False
    skip_op_error: bool = True
    compat: Literal["", "data_juicer"] = ""
    export_type: Literal["", "jsonl", "json", "parquet"] = ""
    export_shard_size: int = 0
    export_extra_args: dict[str, Any] = field(default_factory=dict)
    keep_stats_in_res_ds: bool = False
    keep_hashes_in_res_ds: bool = False
    open_tracer: bool | Literal["auto"] = "auto"
    op_list_to_trace: tuple[str, ...] = ()
    trace_num: int = 10
    trace_keys: tuple[str, ...] = ()
    custom_operator_paths: tuple[str, ...] = ()
    executor_type: Literal["default", "ray", "ray_partitioned"] = "default"
    ray_address: str = "auto"
    project_name: str = "vlforge"
    models: ModelLoading = field(default_factory=ModelLoading)
    endpoints: dict[str, EndpointSpec] = field(default_factory=dict)
    model_workers: int = 0
    replies: str = ""
    seed: int = 42
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def stops_at_faults(self) -> bool:
        """Whether a bad row ends the run: `strict`, in Data-Juicer's words `skip_op_error: no`."""
        return self.strict or not self.skip_op_error

    def shared_keys(self) -> dict[str, str]:
        """What every operator takes from the recipe where it does not say so itself."""
        return {
            "text_key": self.text_key,
            "image_key": self.image_key,
            "image_bytes_key": self.image_bytes_key,
            "compat": self.compat,
        }
