"""The contest's workflow, from the text file to scores; the same call goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.challenges.ad_captions.labels import halve
from vlforge.challenges.ad_captions.layout import Kit, Mode
from vlforge.challenges.ad_captions.recipe import make_recipe
from vlforge.challenges.ad_captions.spans import check_spans
from vlforge.challenges.ad_captions.weights import changes, outline
from vlforge.runs.store import write_text
from vlforge.types import DataError, ModelError, ProgressFn, no_progress

METRICS = ("cider", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Words:
    """What a command line changes: arguments of the JSON file, and settings of the recipe."""

    arguments: Mapping[str, str]
    overrides: tuple[str, ...]


def split_words(words: Sequence[str]) -> Words:
    """`learning_rate=2e-5` changes an argument, `stages.tune.cache=on` the recipe.

    Raises:
        DataError: no KEY=VALUE.
    """
    arguments: dict[str, str] = {}
    overrides: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise DataError(f"{word!r}: write KEY=VALUE, e.g. learning_rate=2e-5")
        if key.startswith("stages.") or key in ("jobs", "threads", "device"):
            overrides.append(word)
        else:
            arguments[key] = value
    return Words(arguments, tuple(overrides))


def prepare(
    kit: Kit,
    mode: Mode,
    arguments: Mapping[str, str],
    say: Say,
    *,
    val_every: int = 0,
    progress: ProgressFn = no_progress,
) -> Path:
    """Both halves of the data, the check of their pictures, and the recipe; gives its path.

    Raises:
        DataError: data that is not there or cannot be learned from.
        RecipeError: wrong arguments.
        ModelError: no weights to begin with.
    """
    recipe = make_recipe(kit, mode, dict(arguments))
    halves, is_new = halve(kit, val_every=val_every, progress=progress)
    copies = f", {halves.copies:,} copies kept on one side" if halves.copies else ""
    state = "written" if is_new else "there already"
    say(f"Data    {halves.train:,} rows to learn, {halves.val:,} to ask about{copies} ({state})")
    for reason, count in halves.dropped.items():
        say(f"        {count:,} rows in neither: {reason}")
    spans = check_spans(kit.base(mode), (kit.train, kit.val))
    say(
        f"Text    {spans.rows:,} rows have {spans.pictures:,} places for {spans.pictures:,} "
        f"pictures, {spans.tokens} tokens each"
    )
    write_text(kit.recipe(mode), recipe.text())
    return kit.recipe(mode)


def stage_folder(kit: Kit, mode: Mode, stage: str) -> Path | None:
    """What a stage of the run left; None where it is not finished."""
    from vlforge.runs.store import read_done

    try:
        nodes = json.loads((kit.run_dir(mode) / "graph.json").read_text(encoding="utf-8"))["nodes"]
    except (OSError, ValueError, LookupError):
        return None
    for node in nodes:
        folder = kit.run_dir(mode) / str(node.get("folder"))
        if node.get("stage") == stage and read_done(folder) is not None:
            return folder
    return None


def trained(kit: Kit, mode: Mode) -> Path:
    """The weights to hand in, in Paddle's layout.

    Raises:
        DataError: the run has not come so far.
    """
    folder = stage_folder(kit, mode, "whole")
    if folder is None:
        raise DataError(
            f"{kit.run_dir(mode)}: no trained weights there yet; "
            f"vlforge challenge ad-captions run {kit.folder} --mode {mode}"
        )
    return folder


def last_mode(kit: Kit) -> Mode:
    """The mode whose weights were written last; lora where none were."""
    found: list[tuple[float, Mode]] = []
    modes: tuple[Mode, ...] = ("lora", "full")
    for mode in modes:
        folder = stage_folder(kit, mode, "whole")
        if folder is not None:
            found.append(((folder / "done.json").stat().st_mtime, mode))
    return max(found)[1] if found else "lora"


def check_trained(kit: Kit, mode: Mode) -> str:
    """A line on the trained weights against the contest's.

    Raises:
        ModelError: the language model's structure is another.
    """
    base, after = outline(kit.base(mode)), outline(trained(kit, mode))
    found = changes(base, after)
    if found:
        raise ModelError(f"{after.folder}: the language model is not as it was: {'; '.join(found)}")
    language = len(after.language())
    return (
        f"{len(after.shapes):,} tensors, {after.parameters:,} weights; the {language:,} of the "
        "language model have their names and shapes"
    )


def scores(kit: Kit, mode: Mode) -> dict[str, float]:
    """Caption metrics of the val half; empty where they are not there yet."""
    folder = stage_folder(kit, mode, "score")
    if folder is None:
        return {}
    try:
        told: Any = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = told.get("captions", told)
    return {name: float(found[name]) for name in METRICS if name in found}
