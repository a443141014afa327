"""A small `data_juicer` package for files that import it, lent to them while they run.

It is put where `import` looks only while a custom operator is loaded or works,
and only where the real package is not installed. What is not in it is missed by
its name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vlforge.ops.custom import bases
from vlforge.types import EOC_TOKEN, IMAGE_TOKEN

BASES = "data_juicer.ops.base_op"
_CONSTANTS = ("Fields", "StatsKeys", "MetaKeys", "BatchMetaKeys", "HashKeys", "InterVars")
_CLASSES = (
    "OP",
    "Mapper",
    "Filter",
    "Deduplicator",
    "Selector",
    "Grouper",
    "Aggregator",
    "Pipeline",
)
_REGISTRIES = ("OPERATORS", "TAGGING_OPS", "NON_STATS_FILTERS", "UNFORKABLE", "ATTRIBUTION_FILTERS")
_SHARED_VARIABLES = ("INTER_LINES", "INTER_WORDS", "LOADED_IMAGES")


@functools.cache
def is_installed(package: str = "data_juicer") -> bool:
    """Whether the real package is there."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def base_classes() -> Any:
    """The module with the base classes and registries that custom files meet."""
    return importlib.import_module(BASES) if is_installed() else bases


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """Let `import data_juicer` work for a while; nothing changes where it works anyway."""
    missing = {} if is_installed() else dict(_package())
    if not is_installed("loguru"):
        missing["loguru"] = _module("loguru", logger=_Logger())
    mine = {name: module for name, module in missing.items() if name not in sys.modules}
    sys.modules.update(mine)
    try:
        yield
    finally:
        for name in mine:
            sys.modules.pop(name, None)


def use_tokens(image: str, eoc: str) -> None:
    """Tell custom operators the special tokens of the recipe."""
    SpecialTokens.image, SpecialTokens.eoc = image, eoc


class SpecialTokens:
    """The tokens that stand for pictures and ends of chunks in a text."""

    image = IMAGE_TOKEN
    audio = "<__dj__audio>"
    video = "<__dj__video>"
    eoc = EOC_TOKEN


def remove_special_tokens(text: str) -> str:
    """The text without special tokens."""
    for token in (SpecialTokens.image, SpecialTokens.audio, SpecialTokens.video, SpecialTokens.eoc):
        text = text.replace(token, "").strip()
    return text


def load_image(path_or_bytes: str | bytes) -> Any:
    """A picture, upright."""
    from vlforge.data.images import load_upright

    return load_upright(path_or_bytes, truncated="fill")


def load_data_with_context(
    sample: dict[str, Any],
    context: bool,
    loaded_data_keys: list[str],
    load_func: Callable[[Any], Any],
    mm_bytes_key: str | None = None,
    sample_idx: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a row's files hold, by their paths; bytes in the row go before the file."""
    content = sample.get(mm_bytes_key) if mm_bytes_key else None
    if sample_idx is not None and content:
        content = content[sample_idx]
    found = {}
    for at, key in enumerate(loaded_data_keys):
        inside = content[at] if isinstance(content, list) and at < len(content) else None
        found[key] = load_func(inside or key)
    return sample, found


def size_to_bytes(size: str) -> int:
    """Bytes of a size such as `1.5mb`."""
    from vlforge.ops.image.sizes import size_in_bytes

    return int(size_in_bytes(size))


class LazyLoader(types.ModuleType):
    """A module that is imported when something of it is asked for."""

    def __init__(self, module_name: str, *_: Any, **__: Any):
        super().__init__(module_name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _Logger:
    """The part of loguru's logger that operators use."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("vlforge.custom")

    def __getattr__(self, name: str) -> Callable[..., None]:
        level = {"trace": 10, "success": 20, "exception": 40}.get(name)
        level = level or logging.getLevelName(name.upper())
        if not isinstance(level, int):
            raise AttributeError(f"the logger lent to custom operators has no {name!r}")
        return functools.partial(self._log, level)

    def _log(self, level: int, message: Any, *args: Any, **kwargs: Any) -> None:
        text = str(message)
        self._logger.log(level, "%s", text.format(*args, **kwargs) if args or kwargs else text)


@functools.cache
def _package() -> Mapping[str, types.ModuleType]:
    """All modules of the stand-in, by name."""
    classes = {name: getattr(bases, name) for name in (*_CLASSES, *_REGISTRIES)}
    shared = {name: bases.Registry(name) for name in _SHARED_VARIABLES}
    constants = {name: getattr(bases, name) for name in _CONSTANTS}
    found = {
        "data_juicer": _module("data_juicer", __path__=[]),
        "data_juicer.ops": _module("data_juicer.ops", __path__=[], **classes),
        BASES: _module(BASES, Fields=bases.Fields, **classes),
        "data_juicer.ops.op_fusion": _module("data_juicer.ops.op_fusion", **shared),
        "data_juicer.utils": _module("data_juicer.utils", __path__=[]),
        "data_juicer.utils.constant": _module(
            "data_juicer.utils.constant", DEFAULT_PREFIX=bases.PREFIX, **constants
        ),
        "data_juicer.utils.registry": _module(
            "data_juicer.utils.registry", Registry=bases.Registry
        ),
        "data_juicer.utils.lazy_loader": _module(
            "data_juicer.utils.lazy_loader", LazyLoader=LazyLoader
        ),
        "data_juicer.utils.mm_utils": _module(
            "data_juicer.utils.mm_utils",
            SpecialTokens=SpecialTokens,
            remove_special_tokens=remove_special_tokens,
            load_image=load_image,
            load_data_with_context=load_data_with_context,
            size_to_bytes=size_to_bytes,
        ),
    }
    for name, module in found.items():
        outer, _, inner = name.rpartition(".")
        if outer:
            setattr(found[outer], inner, module)
    return found


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name, "Lent by VLForge; not the real package.")
    vars(module).update(content)
    return module
