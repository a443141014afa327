"""The settings that a `process` run goes by: shown short, saved whole."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

from vlforge.cli.show import plain_line, shown_path, table
from vlforge.engine.config import Mix, ProcessConfig

RECIPE = "recipe.yaml"
_HEAD = "# The settings of this run in full. The same again: vlforge process {path}\n"
_HIDDEN = {"process", "extra", "text_key"}
_secret = re.compile(r"secret|token$|password|api_key|access_key").search
_READ_AS_TRUTH = {"on", "off", "yes", "no"}


def show_settings(config: ProcessConfig, saved: str) -> None:
    """What was set, then the operators with what was set of them; the rest is in the file."""
    changed, others = [], 0
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _HIDDEN or value == _default(field):
            others += field.name not in _HIDDEN
        else:
            is_path = field.name in ("dataset_path", "export_path") and Path(value).is_absolute()
            changed.append((field.name, shown_path(value) if is_path else _short(_set_of(value))))
    operators = [
        (f"process {number}", f"{name} {_short(params)}".strip())
        for number, entry in enumerate(config.process, 1)
        for name, params in (
            _without_secrets(entry) if isinstance(entry, dict) else {entry: None}
        ).items()
    ]
    table(("setting", "value"), [*changed, *operators])
    plain_line(f"{others} more at their defaults: {saved}\n")


def write_settings(config: ProcessConfig, path: Path) -> None:
    """Save all settings as a recipe that runs the same again."""
    from ruamel.yaml import YAML

    tree = {key: value for key, value in dataclasses.asdict(config).items() if key not in _HIDDEN}
    if not config.dataset_path:
        del tree["dataset_path"]
    tree["text_keys"] = config.text_keys or config.text_key
    if config.dataset is None:
        del tree["dataset"]
    tree["process"] = [_without_secrets(entry) for entry in config.process]
    writer = YAML()
    writer.width = 100
    text = io.StringIO()
    writer.dump(_plain({key: value for key, value in tree.items() if value is not None}), text)
    path.write_text(_HEAD.format(path=path.name) + text.getvalue(), encoding="utf-8")


def _set_of(value: Any) -> Any:
    """Of settings that are a table, or tables by name, what was set."""
    if isinstance(value, dict):
        return {name: _set_of(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, Mix):
        return value
    found = {f.name: (getattr(value, f.name), _default(f)) for f in dataclasses.fields(value)}
    return {name: now for name, (now, default) in found.items() if now != default}


def _without_secrets(entry: Any) -> Any:
    """An operator's parameters as they may be shown and kept: passwords and keys are starred."""
    if not isinstance(entry, dict):
        return entry
    return {
        name: {
            key: "***" if value and _secret(key) else value for key, value in (params or {}).items()
        }
        for name, params in entry.items()
    }


def _plain(value: Any) -> Any:
    """What YAML writes so that it is read back as it is, by 1.1 rules too."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.lower() in _READ_AS_TRUTH:
        return DoubleQuotedScalarString(value)
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _short(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, Mix):
        shares = "; ".join(f"{part.weight:g} {shown_path(part.path)}" for part in value.configs)
        return f"{value.max_sample_num} rows of {shares}" if value.max_sample_num else shares
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_short, value))
    return str(value)
