"""The commands of the ad-captioning task: PaddleMIX's tools, and the contest's own programs."""

from __future__ import annotations

import ast
from pathlib import Path

from vlforge.cli.familiar.old import Familiar, OldCommand, Ours, is_script, wanted
from vlforge.types import RecipeError

PROMPT = "请描述图片内容"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def _labels(old: OldCommand) -> Ours:
    return Ours((("tool", "convert_labels", *old.words),))


def _is_finetuning(old: OldCommand) -> bool:
    """The program itself, or PaddleMIX's train.sh, which starts it."""
    if is_script("supervised_finetune.py")(old):
        return True
    return old.name == "train.sh" and [Path(one).suffix for one in old.words] == [".json"]


def _finetune(old: OldCommand) -> Ours:
    files = [word for word in old.words if word.endswith(".json")]
    if len(files) != 1 or len(old.words) != 1:
        raise RecipeError(
            "supervised_finetune.py takes one JSON of arguments: vlforge compat "
            "supervised_finetune.py config/mgen_vl/lora_sft_argument.json"
        )
    many = ("--processes", str(old.processes)) if old.processes else ()
    return Ours((("run", files[0], *many),))


def _merge(old: OldCommand) -> Ours:
    _, given = old.options()
    base, lora = (wanted(given, key, old.name) for key in ("model_name_or_path", "lora_path"))
    trained, notes = _trained(Path(lora))
    target = given.get("merge_model_path")
    if target is None:
        target = f"{lora.rstrip('/')}_merged"
        notes.append(f"without --merge_model_path the merged model would lie in LORA: {target}")
    return Ours((("merge", base, str(trained), target, "--to", "paddle"),), tuple(notes))


def _trained(path: Path) -> tuple[Path, list[str]]:
    """The adapters: there, or in the run that the same JSON gave here."""
    if path.exists():
        return path, []
    run = Path("runs") / path.name
    stages = sorted(one.parent for one in run.glob("*/adapted.json"))
    if len(stages) == 1:
        return stages[0], [f"{path} is not there; what the run of that name trained is taken"]
    raise RecipeError(
        f"--lora_path {path}: no such folder, and no run {run} with adapters; name the stage's "
        "folder, e.g. runs/NAME/01-tune"
    )


def _chat(old: OldCommand) -> Ours:
    places, _ = old.options()
    if not places:
        raise RecipeError("chat.py needs the model's folder: vlforge compat chat.py WEIGHTS IMAGE")
    image = places[1] if len(places) > 1 else _picture_in(Path(old.program))
    words = ("chat", places[0], "--image", image, "--question", PROMPT)
    return Ours(((*words, *_precision()),))


def _picture_in(script: Path) -> str:
    """The picture that a chat.py names.

    Raises:
        RecipeError: it names none, or several; says how to name one.
    """
    remedy = "name the picture behind WEIGHTS: vlforge compat chat.py WEIGHTS IMAGE"
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        raise RecipeError(f"{script}: does not say which picture it shows; {remedy}") from None
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower().endswith(_PICTURES)
    }
    if len(named) != 1:
        raise RecipeError(f"{script}: names {len(named)} pictures; {remedy}")
    return named.pop()


def _predict(old: OldCommand) -> Ours:
    if len(old.words) not in (3, 4):
        raise RecipeError(f"{old.name} takes INPUT OUTPUT WEIGHTS, not {len(old.words)} words")
    source, target, weights = old.words[:3]
    notes = ()
    if len(old.words) == 4:
        notes = ("this Python answers; the fourth word, another one, is not started",)
    words = ("predict", weights, source, target, "--to", "tsv", "--overwrite")
    return Ours(((*words, *_precision()),), notes)


def _precision() -> tuple[str, ...]:
    """Half precision where a GPU is, as the baseline has it."""
    from vlforge.data.machine import visible_gpus

    return ("--precision", "bf16") if visible_gpus() else ()


def _takes_files(name: str) -> Familiar:
    """run.sh or predict.py: INPUT OUTPUT WEIGHTS."""
    python = " [PYTHON]" if name == "run.sh" else ""
    shell = "sh" if name == "run.sh" else "python"
    return Familiar(
        f"{shell} {name} INPUT OUTPUT WEIGHTS{python}",
        "vlforge predict WEIGHTS INPUT OUTPUT --to tsv --overwrite",
        is_script(name),
        _predict,
    )


COMMANDS = (
    Familiar(
        "python convert_labels.py TRAIN.txt OUTDIR",
        "vlforge tool convert_labels TRAIN.txt OUTDIR",
        is_script("convert_labels.py"),
        _labels,
    ),
    Familiar(
        "python supervised_finetune.py config/mgen_vl/lora_sft_argument.json",
        "vlforge run config/mgen_vl/lora_sft_argument.json",
        _is_finetuning,
        _finetune,
    ),
    Familiar(
        "python merge_lora_params.py --model_name_or_path BASE --lora_path LORA "
        "--merge_model_path OUT",
        "vlforge merge BASE LORA OUT --to paddle",
        is_script("merge_lora_params.py"),
        _merge,
    ),
    Familiar(
        "python chat.py WEIGHTS",
        f"vlforge chat WEIGHTS --image IMAGE --question {PROMPT}",
        is_script("chat.py"),
        _chat,
    ),
    _takes_files("predict.py"),
    _takes_files("run.sh"),
)
