"""XTuner's LLaVA: `iter_N.pth`, DeepSpeed's folder of that name, and what pth_to_hf makes.

All three hold what was trained and no more: always the projector; of the language
model and of the encoder an adapter, all of it, or nothing. The rest are the folders
that the run began from. A `.pth` leaves LoRA's alpha to the configuration, which
mmengine keeps as text in the file, in the run's folder, or both.

Source: InternLM/xtuner@v0.1.23 (model/llava.py, tools/model_converters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vlforge.checkpoints.checkpoint import Checkpoint, Parts, Writing
from vlforge.checkpoints.foreign_pickle import read_trained
from vlforge.checkpoints.hints import read_hint, write_hint
from vlforge.checkpoints.internlm2 import adapter_to_llama, to_llama
from vlforge.checkpoints.languages import (
    OURS,
    Language,
    legacy_fields,
    read_language,
    without_stale,
)
from vlforge.checkpoints.llava import write_tower
from vlforge.checkpoints.llava_fields import (
    LLAMA_3_WORDS,
    OUR_TOWER,
    implied_processor,
    trained_dialect,
)
from vlforge.checkpoints.llava_lora import write_adapter
from vlforge.checkpoints.lora import (
    Adapter,
    LoraSettings,
    gather,
    is_adapter,
    open_adapter,
    read_settings,
)
from vlforge.checkpoints.tokenizers import copy_tokenizer
from vlforge.checkpoints.towers import Tower, find_tower, tower_weights
from vlforge.checkpoints.weights import (
    Lazy,
    Weights,
    has_weights,
    lazies,
    open_weights,
    write_weights,
)
from vlforge.checkpoints.xtuner_recipe import Recipe, parse_recipe, read_recipe
from vlforge.checkpoints.zero_shards import is_zero, read_zero
from vlforge.models.llava import LlavaConfig
from vlforge.models.parts.internlm2 import FUSED, Heads
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

PROJECTOR, LLM_ADAPTER = "projector", "llm_adapter"
VISION_ADAPTER, VISION = "visual_encoder_adapter", "visual_encoder"
RECIPE = "xtuner_config.py"
_PARTS = ("llm.", "visual_encoder.", "projector.")
_ENDINGS = (".pth", ".pt", ".bin")
_TEMPLATES = {
    "internlm2": "internlm2_chat", "qwen2": "qwen_chat", "qwen3": "qwen_chat",
    "phi3": "phi3_chat", "gemma": "xtuner_gemma", "mistral": "mistral", "mixtral": "mixtral",
}  # fmt: skip


@dataclass(frozen=True)
class Half:
    """What a run trained of the language model or of the encoder, under XTuner's names.

    adapter: LoRA; whole: all of its tensors; neither where it was frozen.
    """

    adapter: Adapter | None = None
    whole: Weights = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """What a run trained: `projector` ("0.weight", …), and halves of the others."""

    projector: Weights
    language: Half
    vision: Half
    recipe: Recipe
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class XtunerLayout:
    """A `.pth` of mmengine, a folder of DeepSpeed, or a folder with `projector/`."""

    name = "xtuner"
    says = "XTuner's LLaVA: iter_N.pth, or projector/ + llm_adapter/ …; needs --base, --vision"

    def matches(self, path: Path) -> bool:
        """By `projector/config.json`, or by names such as `projector.model.0.weight`."""
        if path.is_dir():
            if (path / PROJECTOR / "config.json").is_file():
                return read_config(path / PROJECTOR).get("model_type") == PROJECTOR
            return is_zero(path)
        return path.suffix in _ENDINGS and _is_trained(path)

    def read(self, path: Path, parts: Parts) -> Checkpoint:
        """The parts that the run began from with what it trained in them."""
        is_folder = path.is_dir() and not is_zero(path)
        trained = _read_folder(path, parts) if is_folder else _read_state(path, parts)
        if trained.recipe.token_merge != 1:
            raise ModelError(f"{path}: token_merge_ratio {trained.recipe.token_merge} is not read")
        language = _language(path, parts, trained)
        own = path / VISION if (path / VISION / "config.json").is_file() else None
        fit_mode = "square" if trained.recipe.pads is False else "pad"
        tower = find_tower(trained.recipe.vision, path, own or parts.vision, fit_mode)
        weights = dict(language.weights) | _vision(path, trained, tower)
        weights |= {f"connector.{name}": lazy for name, lazy in trained.projector.items()}
        config = LlavaConfig(
            vision_config=tower.config,
            text_config=language.config,
            connector=_connector(path, trained.projector),
            select_layer=parts.select_layer or trained.recipe.select_layer,
            image_aspect_ratio=fit_mode,
        )
        weights, left = without_stale(weights, language.config)
        template, note = _template(path, trained.recipe, language)
        extra: dict[str, Any] = {"xtuner": trained}
        if trained.recipe.vision:
            extra["llava"] = {"mm_vision_tower": trained.recipe.vision}
        if trained.language.adapter is not None and trained.vision.adapter is None:
            llama = _as_llama(trained.language.adapter, language)
            extra["adapter"] = llama.renamed(lambda name: OURS + name)
        return Checkpoint(
            path=path,
            layout=self.name,
            config=config,
            weights=weights,
            tokenizer=language.tokenizer,
            processor=tower.processor or implied_processor(config),
            template=template,
            dialect=trained_dialect(language.tokenizer, language.config, "fast"),
            unused=(*trained.unused, *(f"{where} ({reason})" for where, reason in left)),
            notes=(*trained.notes, *([note] if note else [])),
            extra=extra,
        )

    def write(self, checkpoint: Checkpoint, out: Path, how: Writing) -> None:
        """The folder that `pth_to_hf` makes: what a run of XTuner trained, else everything."""
        config = _check(checkpoint)
        trained = checkpoint.extra.get("xtuner")
        if not isinstance(trained, Trained):
            trained = _aligned(checkpoint)
        _write_projector(checkpoint, config, out / PROJECTOR, how)
        _write_vision(checkpoint, trained, out, how)
        _write_language(checkpoint, trained, out, how)
        if trained is not None and trained.recipe.text:
            (out / RECIPE).write_text(trained.recipe.text, encoding="utf-8")
        write_hint(checkpoint, out)


def _aligned(checkpoint: Checkpoint) -> Trained | None:
    """What our stages trained, if that was the connector alone; None where it was more."""
    stages = checkpoint.extra.get("history") or ()
    parts = {part for stage in stages for part in stage.get("train", ("all",))}
    if not parts or not parts <= {"align", "connector"}:
        return None
    return Trained(_below(checkpoint.weights, "connector."), Half(), Half(), Recipe())


def _is_trained(path: Path) -> bool:
    try:
        return any(name.startswith("projector.model.") for name in _state(path)[0])
    except ModelError:
        return False


def _state(path: Path) -> tuple[dict[str, Lazy], Mapping[str, Any]]:
    """The tensors of a checkpoint, and mmengine's `meta`."""
    if path.is_dir():
        weights, rest = read_zero(path)
    else:
        rest = read_trained(path)
        state = rest.get("state_dict", rest) if isinstance(rest, Mapping) else rest
        weights = lazies(state, path)
    meta = rest.get("meta") if isinstance(rest, Mapping) else None
    return weights, meta if isinstance(meta, Mapping) else {}


def _read_state(path: Path, parts: Parts) -> Trained:
    """A `.pth`, in one file or as DeepSpeed's folder."""
    weights, meta = _state(path)
    recipe, notes = _recipe_of(path, parts, meta)
    of = {part: _below(weights, part) for part in _PARTS}
    halves, unused = [], []
    for part, said, folder in (
        ("llm.", recipe.llm_lora, LLM_ADAPTER),
        ("visual_encoder.", recipe.vision_lora, VISION_ADAPTER),
    ):
        if not any(".lora_" in name for name in of[part]):
            halves.append(Half(whole=of[part]))
            continue
        settings, note = _settings(path, parts, said, folder)
        kept, frozen = _without_frozen(of[part])
        halves.append(Half(_held(gather(kept, settings), path)))
        unused += [f"{lazy.where} (frozen; the base has it)" for lazy in frozen]
        notes += [note] if note else []
    unused += [f"{name} (no part of the model)" for name in weights if not name.startswith(_PARTS)]
    projector = _below(of["projector."], "model.")
    return Trained(projector, halves[0], halves[1], recipe, tuple(unused), tuple(notes))


def _below(weights: Weights, prefix: str) -> dict[str, Lazy]:
    return {
        name.removeprefix(prefix): lazy for name, lazy in weights.items() if name.startswith(prefix)
    }


def _without_frozen(weights: Weights) -> tuple[dict[str, Lazy], list[Lazy]]:
    """Tensors of an adapter, and those of the model below it that DeepSpeed also kept."""
    marks = (".lora_", ".modules_to_save.")
    kept = {name: lazy for name, lazy in weights.items() if any(mark in name for mark in marks)}
    return kept, [lazy for name, lazy in weights.items() if name not in kept]


def _recipe_of(path: Path, parts: Parts, meta: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """The run's configuration: the user's file, the file's own text, or one that lies beside."""
    if parts.config is not None and parts.config.is_file():
        return read_recipe(parts.config), []
    if isinstance(meta.get("cfg"), str):
        try:
            return parse_recipe(meta["cfg"]), []
        except SyntaxError:
            pass
    folder = path.parent if parts.config is None else parts.config
    files = [folder / RECIPE] if (folder / RECIPE).is_file() else sorted(folder.glob("*.py"))
    found = {file: _parsed(file) for file in files}
    recipes = {file: one for file, one in found.items() if one is not None}
    if len(recipes) != 1:
        return Recipe(), []
    file, recipe = next(iter(recipes.items()))
    return recipe, [f"settings are those of {file.name}, which lies beside {path.name}"]


def _parsed(file: Path) -> Recipe | None:
    """A configuration of a model, or None."""
    try:
        recipe = read_recipe(file)
    except ModelError:
        return None
    return recipe if "model" in recipe.values else None


def _settings(
    path: Path, parts: Parts, said: Mapping[str, Any] | None, folder: str
) -> tuple[LoraSettings, str | None]:
    """An adapter's settings: the configuration's, or those of a converted folder.

    Raises:
        ModelError: neither tells alpha.
    """
    if said is not None and "lora_alpha" in said:
        fields = {key: value for key, value in said.items() if key != "type"}
        return LoraSettings.from_json({"peft_type": "LORA", **fields}, path), None
    if parts.config is not None and parts.config.is_dir():
        if not is_adapter(parts.config / folder):
            raise ModelError(f"{parts.config} holds no {folder}; {path} has an adapter of it")
        return read_settings(parts.config / folder), None
    beside = sorted(path.parent.glob(f"*/{folder}"))
    found = [one for one in beside if is_adapter(one)]
    if len({read_settings(one).alpha for one in found}) == 1:
        shown = found[0].relative_to(path.parent)
        return read_settings(found[0]), f"lora_alpha is that of {shown}, which lies beside it"
    raise ModelError(
        f"{path} does not say lora_alpha; name the run's configuration (its .py, or the folder "
        "that pth_to_hf made) with --config"
    )


def _held(adapter: Adapter, path: Path) -> Adapter:
    """The adapter, if its rank is the one that its settings say.

    Raises:
        ModelError: it is not: they belong to another run.
    """
    said = adapter.settings.fields.get("r")
    if not isinstance(said, int) or adapter.settings.fields.get("rank_pattern"):
        return adapter
    for name, pair in adapter.pairs.items():
        if pair.a.shape[0] != said:
            raise ModelError(
                f"{path}: {name} has LoRA of rank {pair.a.shape[0]}, and the configuration says "
                f"{said}; it is that of another run"
            )
    return adapter


def _read_folder(path: Path, parts: Parts) -> Trained:
    """What `pth_to_hf` makes."""
    fields = read_config(path / PROJECTOR)
    if fields.get("hidden_act", "gelu") != "gelu" or not fields.get("bias", True):
        raise ModelError(
            f"{path / PROJECTOR}: hidden_act {fields.get('hidden_act')!r}, bias "
            f"{fields.get('bias')}: only gelu with biases is supported"
        )
    recipe, notes = Recipe(), []
    given = parts.config if parts.config is not None and parts.config.is_file() else path / RECIPE
    if given.is_file():
        try:
            recipe = read_recipe(given)
        except ModelError:
            notes.append(f"{given.name} is not understood and not used")
    language, vision = Half(), Half()
    if is_adapter(path / LLM_ADAPTER):
        language = Half(open_adapter(path / LLM_ADAPTER))
    elif (path / "config.json").is_file() and has_weights(path):
        language = Half(whole=open_weights(path))
    if is_adapter(path / VISION_ADAPTER):
        vision = Half(open_adapter(path / VISION_ADAPTER))
    elif (path / VISION).is_dir():
        vision = Half(whole=open_weights(path / VISION))
    projector = _below(open_weights(path / PROJECTOR), "model.")
    return Trained(projector, language, vision, recipe, notes=tuple(notes))


def _language(path: Path, parts: Parts, trained: Trained) -> Language:
    """The language model with what was trained of it."""
    half = trained.language
    if half.whole and (path / "config.json").is_file():
        return read_language(path)  # a folder of XTuner's with all of it
    folder = _language_folder(path, parts, trained)
    base = read_language(folder)
    if half.adapter is not None:
        adapter = _as_llama(half.adapter, base).renamed(lambda name: OURS + name)
        return replace(base, weights=adapter.onto(base.weights))
    if not half.whole:
        return base
    is_fused = any(FUSED in name for name in half.whole)
    whole = to_llama(half.whole, Heads.of(base.config)) if is_fused else half.whole
    return replace(base, weights={OURS + name: lazy for name, lazy in whole.items()})


def _as_llama(adapter: Adapter, base: Language) -> Adapter:
    """An adapter under the names of a base that may be an InternLM2 turned into a Llama."""
    if all(OURS + name in base.weights for name in (*adapter.pairs, *adapter.whole)):
        return adapter
    return adapter_to_llama(adapter, Heads.of(base.config))


def _language_folder(path: Path, parts: Parts, trained: Trained) -> Path:
    """Folder of the language model that the run began from.

    Raises:
        ModelError: the user names none, and what the files name is not here.
    """
    given = parts.language or parts.base
    if given is not None:
        return given
    adapter = trained.language.adapter
    said = str(adapter.settings.fields.get("base_model_name_or_path") or "") if adapter else ""
    names = [name for name in (trained.recipe.llm, said) if name]
    for name in names:
        for folder in (path / name, Path(name)):
            if (folder / "config.json").is_file():
                return folder
    told = f" ({names[0]})" if names else ""
    raise ModelError(f"{path} leaves its language model out{told}; name its folder with --base")


def _vision(path: Path, trained: Trained, tower: Tower) -> dict[str, Lazy]:
    """The encoder's weights under our names, with what was trained of it."""
    whole = tower_weights(trained.vision.whole) or dict(tower.weights)
    if not whole:
        raise ModelError(
            f"{path} leaves its vision encoder {trained.recipe.vision!r} out; name its folder "
            "with --vision"
        )
    if trained.vision.adapter is not None:
        adapter = trained.vision.adapter.renamed(lambda name: name.removeprefix("vision_model."))
        whole = adapter.onto(whole)
    return {OUR_TOWER + name: lazy for name, lazy in whole.items()}


def _connector(path: Path, projector: Weights) -> str:
    """The kind of connector that these weights are.

    Raises:
        ModelError: they are none of XTuner's.
    """
    depth = len({name.split(".")[0] for name in projector})
    wanted = [f"{2 * i}.{leaf}" for i in range(depth) for leaf in ("weight", "bias")]
    if not depth or set(projector) != set(wanted):
        raise ModelError(f"{path} holds no projector as XTuner's ({', '.join(projector)})")
    return f"mlp{depth}x_gelu"


def _template(path: Path, recipe: Recipe, language: Language) -> tuple[str, str | None]:
    known = read_hint(path) if path.is_dir() else None
    if known or recipe.template:
        return known or str(recipe.template), None
    text: Any = language.config
    kind = language.kind or text.model_type
    guess = _TEMPLATES.get(kind, "vicuna")
    if kind == "llama" and text.vocab_size >= LLAMA_3_WORDS:
        guess = "llama3_chat"
    return guess, f"no configuration names the conversation template; taken for {guess}"


def _check(checkpoint: Checkpoint) -> LlavaConfig:
    """The configuration, if XTuner's LLaVA can hold the model.

    Raises:
        ModelError: it cannot; says why.
    """
    config = checkpoint.config
    if not isinstance(config, LlavaConfig):
        raise ModelError(f"{checkpoint.path}: XTuner's LLaVA holds no {checkpoint.family} model")
    width, text = config.connector_width, config.text_config
    reason = None
    if config.vision_config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        reason = f"CLIP and SigLIP, not {config.vision_config.model_type}"
    elif not config.connector.startswith("mlp") and config.connector != "linear":
        reason = f"a projector of linear layers, not {config.connector}"
    elif width not in (None, text.hidden_size) and config.connector.startswith("mlp"):
        reason = f"a projector as wide inside as the language model, not {width}"
    elif config.tiling is not None:
        reason = "one tile a picture"
    elif config.select_feature != "patch":
        reason = f"patches alone, not {config.select_feature}"
    if reason:
        raise ModelError(f"{checkpoint.path}: XTuner's LLaVA takes {reason}")
    return config


def _write_projector(checkpoint: Checkpoint, config: LlavaConfig, out: Path, how: Writing) -> None:
    out.mkdir()
    own = _below(how.cast(checkpoint.weights), "connector.")
    if config.connector == "linear":
        own = {f"0.{name}": lazy for name, lazy in own.items()}
    write_weights({f"model.{name}": lazy for name, lazy in own.items()}, out, kind=how.kind)
    text: Any = config.text_config
    fields = {
        "architectures": ["ProjectorModel"],
        "bias": True,
        "depth": len(own) // 2,
        "hidden_act": "gelu",
        "llm_hidden_size": text.hidden_size,
        "model_type": PROJECTOR,
        "torch_dtype": _dtype(own),
        "visual_hidden_size": config.vision_config.hidden_size,
    }
    write_json(out / "config.json", fields)


def _write_vision(checkpoint: Checkpoint, trained: Trained | None, out: Path, how: Writing) -> None:
    if trained is not None and trained.vision.adapter is not None:
        _write_half(trained.vision.adapter, out / VISION_ADAPTER, how)
    elif trained is None or trained.vision.whole:
        write_tower(checkpoint, out / VISION, how)
    else:
        how.say("the encoder was frozen and is not written; XTuner takes it as --visual-encoder")


def _write_language(
    checkpoint: Checkpoint, trained: Trained | None, out: Path, how: Writing
) -> None:
    if trained is not None and trained.language.adapter is not None:
        own = replace(how, dtype=how.language_dtype or how.dtype)
        _write_half(trained.language.adapter, out / LLM_ADAPTER, own)
        return
    if trained is not None and not trained.language.whole:
        how.say("the language model was frozen and is not written; XTuner takes it by itself")
        return
    text = checkpoint.config.text_config
    own = _below(how.cast(checkpoint.weights), OURS)
    write_weights(own, out, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    fields = legacy_fields(text) | {"model_type": text.model_type, "torch_dtype": _dtype(own)}
    names = [architecture] if isinstance(architecture, str) else []
    write_json(out / "config.json", fields | {"architectures": names})
    if checkpoint.tokenizer is not None:
        copy_tokenizer(checkpoint.tokenizer, out)


def _write_half(adapter: Adapter, out: Path, how: Writing) -> None:
    out.mkdir()
    write_adapter(adapter, out, how, lambda name: name)


def _dtype(weights: Weights) -> str:
    kinds: Sequence[Any] = [lazy.dtype for lazy in weights.values()]
    return str(kinds[0]).removeprefix("torch.") if kinds else "float32"
