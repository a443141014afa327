"""Stand-ins for the classes of Data-Juicer 1.x that a custom operator builds on.

They hold what such a file may use of them: the keys of the fields, the interval
of filters, the registries and names of constants. Running over data is not here;
that is what the adapters do.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

PREFIX = "__dj__"
DATA_KEYS = {
    "text_key": "text",
    "image_key": "images",
    "image_bytes_key": "image_bytes",
    "audio_key": "audios",
    "video_key": "videos",
    "system_key": "system",
    "instruction_key": "instruction",
    "prompt_key": "prompt",
    "query_key": "query",
    "response_key": "response",
    "history_key": "history",
}
"""Keys of all operators that name fields."""


class _Names(type):
    """A class whose attributes are strings made from their own names."""

    prefix = ""
    suffix = ""
    special: Mapping[str, str] = {}

    def __getattr__(cls, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return cls.special.get(name, f"{cls.prefix}{name}{cls.suffix}")


class Fields(metaclass=_Names):
    """Fields of rows: `Fields.stats` is `__dj__stats__`."""

    prefix, suffix = PREFIX, "__"
    special: ClassVar = {"multimodal_data_output_dir": "__dj__produced_data__"}


class StatsKeys(metaclass=_Names):
    """Statistics: each is called as its attribute."""


class MetaKeys(metaclass=_Names):
    """Tags: nearly all are called as their attribute."""

    special: ClassVar = {
        "bbox_tag": "__dj__bbox__",
        "class_label_tag": "__dj__class_label__",
        "entity_description": "entity_entity_description",
        "query_intent_score": "query_intent_label_score",
        "query_sentiment_score": "query_sentiment_label_score",
        "query_topic_score": "query_topic_label_score",
        "source_entity": "relation_source_entity",
        "target_entity": "relation_target_entity",
    }


class BatchMetaKeys(metaclass=_Names):
    """Tags of batch rows."""


class HashKeys(metaclass=_Names):
    """Fields of hashes: `HashKeys.hash` is `__dj__hash`."""

    prefix = PREFIX


class InterVars(metaclass=_Names):
    """Things that filters share while they run."""

    prefix = PREFIX


class Registry:
    """Classes by name; a name that is taken needs `force`."""

    def __init__(self, name: str):
        self.name = name
        self.modules: dict[str, type[Any]] = {}
        self.forced: set[str] = set()

    def register_module(
        self,
        module_name: str | None = None,
        module_cls: type[Any] | None = None,
        force: bool = False,
    ) -> Any:
        """Register a class, or give a decorator that does."""

        def register(cls: type[Any]) -> type[Any]:
            name = module_name or cls.__name__
            if name in self.modules and not force:
                raise KeyError(f"{name} is already registered in {self.name}")
            self.modules[name] = cls
            (self.forced.add if force else self.forced.discard)(name)
            cls._name = name
            return cls

        return register if module_cls is None else register(module_cls)

    def get(self, module_key: str) -> type[Any] | None:
        """The class of that name."""
        return self.modules.get(module_key)

    def list(self) -> Iterable[str]:
        """All names."""
        return [*self.modules]


OPERATORS = Registry("Operators")
TAGGING_OPS = Registry("Tagging Operators")
NON_STATS_FILTERS = Registry("Non-stats Filters")
UNFORKABLE = Registry("Unforkable")
ATTRIBUTION_FILTERS = Registry("Attribution Filters")


class OP:
    """What all operators have: the names of fields, and how they are called."""

    _name = ""
    _accelerator = "cpu"
    _batched_op = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for key, default in DATA_KEYS.items():
            setattr(self, key, kwargs.get(key, default))
        for key in ("index_key", "work_dir", "num_proc", "num_cpus", "num_gpus", "memory"):
            setattr(self, key, kwargs.get(key))
        self.accelerator = kwargs.get("accelerator") or self._accelerator
        self.batch_size = kwargs.get("batch_size") or 1000
        self.skip_op_error = kwargs.get("skip_op_error", False)
        self.batch_mode = kwargs.get("batch_mode")

    def is_batched_op(self) -> bool:
        """Whether it works on columns of several rows."""
        return bool(self._batched_op or self.batch_mode)

    def use_cuda(self) -> bool:
        """Never: custom operators run in worker processes."""
        return False

    def runtime_np(self) -> int:
        """Processes; the engine decides on them."""
        return 1

    def remove_extra_parameters(
        self, param_dict: dict[str, Any], keys: Any = None
    ) -> dict[str, Any]:
        """The arguments of `__init__`, from its `locals()`."""
        if keys is not None:
            return {name: value for name, value in param_dict.items() if name not in keys}
        return {n: v for n, v in param_dict.items() if n != "self" and not n.startswith("_")}

    def add_parameters(self, init_parameter_dict: dict[str, Any], **extra: Any) -> dict[str, Any]:
        """A copy of some arguments with more."""
        return {**copy.deepcopy(init_parameter_dict), **extra}


def _keeps(cls: type[Any], base: type[Any], names: Iterable[str]) -> None:
    """Refuse methods that the base class keeps to itself."""
    for name in names:
        if name in vars(cls):
            raise TypeError(
                f"{cls.__name__} defines {name}, which {base.__name__} keeps to itself: "
                f"call it {name}_single or {name}_batched"
            )


class Mapper(OP):
    """Rewrites rows: `process_single` or `process_batched`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _keeps(cls, Mapper, ("process",))

    def process_single(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The rewritten row."""
        raise NotImplementedError(f"{type(self).__name__} has no process_single")

    def process_batched(self, samples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Columns of rewritten rows; row by row unless a class does it better."""
        rows = [self.process_single(row) for row in _rows(samples)]
        return _columns(rows)


class Filter(OP):
    """Measures rows and keeps some: `compute_stats_...` and `process_...`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stats_export_path = kwargs.get("stats_export_path")
        self.reversed_range = kwargs.get("reversed_range", False)
        self.min_closed_interval = kwargs.get("min_closed_interval", True) != self.reversed_range
        self.max_closed_interval = kwargs.get("max_closed_interval", True) != self.reversed_range

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _keeps(cls, Filter, ("compute_stats", "process"))

    def get_keep_boolean(self, val: Any, min_val: Any = None, max_val: Any = None) -> bool:
        """Whether a value lies within bounds, as the interval keys say."""
        is_within = True
        if min_val is not None:
            is_within = val >= min_val if self.min_closed_interval else val > min_val
        if is_within and max_val is not None:
            is_within = val <= max_val if self.max_closed_interval else val < max_val
        return bool(is_within) != bool(self.reversed_range)

    def compute_stats_single(self, sample: dict[str, Any], context: bool = False) -> dict[str, Any]:
        """The row with its statistics."""
        raise NotImplementedError(f"{type(self).__name__} has no compute_stats_single")

    def compute_stats_batched(
        self, samples: dict[str, list[Any]], *args: Any, **kwargs: Any
    ) -> dict[str, list[Any]]:
        """Columns with their statistics; row by row unless a class does it better."""
        for at, row in enumerate(_rows(samples)):
            samples[Fields.stats][at] = self.compute_stats_single(row)[Fields.stats]
        return samples

    def process_single(self, sample: dict[str, Any]) -> bool:
        """Whether the row stays."""
        raise NotImplementedError(f"{type(self).__name__} has no process_single")

    def process_batched(self, samples: dict[str, list[Any]]) -> Iterable[bool]:
        """Which rows stay, judged by their statistics alone unless a class does it better."""
        return [self.process_single({Fields.stats: found}) for found in samples[Fields.stats]]


class Deduplicator(OP):
    """Gives rows hashes (`compute_hash`) and keeps one of each kind (`process`)."""

    def compute_hash(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The row with its hash."""
        raise NotImplementedError(f"{type(self).__name__} has no compute_hash")

    def process(self, dataset: Any, show_num: int = 0) -> Any:
        """The dataset without repeats, and pairs of them to show."""
        raise NotImplementedError(f"{type(self).__name__} has no process")


class Selector(OP):
    """Chooses among all rows: `process`."""

    def process(self, dataset: Any) -> Any:
        """The chosen rows."""
        raise NotImplementedError(f"{type(self).__name__} has no process")


class Grouper(OP):
    """Joins rows; cannot be run here."""


class Aggregator(OP):
    """Sums up joined rows; cannot be run here."""


class Pipeline(OP):
    """Runs a pipeline of its own; cannot be run here."""


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
