"""XTuner's commands: `xtuner VERB …`, and the scripts that its pages on LLaVA name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlforge.cli.familiar.old import Familiar, OldCommand, Ours, is_script
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

Command = tuple[str, ...]
FORMATS = {"xtuner": "xtuner", "official": "llava", "huggingface": "llava_hf"}
_FLAGS = frozenset({
    "fp32", "safe-serialization", "is-clip", "no-streamer", "lagent", "autoscale-lr", "help",
})  # fmt: skip
_LISTS = frozenset({"cfg-options", "stop-words", "with-plugins"})
_DTYPES = {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32"}
_SIZE = "2GB"
"""XTuner's largest file."""
_TEMPLATES = {
    "default": "xtuner_default", "gemma": "xtuner_gemma", "deepseek_moe": "mistral",
}  # fmt: skip
"""Names that LLaVA or MGM has for other templates."""


class Given(NamedTuple):
    """Words of a command: those without a name, and options by name without dashes."""

    places: list[str]
    options: dict[str, list[str]]

    def one(self, name: str, default: str = "") -> str:
        """The value of an option."""
        return (self.options.get(name) or [default])[-1]

    def has(self, name: str) -> bool:
        """Whether the option stands there."""
        return name in self.options

    def refuse_others(self, command: str, *known: str) -> None:
        """Raise RecipeError at an option that the command does not have."""
        for name in self.options:
            if name not in known:
                raise RecipeError(f"{command} has no --{name}{nearest(name, known)}")

    def take(self, command: str, *names: str) -> list[str]:
        """The places, which are called so.

        Raises:
            RecipeError: more or fewer are there.
        """
        if len(self.places) != len(names):
            given = " ".join(self.places) or "nothing"
            raise RecipeError(f"{command} takes {' '.join(names)}; given: {given}")
        return self.places


def read_words(words: tuple[str, ...]) -> Given:
    """Words as XTuner's own parsers read them; an option may take several."""
    places: list[str] = []
    options: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--") or (word.startswith("-") and word[1:2].isalpha()):
            name, equals, value = word.lstrip("-").partition("=")
            name = name.replace("_", "-")
            options[name] = [value] if equals else []
            name = "" if equals or name in _FLAGS else name
        elif name:
            options[name].append(word)
            name = name if name in _LISTS else ""
        else:
            places.append(word)
    for key, values in options.items():
        if not values and key not in _FLAGS:
            raise RecipeError(f"--{key} has no value")
    return Given(places, options)


def _is(*verb: str) -> Callable[[OldCommand], bool]:
    """`xtuner VERB`, or the script of XTuner's tools that it starts."""
    script = f"{verb[-1].replace('-', '_')}.py"

    def fits(old: OldCommand) -> bool:
        if old.name == "xtuner":
            return old.words[: len(verb)] == verb
        return old.name == script and "xtuner" in Path(old.program).parts

    return fits


def _given(old: OldCommand, *verb: str) -> Given:
    """Words behind the verb."""
    return read_words(old.words[len(verb) :] if old.name == "xtuner" else old.words)


def model_folder(name: str) -> str:
    """A model's folder; one of a hub is where `vlforge fetch` puts it."""
    folder = f"models/{name.rpartition('/')[2]}"
    return folder if not Path(name).exists() and Path(folder).exists() else name


def _adopted(config: str, changes: list[str], out: Path) -> Command:
    return ("adopt", config, *changes, "-o", str(out))


def _stem(config: str) -> str:
    return Path(config).name.removesuffix(".py")


def _train(old: OldCommand) -> Ours:
    given = _given(old, "train")
    given.refuse_others(
        "xtuner train", "work-dir", "deepspeed", "resume", "seed", "cfg-options", "launcher",
        "local-rank",
    )  # fmt: skip
    (config,) = given.take("xtuner train", "CFG")
    changes = list(given.options.get("cfg-options", []))
    notes: list[str] = []
    if old.processes:
        changes.append(f"NPROC_PER_NODE={old.processes}")
    nodes = old.env.get("NNODES", "1")
    recipe = Path("runs") / f"{_stem(config)}.yaml"
    if nodes not in ("", "1"):
        raise RecipeError(
            f"NNODES={nodes}: adopt {config} once (vlforge adopt {config} NPROC_PER_NODE="
            f"{old.processes or 1} NNODES={nodes} -o {recipe}), then on each machine torchrun "
            f"--nnodes {nodes} --nproc_per_node {old.processes or 1} ... -m vlforge train {recipe}"
        )
    if given.has("deepspeed"):
        changes.append(f"deepspeed={given.one('deepspeed')}")
    if given.has("seed"):
        changes.append(f"randomness.seed={given.one('seed')}")
    work = given.one("work-dir", f"work_dirs/{_stem(config)}")
    if given.has("resume"):
        notes += _resumed(given.one("resume"), Path(work))
    train = ["train", str(recipe), "--out", str(Path(work)), *_processes(old.processes, notes)]
    return Ours((_adopted(config, changes, recipe), tuple(train)), tuple(notes))


def _processes(asked: int | None, notes: list[str]) -> list[str]:
    """As many processes as asked for, where so many GPUs are; else one for each."""
    from vlforge.data.machine import visible_gpus

    here = len(visible_gpus())
    if asked is None or asked == max(here, 1):
        return []
    if asked < here:
        return ["--processes", str(asked)]
    notes.append(
        f"{asked} GPUs asked for and {here} here: the global batch is that of {asked}, by more "
        "accumulation"
    )
    return []


def _resumed(path: str, work: Path) -> list[str]:
    """What `--resume` means here.

    Raises:
        RecipeError: a checkpoint of mmengine, whose optimiser nothing here reads.
    """
    if (work / "graph.json").is_file() or not Path(path).exists():
        return [
            "a stopped stage goes on from its last checkpoint when the same command comes again"
        ]
    raise RecipeError(
        f"--resume {path}: the optimiser in XTuner's checkpoint is not read; begin a stage with "
        f"its weights: vlforge adopt CFG model.pretrained_pth={path}"
    )


def _trained(config: str, path: str, given: Given) -> tuple[str, list[str], list[str]]:
    """What a checkpoint of a run is here: its path, words on its parts, notes.

    Raises:
        RecipeError: there is none.
    """
    from vlforge.recipe.adopt.systems import adopt_file
    from vlforge.recipe.adopt.xtuner import run_model

    ours = None if Path(path).exists() else run_model(Path(path))
    if ours is not None:
        note = f"{Path(path).parent} is a run of VLForge: its {ours.name} stands for {path}"
        return str(ours), [], [note]
    if not Path(path).exists():
        raise RecipeError(
            f"{path}: no such checkpoint, and {Path(path).parent} is no run; name the file "
            "iter_N.pth or DeepSpeed's folder of that name"
        )
    changes = dict(word.partition("=")[::2] for word in given.options.get("cfg-options", []))
    model = _first_model(adopt_file(Path(config), changes).tree)
    words = ["--base", str(model["language"]), "--vision", str(model["vision"])]
    return path, [*words, *(["--config", config] if Path(config).is_file() else [])], []


def _first_model(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parts that a recipe's first stage is made of."""
    for stage in tree["stages"].values():
        if isinstance(stage.get("model"), dict):
            return dict(stage["model"])
    raise RecipeError("the configuration begins with a model of a run; name a .pth of XTuner")


def _pth_to_hf(old: OldCommand) -> Ours:
    given = _given(old, "convert", "pth_to_hf")
    given.refuse_others("xtuner convert pth_to_hf", "fp32", "max-shard-size", "safe-serialization",
                        "save-format", "cfg-options")  # fmt: skip
    config, path, out = given.take("xtuner convert pth_to_hf", "CFG", "PTH", "OUT")
    name = given.one("save-format", "xtuner")
    if name not in FORMATS:
        raise RecipeError(f"--save-format {name}: xtuner, official or huggingface")
    source, parts, notes = _trained(config, path, given)
    words = ["convert-model", source, out, "--to", FORMATS[name], *parts]
    words += [] if given.has("fp32") else ["--language-dtype", "fp16"]
    return Ours(((*words, *_files(given)),), tuple(notes))


def _files(given: Given) -> list[str]:
    """How large files are, and of which kind."""
    kind = [] if given.has("safe-serialization") else ["--bin"]
    return ["--shard-size", given.one("max-shard-size", _SIZE), *kind]


def _merge(old: OldCommand) -> Ours:
    given = _given(old, "convert", "merge")
    given.refuse_others("xtuner convert merge", "is-clip", "max-shard-size", "safe-serialization",
                        "device")  # fmt: skip
    base, adapter, out = given.take("xtuner convert merge", "LLM", "ADAPTER", "OUT")
    words = ["merge", model_folder(base), adapter, out]
    words += ["--is-clip"] if given.has("is-clip") else ["--dtype", "fp16"]
    notes = ["tensors are summed one by one on the CPU"] if given.has("device") else []
    return Ours(((*words, *_files(given)),), tuple(notes))


def _split(old: OldCommand) -> Ours:
    del old
    return Ours((), ("nothing to split: files are read tensor by tensor, whatever their size",))


_CHAT = ("adapter", "llava", "visual-encoder", "visual-select-layer", "image", "torch-dtype",
         "prompt-template", "system", "system-template", "bits", "bot-name", "with-plugins",
         "no-streamer", "lagent", "stop-words", "offload-folder", "max-new-tokens", "temperature",
         "top-k", "top-p", "repetition-penalty", "seed")  # fmt: skip
_DRAWN = {
    "max-new-tokens": "2048", "temperature": "0.1", "top-k": "40", "top-p": "0.75",
    "repetition-penalty": "1.0", "seed": "0",
}  # fmt: skip
"""How XTuner's chat draws where its user says nothing."""


def _chat(old: OldCommand) -> Ours:
    given = _given(old, "chat")
    given.refuse_others("xtuner chat", *_CHAT)
    (model,) = given.take("xtuner chat", "LLM")
    for name, instead in (
        ("lagent", "agents are not part of this"), ("with-plugins", "plugins are not run here"),
        ("system-template", "give its words with --system"),
    ):  # fmt: skip
        if given.has(name):
            raise RecipeError(" ".join([f"--{name}", *given.options[name]]) + f": {instead}")
    words = ["chat", model_folder(model), *_beside(given)]
    words += ["--image", given.one("image")] if given.has("image") else []
    words += ["--system", given.one("system")] if given.has("system") else []
    words += [
        word for name, value in _DRAWN.items() for word in (f"--{name}", given.one(name, value))
    ]
    words += _loading(model, given)
    notes = ["answers are printed as they are made"] if given.has("no-streamer") else []
    return Ours((tuple(words),), tuple(notes + _not_needed(given)))


def _beside(given: Given) -> list[str]:
    """What was trained, the encoder, the template and stop words, by the verbs' own names."""
    words: list[str] = []
    for name in ("adapter", "llava"):
        words += [f"--{name}", given.one(name)] if given.has(name) else []
    if given.has("visual-encoder"):
        words += ["--visual-encoder", model_folder(given.one("visual-encoder"))]
    if given.one("visual-select-layer", "-2") != "-2":
        words += ["--visual-select-layer", given.one("visual-select-layer")]
    if given.has("prompt-template"):
        name = given.one("prompt-template")
        words += ["--prompt-template", _TEMPLATES.get(name, name)]
    for word in given.options.get("stop-words", []):
        words += ["--stop-words", word]
    return words


def _loading(model: str, given: Given) -> list[str]:
    """Precision and bits."""
    dtype = given.one("torch-dtype", "fp16")
    if dtype == "auto":
        dtype = _own_dtype(Path(model_folder(model)))
    if dtype not in _DTYPES:
        raise RecipeError(f"--torch-dtype {dtype}: fp16, bf16, fp32 or auto")
    bits = given.one("bits")
    if bits not in ("", "4", "8"):
        raise RecipeError(f"--bits {bits}: 4 or 8")
    return ["--precision", dtype, *(["--quantise", f"{bits}bit"] if bits else [])]


def _own_dtype(folder: Path) -> str:
    """The precision that a model's folder names."""
    file = folder / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    name = str(fields.get("torch_dtype") or fields.get("dtype") or "float32")
    return {"float16": "fp16", "bfloat16": "bf16"}.get(name.removeprefix("torch."), "fp32")


def _not_needed(given: Given) -> list[str]:
    """Options that say nothing here."""
    notes = []
    if given.has("bot-name"):
        notes.append("--bot-name: LLaVA's templates do not name the model")
    if given.has("offload-folder"):
        notes.append("--offload-folder: --device-map auto puts what a GPU cannot hold into memory")
    return notes


def _mmbench(old: OldCommand) -> Ours:
    given = _given(old, "mmbench")
    given.refuse_others("xtuner mmbench", "data-path", "work-dir", "llava", "visual-encoder",
                        "visual-select-layer", "prompt-template", "stop-words", "torch-dtype",
                        "bits", "bot-name", "offload-folder", "max-new-tokens", "seed",
                        "launcher")  # fmt: skip
    (model,) = given.take("xtuner mmbench", "LLM")
    if not given.has("data-path"):
        raise RecipeError("xtuner mmbench needs --data-path, MMBench's TSV")
    out = given.one("work-dir", f"work_dirs/{Path(model).name}_mmbench")
    words = ["eval", "run", model_folder(model), *_beside(given), "--benchmark", "mmbench"]
    words += ["--questions", given.one("data-path"), "--prompt", "xtuner", "--protocol", "xtuner"]
    words += ["--max-new-tokens", given.one("max-new-tokens", "100"), *_loading(model, given)]
    words += ["--processes", str(old.processes)] if old.processes else []
    sheet = ("eval", "export", out, "mmbench", f"{out}/mmbench_result.xlsx", "--as", "xtuner")
    return Ours(((*words, "--out", out), sheet), tuple(_not_needed(given)))


def _list_cfg(old: OldCommand) -> Ours:
    given = _given(old, "list-cfg")
    given.refuse_others("xtuner list-cfg", "pattern", "p")
    pattern = given.one("pattern", given.one("p"))
    return Ours((("list", "configs", *([pattern] if pattern else [])),))


def _copy_cfg(old: OldCommand) -> Ours:
    config, folder = _given(old, "copy-cfg").take("xtuner copy-cfg", "CFG", "DIR")
    out = Path(folder) / f"{_stem(config)}_copy.yaml"
    return Ours((_adopted(config, [], out),))


def _check(old: OldCommand) -> Ours:
    (config,) = _given(old, "check-custom-dataset").take("xtuner check-custom-dataset", "CFG")
    return Ours((("check", config),))


def _log_dataset(old: OldCommand) -> Ours:
    given = _given(old, "log-dataset")
    given.refuse_others("xtuner log-dataset", "show")
    (config,) = given.take("xtuner log-dataset", "CFG")
    return Ours((("inspect", config, "--row", "0"),))


def _needless(old: OldCommand) -> Ours:
    del old
    return Ours((), ("nothing to prepare: rows are tokenised while a stage reads them",))


def _zero_to_fp32(old: OldCommand) -> Ours:
    del old
    return Ours((), ("nothing to do: DeepSpeed's folder iter_N.pth is read as it is",))


def _whole(old: OldCommand) -> Ours:
    """`convert_xtuner_weights_to_{llava,hf}.py`: a projector between two whole parts."""
    given = read_words(old.words)
    given.refuse_others(old.name, "text-model-id", "vision-model-id", "projector-weight",
                        "save-path")  # fmt: skip
    for name in ("text-model-id", "vision-model-id", "projector-weight", "save-path"):
        if not given.has(name):
            raise RecipeError(f"{old.name} needs --{name.replace('-', '_')}")
    folder = Path(given.one("projector-weight")).parent
    if folder.name != "projector":
        raise RecipeError(
            f"--projector_weight {given.one('projector-weight')}: is to lie in projector/, where "
            "pth_to_hf puts it"
        )
    trained = folder.parent
    text = model_folder(given.one("text-model-id"))
    adapters = [
        one for one in ("llm_adapter", "visual_encoder_adapter") if (trained / one).exists()
    ]
    if adapters:
        raise RecipeError(
            f"{trained} holds {adapters[0]} too, so one command does all from the first models: "
            f"vlforge merge LLM {trained} {given.one('save-path')} --vision CLIP --to LAYOUT"
        )
    layout = (
        "llava" if "llava" in old.name.removeprefix("convert_xtuner_weights_to_") else "llava_hf"
    )
    words = ["convert-model", str(trained), given.one("save-path"), "--to", layout, "--base", text]
    return Ours(((*words, "--vision", model_folder(given.one("vision-model-id"))),))


def _another(old: OldCommand) -> Ours:
    """A verb of XTuner's that has no counterpart.

    Raises:
        RecipeError: always; names the nearest that has one.
    """
    words = [one.old.partition("xtuner ")[2].split() for one in COMMANDS]
    known = sorted({line[0] for line in words if line} - {"eval_refcoco"})
    verb = old.words[0] if old.words else ""
    raise RecipeError(
        f"xtuner {verb}: is not answered here{nearest(verb, known)}; known are {', '.join(known)}"
    )


COMMANDS = (
    Familiar(
        "NPROC_PER_NODE=8 xtuner train CFG --deepspeed deepspeed_zero2",
        "vlforge adopt CFG NPROC_PER_NODE=8 deepspeed=deepspeed_zero2 -o runs/CFG.yaml; "
        "vlforge train runs/CFG.yaml --out work_dirs/CFG",
        _is("train"),
        _train,
    ),
    Familiar(
        "xtuner convert pth_to_hf CFG iter_2181.pth OUT",
        "vlforge convert-model iter_2181.pth OUT --to xtuner --base LLM --vision CLIP "
        "--config CFG --language-dtype fp16 --shard-size 2GB --bin",
        _is("convert", "pth_to_hf"),
        _pth_to_hf,
    ),
    Familiar(
        "xtuner convert merge LLM ADAPTER OUT",
        "vlforge merge LLM ADAPTER OUT --dtype fp16 --shard-size 2GB --bin",
        _is("convert", "merge"),
        _merge,
    ),
    Familiar("xtuner convert split SRC DST", "vlforge reads files of any size",
             _is("convert", "split"), _split),
    Familiar(
        "xtuner chat LLM --visual-encoder CLIP --llava DIR --prompt-template internlm2_chat "
        "--image IMG",
        "vlforge chat LLM --llava DIR --visual-encoder CLIP --prompt-template internlm2_chat "
        "--image IMG --max-new-tokens 2048 --temperature 0.1 --top-k 40 --top-p 0.75 "
        "--precision fp16",
        _is("chat"),
        _chat,
    ),
    Familiar(
        "xtuner mmbench LLM --visual-encoder CLIP --llava DIR --prompt-template internlm2_chat "
        "--data-path MMBench_DEV_EN.tsv --work-dir OUT",
        "vlforge eval run LLM --llava DIR --visual-encoder CLIP --prompt-template internlm2_chat "
        "--benchmark mmbench --questions MMBench_DEV_EN.tsv --prompt xtuner --protocol xtuner "
        "--max-new-tokens 100 --precision fp16 --out OUT; "
        "vlforge eval export OUT mmbench OUT/mmbench_result.xlsx --as xtuner",
        _is("mmbench"),
        _mmbench,
    ),
    Familiar("xtuner list-cfg -p llava", "vlforge list configs llava", _is("list-cfg"), _list_cfg),
    Familiar("xtuner copy-cfg CFG DIR", "vlforge adopt CFG -o DIR/CFG_copy.yaml",
             _is("copy-cfg"), _copy_cfg),
    Familiar("xtuner check-custom-dataset CFG", "vlforge check CFG",
             _is("check-custom-dataset"), _check),
    Familiar("xtuner log-dataset CFG --show all", "vlforge inspect CFG --row 0",
             _is("log-dataset"), _log_dataset),
    Familiar(
        "python process_untokenized_llava_data.py CFG --save-folder DIR",
        "vlforge reads rows as they are",
        is_script("process_untokenized_llava_data.py"),
        _needless,
    ),
    Familiar("python zero_to_fp32.py iter_2181.pth OUT", "vlforge reads DeepSpeed's folder",
             is_script("zero_to_fp32.py"), _zero_to_fp32),
    Familiar(
        "python convert_xtuner_weights_to_llava.py --text_model_id LLM --vision_model_id CLIP "
        "--projector_weight HF/projector/model.safetensors --save_path OUT",
        "vlforge convert-model HF OUT --to llava --base LLM --vision CLIP",
        is_script("convert_xtuner_weights_to_llava.py"),
        _whole,
    ),
    Familiar(
        "python convert_xtuner_weights_to_hf.py --text_model_id LLM --vision_model_id CLIP "
        "--projector_weight HF/projector/model.safetensors --save_path OUT",
        "vlforge convert-model HF OUT --to llava_hf --base LLM --vision CLIP",
        is_script("convert_xtuner_weights_to_hf.py"),
        _whole,
    ),
    Familiar(
        "xtuner eval_refcoco LLM --llava DIR --data-path DATA",
        "vlforge has no such benchmark (vlforge list benchmarks)",
        lambda old: old.name == "xtuner",
        _another,
    ),
)  # fmt: skip
