"""The scripts that Mini-Gemini and LLaVA share: converters of answers, connector, LoRA."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.cli.familiar.asking import model_folder
from vlforge.cli.familiar.old import OldCommand, Ours, wanted
from vlforge.types import RecipeError

_TOOLS = ("convert_gqa_for_eval", "convert_mmvet_for_eval")
NAMES = (*_TOOLS, "convert_mmbench_for_submission", "convert_seed_for_submission",
         "convert_vizwiz_for_submission", "convert_vqav2_for_submission")  # fmt: skip


def is_converter(old: OldCommand) -> bool:
    """Whether it is one of their converters of answer files."""
    return old.name.removesuffix(".py") in NAMES


def converted(old: OldCommand) -> Ours:
    """What a converter of answer files amounts to.

    Raises:
        RecipeError: an option is missing.
    """
    name = old.name.removesuffix(".py")
    _, given = old.options()
    if name in _TOOLS:
        files = (wanted(given, "src", name), wanted(given, "dst", name))
        return Ours((("tool", name, *files),))
    if name == "convert_mmbench_for_submission":
        experiment = wanted(given, "experiment", name)
        answers = f"{wanted(given, 'result-dir', name)}/{experiment}.jsonl"
        target = f"{wanted(given, 'upload-dir', name)}/{experiment}.xlsx"
        questions = wanted(given, "annotation-file", name)
        return _export(answers, "mmbench", target, ("--questions", questions))
    if name == "convert_vqav2_for_submission":
        folder = given.get("dir", "./playground/data/eval/vqav2")
        split, checkpoint = wanted(given, "split", name), wanted(given, "ckpt", name)
        answers = f"{folder}/answers/{split}/{checkpoint}/merge.jsonl"
        target = f"{folder}/answers_upload/{split}/{checkpoint}.json"
        questions = f"{folder}/llava_vqav2_mscoco_test2015.jsonl"
        return _export(answers, "vqav2", target, ("--questions", questions))
    answers = wanted(given, "result-file", name)
    target = wanted(given, "result-upload-file", name)
    annotation = wanted(given, "annotation-file", name)
    if name == "convert_vizwiz_for_submission":
        return _export(answers, "vizwiz", target, ("--questions", annotation))
    score = ("eval", "score", "--benchmark", "seedbench", "--answers", answers,
             "--annotations", annotation, "--protocol", "llava")  # fmt: skip
    exported = _export(answers, "seedbench", target, ("--annotations", annotation))
    return Ours((score, *exported.commands))


def _export(answers: str, benchmark: str, target: str, files: tuple[str, ...]) -> Ours:
    shape = () if benchmark == "mmbench" else ("--as", "upload")
    return Ours((("eval", "export", answers, benchmark, target, *files, *shape),))


def extracted(old: OldCommand) -> Ours:
    """`extract_mm_projector.py`: a whole model's connector as a file.

    Raises:
        RecipeError: an option is missing.
    """
    _, given = old.options()
    model = model_folder(wanted(given, "model-path", "extract_mm_projector.py"))
    target = wanted(given, "output", "extract_mm_projector.py")
    is_mgm = "mgm" in _model_type(model)
    layout = "mgm_projector" if is_mgm else "llava_projector"
    notes = ("patch mining is in the file too, which the script leaves out",) if is_mgm else ()
    return Ours((("convert-model", model, target, "--to", layout),), notes)


def merged(old: OldCommand) -> Ours:
    """`merge_lora_weights.py`; adapters that a stage of ours left know their base.

    Raises:
        RecipeError: an option is missing.
    """
    _, given = old.options()
    names = ("model-base", "model-path", "save-model-path")
    base, adapter, out = (wanted(given, name, "merge_lora_weights.py") for name in names)
    adapter = model_folder(adapter)
    meta = Path(adapter) / "adapted.json"
    if not meta.is_file():
        return Ours((("merge", base, adapter, out),))
    layout = "mgm" if '"mgm"' in meta.read_text(encoding="utf-8") else "llava"
    return Ours((("convert-model", adapter, out, "--to", layout),))


def _model_type(folder: str) -> str:
    try:
        text = (Path(folder) / "config.json").read_text(encoding="utf-8")
        return str(json.loads(text).get("model_type", ""))
    except FileNotFoundError:
        raise RecipeError(f"{folder}: holds no config.json; give a model folder") from None
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(f"{folder}: its config.json cannot be read ({error})") from None
