"""MiniGPT-4's commands, and those that its instructions name: img2dataset, FastChat."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.cli.familiar.old import Familiar, OldCommand, Ours, is_script, wanted
from vlforge.types import RecipeError

if TYPE_CHECKING:
    from vlforge.recipe.adopt.minigpt4_config import Layered

_LISTS = {
    "download_cc_sbu.sh": ("ccs_synthetic_filtered_large.tsv", "cc_sbu_dataset"),
    "download_laion.sh": ("laion_synthetic_filtered_large.tsv", "laion_dataset"),
}
_PROGRAM = "img2dataset"
_DELTA = {
    "base": ("base", "base-model-path"),
    "delta": ("delta", "delta-path"),
    "target": ("target", "target-model-path"),
}


def _tool(name: str) -> Familiar:
    return Familiar(
        f"python {name}.py",
        f"vlforge tool {name}",
        is_script(f"{name}.py"),
        lambda old: Ours((("tool", name, *old.words),)),
    )


def _download(name: str) -> Familiar:
    source, folder = _LISTS[name]
    return Familiar(
        f"bash {name}",
        f"vlforge download --url_list {source} --output_folder {folder} ...",
        is_script(name),
        lambda old: Ours((("download", *_script_words(Path(old.program), name), *old.words),)),
    )


def _script_words(script: Path, name: str) -> list[str]:
    """What the script gives img2dataset; the published words where it does not lie there.

    Raises:
        RecipeError: it starts no img2dataset.
    """
    if not script.is_file():
        source, folder = _LISTS[name]
        return [
            "--url_list", source, "--input_format", "tsv", "--url_col", "url", "--caption_col",
            "caption", "--output_format", "webdataset", "--output_folder", folder,
            "--processes_count", "16", "--thread_count", "128", "--image_size", "256",
            "--enable_wandb", "True",
        ]  # fmt: skip
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        words = shlex.split(line, comments=True)
        named = [at for at, word in enumerate(words) if Path(word).name == _PROGRAM]
        if named:
            _refuse_variables(f"{script}:{number}", words)
            return words[named[0] + 1 :]
    raise RecipeError(f"{script}: starts no {_PROGRAM}; give its words to vlforge download")


def _refuse_variables(place: str, words: list[str]) -> None:
    for word in words:
        if "$" in word:
            raise RecipeError(f"{place}: {word} is a shell's; write the value itself")


def option_words(old: OldCommand) -> list[str]:
    """The words behind `--options`, up to the next option."""
    words = list(old.words)
    if "--options" not in words:
        return []
    behind = words[words.index("--options") + 1 :]
    end = next((at for at, word in enumerate(behind) if word.startswith("--")), len(behind))
    return behind[:end]


def _configuration(old: OldCommand) -> tuple[Path, dict[str, str], dict[str, str]]:
    """The file of --cfg-path, what --options changes, and the other options.

    Raises:
        RecipeError: no --cfg-path.
    """
    from vlforge.recipe.adopt.minigpt4_config import option_list

    _, given = old.options()
    path = given.get("cfg-path", given.get("cfg_path", "true"))
    if path == "true":
        raise RecipeError(f"{old.name} needs --cfg-path FILE")
    return Path(path), option_list(option_words(old)), given


def _train(old: OldCommand) -> Ours:
    from vlforge.recipe.adopt.systems import adopt_file

    path, options, _ = _configuration(old)
    many = ("--processes", str(old.processes)) if old.processes else ()
    if not options:
        return Ours((("run", str(path), *many),))
    recipe = f"runs/{adopt_file(path, options).tree['name']}.yaml"
    changes = [f"{key}={value}" for key, value in options.items()]
    return Ours(
        (("adopt", str(path), *changes, "-o", recipe), ("run", recipe, *many)),
        ("an adopted file is a recipe: edit that from now on",),
    )


def _demo(old: OldCommand) -> Ours:
    from vlforge.data.machine import visible_gpus
    from vlforge.recipe.adopt.minigpt4 import demo_words
    from vlforge.recipe.adopt.minigpt4_config import read_layers

    path, options, given = _configuration(old)
    number = given.get("gpu-id") or given.get("gpu_id") or "0"
    if not number.isdecimal():
        raise RecipeError(f"--gpu-id {number} is no number")
    layers = read_layers(path, options)
    device = "auto" if number == "0" else f"cuda:{number}"
    words = demo_words(layers, device)
    if visible_gpus():
        words += ("--precision", "fp16")
    return Ours(((*words, "--no-browser"),), _demo_notes(layers))


def _demo_notes(layers: Layered) -> tuple[str, ...]:
    notes = ["the page sets beams and temperature as the demo does; it is reached from here alone"]
    if layers.get("datasets.cc_sbu_align.vis_processor.train.name") == "blip2_image_train":
        notes.append("pictures are seen whole: blip2_image_train would cut them at random")
    return tuple(notes)


def _is_configured(name: str) -> Familiar:
    """One of the two programs that take --cfg-path."""
    translate = {"train.py": _train, "demo.py": _demo}[name]
    fits = is_script(name)
    old, ours = {
        "train.py": (
            "torchrun --nproc-per-node 4 train.py --cfg-path CFG.yaml --options run.init_lr=5e-5",
            "vlforge adopt CFG.yaml run.init_lr=5e-5 -o RECIPE.yaml; "
            "vlforge run RECIPE.yaml --processes 4",
        ),
        "demo.py": (
            "python demo.py --cfg-path eval_configs/minigpt4_eval.yaml --gpu-id 0",
            "vlforge web CHECKPOINT.pth --vision EVA.pth --qformer BLIP2.pth --language VICUNA",
        ),
    }[name]
    return Familiar(
        old,
        ours,
        lambda one: (
            fits(one) and any(w.startswith(("--cfg-path", "--cfg_path")) for w in one.words)
        ),
        translate,
    )


def _delta(old: OldCommand) -> Ours:
    _, given = old.options(flags=("low-cpu-mem",))
    paths = {
        name: next((given[key] for key in keys if key in given), "")
        for name, keys in _DELTA.items()
    }
    for name, path in paths.items():
        if not path:
            wanted(given, name, "apply_delta")
    return Ours((("merge", paths["base"], paths["delta"], paths["target"]),))


COMMANDS = (
    _tool("convert_cc_sbu"),
    _tool("convert_laion"),
    _download("download_cc_sbu.sh"),
    _download("download_laion.sh"),
    Familiar(
        "img2dataset --url_list LIST.tsv --output_folder OUT --image_size 256",
        "vlforge download --url_list LIST.tsv --output_folder OUT --image_size 256",
        is_script(_PROGRAM),
        lambda old: Ours((("download", *old.words),)),
    ),
    Familiar(
        "python -m fastchat.model.apply_delta --base LLAMA --target VICUNA --delta DELTA",
        "vlforge merge LLAMA DELTA VICUNA",
        lambda old: old.name in ("fastchat.model.apply_delta", "apply_delta.py"),
        _delta,
    ),
    _is_configured("train.py"),
    _is_configured("demo.py"),
)
