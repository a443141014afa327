"""Mini-Gemini's and LLaVA's evaluation programs as `eval run`, `eval score` and `eval export`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vlforge.cli.familiar.old import OldCommand, Ours, wanted
from vlforge.data.machine import visible_gpus
from vlforge.types import RecipeError

Command = tuple[str, ...]
FLAGS = ("single-pred-prompt", "all-rounds", "load-8bit", "load-4bit", "ocr", "gen", "debug",
         "answer-prompter", "multi-modal", "no-register", "use-flash-attn")  # fmt: skip
"""Options of theirs that take no value."""
_BY_FILE = (
    ("textvqa", "textvqa"), ("llava_mme", "mme"), ("pope", "pope"), ("gqa", "gqa"),
    ("seed", "seedbench"), ("vqav2", "vqav2"), ("mm-vet", "mmvet"), ("mmvet", "mmvet"),
    ("vizwiz", "vizwiz"), ("llava-bench", "llava_bench"),
)  # fmt: skip
"""What a question file's path says about its benchmark."""
_BY_PROGRAM = {
    "model_vqa_mmbench": "mmbench", "model_vqa_science": "scienceqa",
    "model_math_vista": "mathvista", "model_vqa_qbench": "qbench", "run_llava": "mmmu",
}  # fmt: skip
_LONGEST = {"model_vqa_loader": "128", "run_llava": "128"}
_OF_EVALUATION = (
    "model_vqa", "model_vqa_loader", "model_vqa_mmbench", "model_vqa_science", "model_math_vista",
    "model_vqa_qbench", "run_llava", "eval_textvqa", "eval_pope", "eval_science_qa",
)  # fmt: skip
_SCORES = {"eval_textvqa": "textvqa", "eval_pope": "pope", "eval_science_qa": "scienceqa"}


def module_of(old: OldCommand) -> str:
    """`mgm.eval.model_vqa` of `python -m mgm.eval.model_vqa` and `python mgm/eval/model_vqa.py`."""
    return re.sub(r"[/\\]", ".", old.program.removesuffix(".py")).lstrip(".")


def is_module(name: str, *packages: str) -> Callable[[OldCommand], bool]:
    """Whether the program is that module of one of the packages."""
    names = tuple(f"{package}.{name}" for package in packages)

    def fits(old: OldCommand) -> bool:
        module = module_of(old)
        return any(module == one or module.endswith(f".{one}") for one in names)

    return fits


def is_evaluation(old: OldCommand) -> bool:
    """Whether it is one of their programs that ask or score."""
    module = module_of(old)
    if module.endswith(".run_llava"):
        return "MMMU" in module
    return module.rpartition(".")[2] in _OF_EVALUATION


def evaluation(old: OldCommand, package: str) -> Ours:
    """What an evaluation program of theirs amounts to.

    Raises:
        RecipeError: an option is missing, or cannot be done here.
    """
    name = module_of(old).rpartition(".")[2]
    _, given = old.options(FLAGS)
    given = {key.replace("_", "-"): value for key, value in given.items()}
    if name in _SCORES:
        return _score(name, given)
    return _ask(name, given, package)


def model_folder(path: str) -> str:
    """A model's folder; of a run of ours the last one that it left.

    Theirs write the model to an output folder, ours to a stage's folder within a run.
    """
    from vlforge.recipe.adopt.earlier_runs import model_left_in

    if any((Path(path) / name).is_file() for name in ("config.json", "adapted.json")):
        return path
    return str(model_left_in(path) or path)


def template_of(name: str, package: str) -> str:
    """A conversation mode under our name."""
    return "mgm_mistral_instruct" if (name, package) == ("mistral_instruct", "mgm") else name


def loading(given: Mapping[str, str]) -> Command:
    """`--load-4bit`, `--load-8bit` and a device as ours say them; fp16 on a GPU, as there."""
    words: list[str] = []
    if given.get("load-4bit", "").lower() == "true":
        words += ["--quantise", "4bit"]
    elif given.get("load-8bit", "").lower() == "true":
        words += ["--quantise", "8bit"]
    device = given.get("device", "")
    if device and device != "cuda":
        words += ["--device", device]
    if visible_gpus() and device in ("", "cuda"):
        words += ["--precision", "fp16"]
    return tuple(words)


def whole(given: Mapping[str, str]) -> tuple[str, list[Command]]:
    """The model to open, and what has to run before it is whole."""
    path = wanted(given, "model-path", "the program")
    base = given.get("model-base", "")
    found = model_folder(path)
    # An adapter of ours knows its base, and is opened with it.
    if base in ("", "None") or (Path(found) / "adapted.json").is_file():
        return found, []
    merged = f"{path.rstrip('/')}-merged"
    if Path(merged).is_dir():
        return merged, []
    return merged, [("merge", base, path, merged)]


def _benchmark(name: str, questions: str) -> str:
    if name in _BY_PROGRAM:
        return _BY_PROGRAM[name]
    text = questions.lower()
    found = next((benchmark for part, benchmark in _BY_FILE if part in text), "")
    if not found:
        raise RecipeError(
            f"{questions}: no benchmark that is known by its path; "
            "`vlforge eval run MODEL --benchmark custom` asks any questions"
        )
    return found


def _ask(name: str, given: dict[str, str], package: str) -> Ours:
    if given.get("chunk-idx", "0") not in ("", "0"):
        return Ours((), ("chunk 0 asks all questions, shared out over the GPUs: nothing to do",))
    for option, plain in (("num-beams", "1"), ("all-rounds", "false")):
        if given.get(option, plain).lower() != plain:
            raise RecipeError(f"--{option} {given[option]} is not possible here; leave it out")
    questions = given.get("question-file") or given.get("questions-file") or given.get("data-path")
    if not questions:
        raise RecipeError(f"{name} needs --question-file")
    benchmark = _benchmark(name, questions)
    model, before = whole(given)
    answers = given.get("answers-file", "answer.jsonl")
    out = re.sub(r"\.jsonl?$", "", answers)
    words = ["eval", "run", model, "--benchmark", benchmark, "--questions", questions]
    if given.get("image-folder"):
        words += ["--images", given["image-folder"]]
    if benchmark == "mme" and given.get("image-folder"):
        words += ["--annotation", given["image-folder"]]
    if "conv-mode" in given:
        words += ["--template", template_of(given["conv-mode"], package)]
    if benchmark in ("mmbench", "mmmu"):
        words += ["--prompt", "mgm" if package == "mgm" or benchmark == "mmmu" else "llava"]
    longest = given.get("max-new-tokens") or _LONGEST.get(name, "1024")
    words += ["--max-new-tokens", longest, "--out", out, *loading(given)]
    export = ("eval", "export", out, benchmark, answers, "--as", "llava")
    return Ours((*before, tuple(words), export), tuple(_notes(given, benchmark)))


def _notes(given: Mapping[str, str], benchmark: str) -> Iterator[str]:
    temperature = given.get("temperature", "0.2")
    if benchmark == "mmmu":
        yield "answers are the likeliest ones; theirs are sampled and move from run to run"
    elif float(temperature or 0) > 0:
        yield f"answers are the likeliest ones; temperature {temperature} samples them there"
    if given.get("num-chunks", "1") not in ("", "1"):
        yield "all questions are asked at once, shared out over the GPUs"
    if benchmark == "mmbench" and given.get("single-pred-prompt") != "true":
        yield "the question ends with the request for a letter, as --single-pred-prompt there"


def _score(name: str, given: Mapping[str, str]) -> Ours:
    benchmark = _SCORES[name]
    answers = wanted(given, "result-file", name)
    words = ["eval", "score", "--benchmark", benchmark, "--answers", answers]
    if name == "eval_science_qa":
        base = wanted(given, "base-dir", name)
        split = given.get("split", "test")
        words += ["--annotations", f"{base}/problems.json"]
        words += ["--questions", f"{base}/llava_{split}_CQM-A.json", "--protocol", "llava"]
    elif name == "eval_pope":
        words += ["--annotations", wanted(given, "annotation-dir", name)]
        words += ["--questions", wanted(given, "question-file", name), "--protocol", "llava"]
    else:
        words += ["--annotations", wanted(given, "annotation-file", name)]
    return Ours((tuple(words),))
