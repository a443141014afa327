"""The contest's rules, looked at before any hour is spent."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vlforge.challenges.ad_captions.arguments import read_arguments, training_of
from vlforge.challenges.ad_captions.labels import read_receipt, shared_pictures
from vlforge.challenges.ad_captions.layout import Kit, Mode, given_parts, is_paddle
from vlforge.challenges.ad_captions.recipe import check_mode
from vlforge.challenges.ad_captions.running import stage_folder
from vlforge.challenges.ad_captions.shell import faults_of
from vlforge.challenges.ad_captions.sides import Look, looked_at
from vlforge.challenges.ad_captions.spans import check_spans
from vlforge.challenges.ad_captions.weights import adapter_size, changes, outline
from vlforge.challenges.verdicts import Verdict, broken, kept, warning
from vlforge.data.formats.tsv_base64 import TsvBase64Format
from vlforge.data.machine import ask_gpus
from vlforge.data.records import Fault, Record
from vlforge.types import ProgressFn, VLForgeError, no_progress

COMMAND = "vlforge challenge ad-captions"
PUBLISHED = 9_656_935_168
"""Weights of the contest's model."""
GPU_GB = {"lora": 25.0, "full": 32.0}
"""What training took on the contest's cards: reserved with LoRA; more than that in full."""
DECODED = 20_000
"""So many pictures are decoded; of the others the base64 and the first bytes are read."""
_SHOWN = 5
_SMALL_GB = 1.0
_STATE = 12
"""Bytes of a weight that learns in a checkpoint: itself and two moments, in fp32."""
_FROZEN, _LEARNING = 2, 16
"""Bytes of a weight in memory: half precision; fp32 with its gradient and two moments."""
NO_CHECKPOINTS = "stages.tune.save_every_samples=0"
_GB = 1e9


@dataclass
class Looked:
    """What a check came to; `bad_rows` are the rows of the text file that are left out."""

    verdicts: list[Verdict] = field(default_factory=list)
    bad_rows: list[dict[str, object]] = field(default_factory=list)

    @property
    def broken(self) -> list[Verdict]:
        """The rules that are broken."""
        return [one for one in self.verdicts if one.verdict == "broken"]


def check_kit(
    kit: Kit,
    mode: Mode,
    *,
    weights: Path | None = None,
    quick: bool = False,
    checkpoints: bool = True,
    progress: ProgressFn = no_progress,
) -> Looked:
    """Every rule; those about what is not there yet are left out. Nothing is written.

    Args:
        weights: what is to be handed in, where it is not the run's.
        quick: leave out what reads the data.
        checkpoints: whether training keeps any.
    """
    looked = Looked()
    given = given_files(kit, mode)
    looked.verdicts.append(given)
    is_there = given.verdict == "kept"
    rules: tuple[tuple[str, bool, Callable[[], Verdict]], ...] = (
        ("arguments", is_there, lambda: arguments(kit, mode)),
        ("paddle-weights", is_there, lambda: paddle_weights(kit, mode, weights)),
        ("llm-structure", is_there, lambda: llm_structure(kit, mode, weights)),
        ("readable-data", is_there and not quick, lambda: readable_data(kit, looked, progress)),
        ("no-leakage", is_there and not quick, lambda: no_leakage(kit, progress)),
        ("pictures-in-text", is_there and not quick, lambda: pictures_in_text(kit, mode)),
        ("paddle-code", True, lambda: paddle_code(kit)),
        ("posix-run-sh", True, lambda: posix_run_sh(kit)),
        ("disk", is_there, lambda: disk(kit, mode, checkpoints=checkpoints)),
        ("memory", is_there, lambda: memory(kit, mode)),
    )
    for name, is_asked, rule in rules:
        try:
            looked.verdicts += [rule()] if is_asked else []
        except VLForgeError as error:
            found, _, remedy = " ".join(str(error).split()).partition("; ")
            looked.verdicts.append(broken(name, found, remedy or "mend what it says"))
    return looked


def given_files(kit: Kit, mode: Mode) -> Verdict:
    """What the contest gives is there."""
    parts = [part for part in given_parts(kit, mode) if part.state == "missing"]
    if not parts:
        return kept("given-files", f"{_shown(kit, kit.tsv())}, {_shown(kit, kit.base(mode))}")
    names = " and ".join(f"{_shown(kit, part.path)} ({part.about})" for part in parts)
    return broken("given-files", f"not there: {names}",
                  f"vlforge fetch mgen_vl {kit.folder} says where to get it")  # fmt: skip


def arguments(kit: Kit, mode: Mode) -> Verdict:
    """The JSON of the training is there and can be followed; how much it trains."""
    read = read_arguments(kit.config(mode))
    check_mode(kit, mode, read)
    settings = training_of(read)
    most = settings.get("steps")
    budget = f"{most} steps" if most else f"{settings['epochs']:g} epochs"
    batch = settings["micro_batch"] * settings["accumulation"]
    told = f"batch {batch} a GPU, {budget}, lr {settings['optimiser']['lr']:g}"
    if mode == "full":
        return kept("arguments", f"{told}; learns: {', '.join(settings['train'])}")
    rank, size = settings["lora"]["rank"], _adapter(kit, mode)
    if size is None:
        return kept("arguments", f"{told}; LoRA of rank {rank}")
    whole = outline(kit.base(mode)).parameters
    share = 100 * size[1] / (whole + size[1])
    return kept(
        "arguments",
        f"{told}; LoRA of rank {rank} on {size[0]} layers, {size[1]:,} weights learn "
        f"({share:.2f} %)",
    )


def _adapter(kit: Kit, mode: Mode) -> tuple[int, int] | None:
    """Layers and weights of the adapter, where its targets are the published ones."""
    lora = training_of(read_arguments(kit.config(mode)))["lora"]
    if lora["targets"] != "ad_captions":
        return None
    return adapter_size(outline(kit.base(mode)).shapes, lora["rank"])


def paddle_weights(kit: Kit, mode: Mode, weights: Path | None) -> Verdict:
    """Weights are `.pdparams` in the original layout, with config.json and the tokenizer."""
    rule = "paddle-weights"
    folders = [kit.base(mode), *_handed_in(kit, mode, weights)]
    for folder in folders:
        if not is_paddle(folder):
            return broken(rule, f"{folder} holds no .pdparams",
                          f"vlforge convert-model {folder} OUT --to paddle")  # fmt: skip
        lacks = [name for name in ("config.json", "qwen.tiktoken") if not (folder / name).is_file()]
        if lacks:
            return broken(rule, f"{folder} lacks {', '.join(lacks)}",
                          "copy it from the contest's weights")  # fmt: skip
    names = ", ".join(_shown(kit, folder) for folder in folders)
    return kept(rule, f"{names}: .pdparams, config.json, tokenizer")


def llm_structure(kit: Kit, mode: Mode, weights: Path | None) -> Verdict:
    """The language model to hand in has the names, shapes and number of weights it had."""
    rule = "llm-structure"
    base = outline(kit.base(mode))
    told = f"{base.parameters:,} weights, {len(base.language()):,} tensors of the language model"
    handed = _handed_in(kit, mode, weights)
    if not handed:
        return kept(rule, f"{told}; nothing is trained yet")
    found = changes(base, outline(handed[0]))
    if found:
        remedy = "train on the contest's weights and leave the language model's sizes"
        return broken(rule, f"{_shown(kit, handed[0])}: {'; '.join(found)}", remedy)
    return kept(rule, f"{_shown(kit, handed[0])} has the same names and shapes: {told}")


def readable_data(kit: Kit, looked: Looked, progress: ProgressFn) -> Verdict:
    """Every row of the text file is id, picture and caption; those that are not are listed."""
    rule, good = "readable-data", 0
    rows = TsvBase64Format().read(kit.tsv())
    for found, look in looked_at(islice(rows, DECODED), _content):
        fault = found if isinstance(found, Fault) else _fault(found, look)
        good += fault is None
        if fault is not None:
            _note(looked, found, fault)
        if good % 500 == 0:
            progress(good, None, "reading the data")
    for found in rows:
        if isinstance(found, Fault):
            _note(looked, found, found)
        good += not isinstance(found, Fault)
    name = kit.tsv().name
    if not good:
        return broken(rule, f"{name}: no row can be read", "each line is id, base64, caption")
    if not looked.bad_rows:
        return kept(rule, f"{name}: {good:,} rows")
    found = f"{name}: {good:,} rows, {len(looked.bad_rows):,} are left out: {_told(looked)}"
    return warning(rule, found, "they are in neither half; --json lists all")


def _told(looked: Looked) -> str:
    """The rows that are left out by their reasons."""
    lines: dict[str, list[str]] = {}
    for row in looked.bad_rows:
        lines.setdefault(str(row["reason"]), []).append(str(row["line"]))
    return "; ".join(
        f"{reason} (line {', '.join(at[:_SHOWN])}{', …' if len(at) > _SHOWN else ''})"
        for reason, at in lines.items()
    )


def no_leakage(kit: Kit, progress: ProgressFn) -> Verdict:
    """No picture of val, nor a copy of it, is learned."""
    rule = "no-leakage"
    halves = read_receipt(kit)
    if halves is not None and kit.train.is_file() and kit.val.is_file():
        found = f"{halves.train:,} rows to learn, {halves.val:,} to ask about"
        return kept(rule, f"{found}, {halves.copies:,} copies kept on one side")
    if not (kit.train.is_file() and kit.val.is_file()):
        return kept(rule, "the data is not divided yet; run does it, copies on one side")
    shared, rows = shared_pictures(kit.train, kit.val, progress)
    if shared:
        return broken(rule, f"{len(shared):,} rows of train.json show pictures of val.json "
                      f"(the first: {shared[0]})",
                      "move both away; run makes them apart")  # fmt: skip
    return kept(rule, f"{rows[0]:,} rows to learn share no picture with {rows[1]:,} to ask about")


def pictures_in_text(kit: Kit, mode: Mode) -> Verdict:
    """Each picture has its place in the text that is learned."""
    rule = "pictures-in-text"
    files = tuple(path for path in (kit.train, kit.val) if path.is_file())
    if not files:
        return kept(rule, "looked at when the data is divided, before training")
    spans = check_spans(kit.base(mode), files)
    return kept(rule, f"{spans.rows:,} rows have {spans.pictures:,} places for as many pictures, "
                f"{spans.tokens} tokens each")  # fmt: skip


def paddle_code(kit: Kit) -> Verdict:
    """The source to hand in is the contest's, on PaddlePaddle."""
    rule, source = "paddle-code", kit.folder / "src"
    uses = [file for file in sorted(source.rglob("*.py")) if _imports_paddle(file)]
    if uses:
        return kept(
            rule, f"{uses[0].relative_to(kit.folder)} imports paddle: package --src {source}"
        )
    found = "src/ imports no paddle" if source.is_dir() else "no src/ of your own"
    return warning(
        rule,
        f"{found}: without --src the package gets VLForge's predict.py, which runs on torch",
        f"an official submission is the contest's Paddle code: {COMMAND} package {kit.folder} "
        "--src FOLDER",
    )


def posix_run_sh(kit: Kit) -> Verdict:
    """run.sh is for any `sh`."""
    rule = "posix-run-sh"
    scripts = [
        path for path in (kit.folder / "run.sh", kit.folder / "src/run.sh") if path.is_file()
    ]
    faults = [fault for script in scripts for fault in faults_of(script)]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        return broken(rule, f"{'; '.join(faults[:_SHOWN])}{more}",
                      "or remove it: package writes a run.sh of its own")  # fmt: skip
    if not scripts:
        return kept(rule, "package writes one")
    return kept(rule, ", ".join(_shown(kit, script) for script in scripts))


def disk(kit: Kit, mode: Mode, *, checkpoints: bool = True) -> Verdict:
    """Weights, checkpoints (two for a moment) and zip fit on the disk."""
    rule = "disk"
    base = _bytes_of(kit.base(mode))
    is_trained = stage_folder(kit, mode, "tune") is not None
    wanted: list[tuple[str, int, bool]] = [
        ("divided data", kit.tsv().stat().st_size * 11 // 10, kit.train.is_file()),
        ("trained", _learning(kit, mode) * 4, is_trained),
        ("checkpoints", _learning(kit, mode) * 2 * _STATE if checkpoints else 0, is_trained),
        ("weights to hand in", base, stage_folder(kit, mode, "whole") is not None),
        ("submission.zip", base, (kit.submit / "submission.zip").is_file()),
    ]
    left = [(name, size) for name, size, is_there in wanted if not is_there]
    needed, free = sum(size for _, size in left), shutil.disk_usage(kit.folder).free
    parts = ", ".join(f"{name} {shown_size(size)}" for name, size in left if size)
    told = f"{shown_size(needed)} to come ({parts})" if needed else "nothing more to come"
    found = f"{told}, {shown_size(free)} free"
    if needed > free:
        clean = f"vlforge clean {kit.run_dir(mode)} frees what is no longer needed"
        without = (
            f"{NO_CHECKPOINTS} keeps no checkpoints" if checkpoints else "link runs/ elsewhere"
        )
        return broken(rule, found, f"free some; {clean}; {without}")
    return kept(rule, found)


def memory(kit: Kit, mode: Mode) -> Verdict:
    """A GPU that holds the training, by what it took in the contest, and what it takes here."""
    rule = "memory"
    whole = outline(kit.base(mode)).parameters
    needed = GPU_GB[mode] * _GB * whole / PUBLISHED
    learns = _learning(kit, mode)
    here = whole * _FROZEN + learns * _LEARNING
    name = "LoRA" if mode == "lora" else "all of the language model"
    told = f"{name} took {'about' if mode == 'lora' else 'more than'} {shown_size(needed)} there"
    told += f", takes {shown_size(here)} and the rows' own here"
    if max(needed, here) < _SMALL_GB * _GB:
        return kept(rule, f"a model so small needs no GPU ({told})")
    sizes = [float(line.split()[0]) * 2**20 for line in ask_gpus("memory.total") if line]
    if not sizes:
        return warning(rule, f"{told}; no GPU is seen here", "run on a machine with one")
    told += f"; the largest of {len(sizes)} GPUs has {shown_size(max(sizes))}"
    if max(sizes) < needed:
        remedy = "take --mode lora" if mode == "full" else "take stages.tune.quantise=4bit"
        return broken(rule, told, remedy)
    if max(sizes) < here:
        return warning(rule, told, "share the model out: stages.tune.parallel=zero3 on several "
                       "GPUs, or take --mode lora")  # fmt: skip
    return kept(rule, told)


def _learning(kit: Kit, mode: Mode) -> int:
    """Weights that learn."""
    if mode == "lora":
        size = _adapter(kit, mode)
        return 0 if size is None else size[1]
    return sum(map(math.prod, outline(kit.base(mode)).language().values()))


def shown_size(count: float) -> str:
    """Bytes in GB, small ones in MB."""
    return f"{count / _GB:,.1f} GB" if count >= _GB else f"{count / 1e6:,.1f} MB"


def _handed_in(kit: Kit, mode: Mode, weights: Path | None) -> list[Path]:
    folder = weights or stage_folder(kit, mode, "whole")
    return [] if folder is None else [folder]


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())


def _fault(record: Record, look: object) -> Fault | None:
    if not isinstance(look, Look):
        return Fault(record.line, "a picture cannot be decoded", str(look))
    if not record.chunks or not record.chunks[0].split("\n", 1)[-1].strip():
        return Fault(record.line, "no caption")
    return None


def _note(looked: Looked, found: Record | Fault, fault: Fault) -> None:
    given = found.id if isinstance(found, Record) else None
    looked.bad_rows.append(
        {"line": fault.line, "id": given, "reason": fault.reason, "value": fault.value}
    )


def _content(found: Record | Fault) -> bytes | None:
    return found.pictures[0].read() if isinstance(found, Record) else None


def _imports_paddle(file: Path) -> bool:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split()[:2] and line.split()[0] in ("import", "from")
               and line.split()[1].split(".")[0].startswith("paddle") for line in lines
               if len(line.split()) > 1)  # fmt: skip


def _shown(kit: Kit, path: Path) -> str:
    return str(path.relative_to(kit.folder)) if path.is_relative_to(kit.folder) else str(path)


def as_json(looked: Looked) -> str:
    """Verdicts and bad rows for other programs."""
    rows = [one.__dict__ for one in looked.verdicts]
    return json.dumps({"verdicts": rows, "bad_rows": looked.bad_rows}, ensure_ascii=False, indent=1)
