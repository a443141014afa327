"""A configuration of XTuner's LLaVA as a `train` stage."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.recipe.adopt.adopted import AdoptedRecipe
from vlforge.recipe.adopt.xtuner_reading import Reading
from vlforge.recipe.nearest import nearest
from vlforge.types import RecipeError

ALIGN, INSTRUCT = "align", "instruct"
_HUB_NAME = re.compile(r"^(?!models/|\.)[\w.-]+/[\w.-]+$")
_DATA = ("LLaVADataset", "ConcatDataset")
FETCHED = "xtuner_llava"
_FETCHED = ("internlm/internlm2-chat-7b", "openai/clip-vit-large-patch14-336")
"""Models that `vlforge fetch` brings to `models/`."""
_TOKENS = 576
"""Those of a picture where nothing tells: CLIP ViT-L/14 at 336 pixels."""
_OTHER_TEMPLATES = {
    "default": "xtuner_default", "gemma": "xtuner_gemma", "deepseek_moe": "mistral",
}  # fmt: skip
_LORA = {
    "r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "bias": "bias",
    "modules_to_save": "modules_to_save", "use_dora": "dora", "use_rslora": "rslora",
}  # fmt: skip
_ENTRY = {"path": "data_path", "image_root": "image_folder", "rows": "max_dataset_length"}
_PEFT_DEFAULTS = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}


@dataclass(frozen=True)
class Machine:
    """What the command line says beside the configuration: devices, and DeepSpeed's file.

    `devices` has its origin; `text` says where the number is from.
    """

    devices: int
    text: str
    deepspeed: str = ""


class Stage:
    """One stage in the making, from one configuration."""

    def __init__(self, out: AdoptedRecipe, reading: Reading, machine: Machine):
        self.out, self.reading, self.machine = out, reading, machine
        self.name = INSTRUCT if self.learns() else ALIGN

    def put(self, key: str, value: Any, *origin: str) -> None:
        """A setting of the stage; `origin` are keys of the configuration."""
        self.out.put(f"stages.{self.name}.{key}", value, self.reading.origin(*origin))

    def say(self, key: str, value: Any, origin: str) -> None:
        """A setting of the stage with its origin in words."""
        self.out.put(f"stages.{self.name}.{key}", value, origin)

    def learns(self) -> list[str]:
        """Parts that learn beside the connector."""
        parts = []
        for part, frozen, lora in (
            ("language", "freeze_llm", "llm_lora"),
            ("vision", "freeze_visual_encoder", "visual_encoder_lora"),
        ):
            is_frozen = self.reading.value(f"model.{frozen}", bool, False)
            adapter = self.reading.find(f"model.{lora}")
            if not is_frozen or (adapter is not None and adapter.value is not None):
                parts.append(part)
        return parts

    def begin(self) -> None:
        """The stage is there; its model comes next."""
        self.say("kind", "train", "a configuration of LLaVAModel is a `train` stage")

    def write(self) -> None:
        """All settings but the model that the stage begins with."""
        self._data()
        self._learning()
        self._batch()
        self._optimiser()
        self._saving()
        self.reading.tell_hooks(self.out)

    def model(self) -> dict[str, tuple[Any, str]]:
        """The parts that the model is made of, with their origins."""
        self._classes()
        vision = self._folder("model.visual_encoder.pretrained_model_name_or_path")
        language = self._folder("model.llm.pretrained_model_name_or_path")
        depth = self.reading.value("model.projector_depth", int, 2)
        made: dict[str, tuple[Any, str]] = {
            "vision": vision,
            "language": language,
            "connector": (f"mlp{depth}x_gelu", self.reading.origin("model.projector_depth")),
        }
        layer = self.reading.value("model.visual_select_layer", int, -2)
        if layer != -2:
            made["select_layer"] = (layer, self.reading.origin("model.visual_select_layer"))
        if self.reading.take("model.max_position_embeddings") is not None:
            raise RecipeError(
                f"{self.reading.origin('model.max_position_embeddings')}: stretches the language "
                "model's positions; write rope_scaling into its config.json instead"
            )
        return made

    def _classes(self) -> None:
        """Whose classes read the parts: those of transformers.

        Raises:
            RecipeError: others.
        """
        for key, known in (
            ("model.llm.type", ("AutoModelForCausalLM", "AutoModel")),
            ("model.visual_encoder.type", ("CLIPVisionModel", "SiglipVisionModel", "AutoModel")),
        ):
            said = self.reading.take(key)
            name = "" if said is None else str(said.value).removesuffix(".from_pretrained")
            if said is not None and name.rpartition(".")[2] not in known:
                raise RecipeError(
                    f"{said.origin}: {name} is not read here; known are {', '.join(known)}"
                )

    def _folder(self, key: str) -> tuple[str, str]:
        """A model's folder; one of a hub is where it is fetched to."""
        said = self.reading.take(key)
        if said is None:
            raise RecipeError(f"{self.out.path.name}: {key} is missing; name the model's folder")
        name = str(said.plain())
        if not _HUB_NAME.match(name) or Path(name).exists():
            return _clean(name), said.origin
        folder = f"models/{name.rpartition('/')[2]}"
        if not Path(folder).exists():
            how = f"vlforge fetch {FETCHED} . brings it" if name in _FETCHED else "put it there"
            self.out.note(f"{folder} is {name} of the hub, and not there yet: {how}")
        return folder, f"{said.origin}: {name} of the hub"

    def _held(self, key: str) -> Path:
        """The folder that a model's name means; it may not be there."""
        name = str(self.reading.value(key, str, ""))
        is_there = Path(name).is_dir() or not _HUB_NAME.match(name)
        return Path(name) if is_there else Path("models") / Path(name).name

    def picture_tokens(self) -> tuple[int, str]:
        """Tokens of a picture, and how they are known."""
        key = "model.visual_encoder.pretrained_model_name_or_path"
        name = str(self.reading.value(key, str, ""))
        file = self._held(key) / "config.json"
        if file.is_file():
            fields = json.loads(file.read_text(encoding="utf-8"))
            fields = fields.get("vision_config", fields)
            if {"image_size", "patch_size"} <= fields.keys():
                return (int(fields["image_size"]) // int(fields["patch_size"])) ** 2, str(file)
        match = re.search(r"patch(\d+)-(\d+)", name)
        if match:
            return (int(match.group(2)) // int(match.group(1))) ** 2, "its name"
        return _TOKENS, "as CLIP ViT-L/14 at 336 pixels"

    def _data(self) -> None:
        sets = self._datasets("train_dataloader.dataset")
        entries = [self._entry(one) for one in sets]
        if len(sets) == 1 and "rows" not in entries[0]:
            self.put("data", entries[0]["path"], f"{sets[0]}.data_path")
            self.put("image_root", entries[0]["image_root"], f"{sets[0]}.image_folder")
        else:
            self.put("data", entries, "train_dataloader.dataset")
            for number, one in enumerate(sets):
                self._tell_entry(f"stages.{self.name}.data.{number}", entries[number], one)
        if self._same(sets, "pad_image_to_square", bool, False):
            self.put("image_aspect_ratio", "pad", f"{sets[0]}.pad_image_to_square")
        self._templates(sets)

    def _entry(self, dataset: str) -> dict[str, Any]:
        """A dataset as an entry of `data`."""
        root = self.reading.value(f"{dataset}.image_folder", str, "")
        entry = {"path": self._path(f"{dataset}.data_path", dataset), "image_root": _clean(root)}
        limit = self.reading.value(f"{dataset}.max_dataset_length", int, None)
        return entry if limit is None else {**entry, "rows": limit}

    def _tell_entry(self, here: str, entry: dict[str, Any], dataset: str) -> None:
        """Where each setting of an entry of `data` is from."""
        for ours, theirs in _ENTRY.items():
            if ours in entry:
                self.out.origins[f"{here}.{ours}"] = self.reading.origin(f"{dataset}.{theirs}")

    def _path(self, key: str, dataset: str) -> str:
        offline = self.reading.take(f"{dataset}.offline_processed_text_folder")
        path = self.reading.value(key, str, "")
        if not path:
            where = offline.origin if offline else self.reading.origin(dataset)
            raise RecipeError(
                f"{where}: rows are read from their json here; set data_path to the file that "
                "the folder was made of"
            )
        if offline is not None:
            self.out.leave("offline_processed_text_folder", offline.plain(), offline.where,
                           "rows are read and tokenised while it trains")  # fmt: skip
        return _clean(path)

    def _datasets(self, dotted: str) -> list[str]:
        """Keys of the datasets, those of a ConcatDataset one by one."""
        if self.reading.find(dotted) is None:
            raise RecipeError(f"{self.out.path.name}: {dotted} is missing; nothing to train on")
        kind = self.reading.names(f"{dotted}.type")
        if kind == "ConcatDataset":
            inner = self.reading.find(f"{dotted}.datasets")
            items = inner.value if inner is not None and isinstance(inner.value, list) else []
            if not items:
                raise RecipeError(f"{self.reading.origin(dotted)}: ConcatDataset without datasets")
            found = (self._datasets(f"{dotted}.datasets.{n}") for n in range(len(items)))
            return [one for some in found for one in some]
        if kind != "LLaVADataset":
            raise RecipeError(
                f"{self.reading.origin(f'{dotted}.type')}: {kind or 'a dataset without a type'} is "
                f"not read here{nearest(kind, _DATA)}; write its rows as LLaVA's json and take "
                "LLaVADataset"
            )
        return [dotted]

    def _same(self, sets: list[str], key: str, kind: type[Any], default: Any) -> Any:
        """What all datasets say; they share one stage.

        Raises:
            RecipeError: they differ.
        """
        values = [self.reading.value(f"{one}.{key}", kind, default) for one in sets]
        for one, value in zip(sets, values, strict=True):
            if value != values[0]:
                raise RecipeError(
                    f"{self.reading.origin(f'{one}.{key}')}: {key} is {value}, and {values[0]} of "
                    "the first dataset; datasets of a stage share it"
                )
        return values[0]

    def _templates(self, sets: list[str]) -> None:
        maps = {self.reading.names(f"{one}.dataset_map_fn") for one in sets}
        names = [self._template(f"{one}.template_map_fn") for one in sets]
        if len(set(names)) > 1:
            raise RecipeError(f"{self.out.path.name}: datasets of one stage have two templates")
        first = f"{sets[0]}.template_map_fn"
        self.put("template", names[0], f"{first}.template", first)
        if self._has_pieces():
            self.say("tokenizer", "fast", "AutoTokenizer is the fast one")
        odd = sorted(maps - {"llava_map_fn", "llava_image_only_map_fn", ""})
        key = f"{sets[0]}.dataset_map_fn"
        if odd:
            raise RecipeError(
                f"{self.reading.origin(key)}: {odd[0]} is code of another"
                f"{nearest(odd[0], ['llava_map_fn', 'llava_image_only_map_fn'])}; write what it "
                "makes as LLaVA's json"
            )
        if maps == {"llava_image_only_map_fn"}:
            self.put("compat", "xtuner-images", key)
        elif "llava_image_only_map_fn" in maps:
            raise RecipeError(f"{self.reading.origin(key)}: all datasets or none are image_only")

    def _has_pieces(self) -> bool:
        """Whether the language model has sentencepiece's file, by which dialects differ."""
        key = "model.llm.pretrained_model_name_or_path"
        name, folder = str(self.reading.value(key, str, "")), self._held(key)
        if folder.is_dir():
            return (folder / "tokenizer.model").is_file()
        return not re.search(r"llama-?3|qwen", name.lower())

    def _template(self, key: str) -> str:
        from vlforge.text.templates import TEMPLATES

        said = self.reading.take(f"{key}.template")
        self.reading.take(f"{key}.type")
        if said is None or not isinstance(said.value, str):
            raise RecipeError(
                f"{self.reading.origin(key, 'train_dataloader.dataset')}: name a template of "
                "PROMPT_TEMPLATE; one that is written out is not read"
            )
        name = str(said.value).rpartition(".")[2]
        name = _OTHER_TEMPLATES.get(name, name)
        if name not in TEMPLATES:
            raise RecipeError(
                f"{said.origin}: no template is called {name!r}{nearest(name, TEMPLATES)}"
            )
        return name

    def _learning(self) -> None:
        if self.name == ALIGN:
            self.put("train", ALIGN, "model.freeze_llm", "model.type")
        else:
            frozen = ("model.llm_lora", "model.freeze_llm", "model.type")
            self.put("train", ["connector", *self.learns()], *frozen)
        self._quantise()
        for ours, theirs, published in (
            ("lora", "llm_lora", self._language_targets()),
            ("vision_lora", "visual_encoder_lora", "clip"),
        ):
            self._adapter(ours, f"model.{theirs}", published)

    def _language_targets(self) -> str:
        """The layers that XTuner finds where the configuration names none."""
        key = "model.llm.pretrained_model_name_or_path"
        name, file = str(self.reading.value(key, str, "")), self._held(key) / "config.json"
        if file.is_file():
            kind = json.loads(file.read_text(encoding="utf-8")).get("model_type")
            return "internlm2" if kind == "internlm2" else "all_linear"
        return "internlm2" if "internlm2" in name.lower() else "all_linear"

    def _quantise(self) -> None:
        key = "model.llm.quantization_config"
        held = self.reading.find(key)
        if held is None or held.value is None:
            return
        self.reading.take(f"{key}.type")
        bits = {
            word: self.reading.value(f"{key}.load_in_{word}", bool, False)
            for word in ("4bit", "8bit")
        }
        kind = self.reading.value(f"{key}.bnb_4bit_quant_type", str, "nf4")
        if bits["4bit"] and kind != "nf4":
            raise RecipeError(
                f"{self.reading.origin(f'{key}.bnb_4bit_quant_type')}: 4 bits are nf4 here"
            )
        adapter = self.reading.find("model.llm_lora")
        learns = adapter is not None and adapter.value is not None
        for word, is_on in bits.items():
            if is_on and learns:
                self.put("quantise", word, f"{key}.load_in_{word}")
            elif is_on:
                where = self.reading.origin(f"{key}.load_in_{word}").rpartition(" ")[0]
                self.out.leave(f"{key}.load_in_{word}", True, where,
                               "a language model that does not learn is held in the products' "
                               "precision")  # fmt: skip

    def _adapter(self, ours: str, theirs: str, published: str) -> None:
        held = self.reading.find(theirs)
        if held is None or held.value is None:
            return
        self.reading.take(f"{theirs}.type")
        for key, name in _LORA.items():
            default = _PEFT_DEFAULTS.get(key)
            said = self.reading.take(f"{theirs}.{key}")
            value = default if said is None else said.plain()
            if value is None or (key in ("bias", "use_dora", "use_rslora") and value in _USUAL):
                continue
            said_by = said.origin if said else f"default of peft's {key}"
            self.say(f"{ours}.{name}", float(value) if name == "alpha" else value, said_by)
        targets = self.reading.take(f"{theirs}.target_modules")
        if targets is None or targets.plain() == "all-linear":
            why = f"no target_modules: {published} are the layers that XTuner finds"
            self.say(f"{ours}.targets", published, why)
        else:
            self.put(f"{ours}.targets", targets.plain(), f"{theirs}.target_modules")

    def _batch(self) -> None:
        self._length_of_training()
        rows = self.reading.value("train_dataloader.batch_size", int, 1)
        count = self.reading.value("optim_wrapper.accumulative_counts", int, 1)
        batch = rows * count * self.machine.devices
        sums = f"batch_size {rows} x accumulative_counts {count} x {self.machine.devices} GPUs "
        sums += f"({self.machine.text})"
        self.say("batch", batch, sums)
        self.put("micro_batch", rows, "train_dataloader.batch_size")
        self.say("expect_global_batch", batch, "another global batch is another run")
        why = "the mean of each pass, as mmengine has it; tokens: the same however a batch is cut"
        self.say("loss_mean", "micro_batches", why)
        sampler = "train_dataloader.sampler"
        kind = self.reading.names(f"{sampler}.type")
        if kind == "LengthGroupedSampler":
            rule = self.reading.value(f"{sampler}.length_property", str, "length")
            group = "xtuner" if rule == "modality_length" else "length"
            self.put("group", group, f"{sampler}.type")
        elif kind not in ("DefaultSampler", ""):
            raise RecipeError(
                f"{self.reading.origin(f'{sampler}.type')}: the sampler {kind!r} is not known"
                f"{nearest(kind, ['DefaultSampler', 'LengthGroupedSampler'])}"
            )
        elif self.reading.value(f"{sampler}.shuffle", bool, True) is False:
            said = self.reading.find(f"{sampler}.shuffle")
            assert said is not None
            self.out.leave(f"{sampler}.shuffle", False, said.where, "rows are always shuffled")
        self._max_length()

    def _max_length(self) -> None:
        sets = self._datasets("train_dataloader.dataset")
        text = self._same(sets, "max_length", int, 2048)
        tokens, how = self.picture_tokens()
        said = self.reading.origin(f"{sets[0]}.max_length")
        self.say("max_length", text + tokens - 1,
                 f"{said} {text}, one of which becomes a picture's {tokens} ({how})")  # fmt: skip

    def _length_of_training(self) -> None:
        epochs = self.reading.take("train_cfg.max_epochs")
        iters = self.reading.take("train_cfg.max_iters")
        self.reading.take("train_cfg.type")
        self.reading.take("train_cfg.by_epoch")
        if iters is not None and epochs is None:
            passes = self.reading.value("train_cfg.max_iters", int, 0)
            count = self.reading.value("optim_wrapper.accumulative_counts", int, 1)
            self.say("steps", max(1, passes // count), f"{iters.origin} / accumulative_counts")
        elif epochs is not None:
            value = self.reading.value("train_cfg.max_epochs", float, 1.0)
            self.put("epochs", int(value) if value == int(value) else value, "train_cfg.max_epochs")
        else:
            where = self.reading.origin("train_cfg")
            raise RecipeError(f"{where}: train_cfg needs max_epochs or max_iters")

    def _optimiser(self) -> None:
        key = "optim_wrapper.optimizer"
        kind = self.reading.names(f"{key}.type")
        if kind not in ("AdamW", "SGD"):
            raise RecipeError(
                f"{self.reading.origin(f'{key}.type', 'optim_wrapper')}: the optimiser "
                f"{kind or '(none)'} is not known{nearest(kind, ['AdamW', 'SGD'])}; take AdamW"
            )
        if self.reading.take("optim_wrapper.paramwise_cfg") is not None:
            where = self.reading.origin("optim_wrapper.paramwise_cfg")
            raise RecipeError(f"{where}: write it as optimiser.lr_parts of the recipe")
        if kind == "SGD":
            self.put("optimiser.type", "sgd", f"{key}.type")
        self.put("optimiser.lr", self.reading.value(f"{key}.lr", float, 1e-3), f"{key}.lr")
        for name, kinds in (("betas", list), ("weight_decay", float), ("eps", float)):
            if self.reading.take(f"{key}.{name}") is not None:
                value = self.reading.value(f"{key}.{name}", kinds, None)
                self.put(f"optimiser.{name}", value, f"{key}.{name}")
        clip = "optim_wrapper.clip_grad"
        if self.reading.find(clip) is None or self.reading.take(f"{clip}.max_norm") is None:
            # DeepSpeed is given 1 where the configuration says nothing.
            norm = 1.0 if self.machine.deepspeed else 0.0
            self.say("optimiser.max_grad_norm", norm, "no clip_grad")
        else:
            norm = self.reading.value(f"{clip}.max_norm", float, 1.0)
            self.put("optimiser.max_grad_norm", norm, f"{clip}.max_norm")
        if self.reading.value(f"{clip}.norm_type", float, 2.0) != 2.0:
            raise RecipeError(f"{self.reading.origin(f'{clip}.norm_type')}: the norm is 2 here")
        self._schedule()
        self.say("optimiser.groups", "xtuner", "mmengine's optimiser decays every weight")
        self._precision()

    def _schedule(self) -> None:
        key = "param_scheduler"
        held = self.reading.find(key)
        items = held.value if held is not None and isinstance(held.value, list) else []
        if held is not None and isinstance(held.value, dict):
            raise RecipeError(f"{held.origin}: param_scheduler is a list of schedulers")
        kinds = [self.reading.names(f"{key}.{n}.type") for n in range(len(items))]
        self.reading.told.update(f"{key}.{n}" for n in range(len(items)))
        if kinds == []:
            self.say("optimiser.schedule", "constant", "no param_scheduler")
            return
        if kinds not in (["LinearLR", "CosineAnnealingLR"], ["CosineAnnealingLR"]):
            raise RecipeError(
                f"{self.reading.origin(key)}: {' then '.join(kinds)} is not known; LinearLR then "
                "CosineAnnealingLR, or that alone"
            )
        last = f"{key}.{len(items) - 1}"
        self.put("optimiser.schedule", "xtuner", f"{last}.type")
        if len(items) == 2:
            self._warmup(f"{key}.0")
        else:
            self.say("optimiser.warmup_ratio", 0.0, "no LinearLR")
        floor = self.reading.value(f"{last}.eta_min", float, 0.0)
        if floor:
            self.put("optimiser.min_lr", floor, f"{last}.eta_min")
        end = self.reading.value(f"{last}.T_max", float, None) or self.reading.value(
            f"{last}.end", float, None
        )
        whole = self.reading.value("train_cfg.max_epochs", float, None)
        if end is not None and whole is not None and end != whole:
            said = self.reading.find(f"{last}.end") or self.reading.find(f"{last}.T_max")
            where = said.origin if said else key
            self.out.leave(f"{last}.end", end, where, f"the cosine ends with the run, at {whole:g}")

    def _warmup(self, key: str) -> None:
        start = self.reading.value(f"{key}.start_factor", float, 1 / 3)
        said = self.reading.find(f"{key}.start_factor")
        if start != 1e-5:
            where = said.where if said else "default of mmengine"
            self.out.leave(f"{key}.start_factor", start, where, "warmup begins at 1e-5 of the rate")
        end = self.reading.value(f"{key}.end", float, 0.0)
        whole = self.reading.value("train_cfg.max_epochs", float, None)
        if self.reading.value(f"{key}.by_epoch", bool, True) and whole:
            share = round(end / whole, 12)
            self.put("optimiser.warmup_ratio", share, f"{key}.end")
        else:
            count = self.reading.value("optim_wrapper.accumulative_counts", int, 1)
            self.put("optimiser.warmup_steps", int(end) // count, f"{key}.end")

    def _precision(self) -> None:
        kind = self.reading.names("optim_wrapper.type")
        dtype = self.reading.names("optim_wrapper.dtype") or "float16"
        words = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
        if self.machine.deepspeed:
            origin = "deepspeed, on the command line"
            self.say("parallel", self.machine.deepspeed.removeprefix("deepspeed_"), origin)
            said = self.reading.find("optim_wrapper.dtype")
            if said is not None:
                self.out.leave("optim_wrapper.dtype", str(said.value), said.where,
                               "DeepSpeed takes bf16 where the GPU has it; so does "
                               "`precision: auto`")  # fmt: skip
        elif kind == "OptimWrapper":
            self.put("precision", "fp32", "optim_wrapper.type")
        elif dtype not in words:
            raise RecipeError(
                f"{self.reading.origin('optim_wrapper.dtype')}: {dtype!r} is no dtype"
            )
        else:
            self.put("precision", words[dtype], "optim_wrapper.dtype", "optim_wrapper.type")

    def _saving(self) -> None:
        key = "default_hooks.checkpoint"
        held = self.reading.find(key)
        self.reading.told.add(key)
        if held is None or not isinstance(held.value, dict):
            return
        interval = self.reading.value(f"{key}.interval", int, -1)
        if self.reading.value(f"{key}.by_epoch", bool, True):
            self.out.leave(f"{key}.interval", interval, self.reading.origin(f"{key}.interval"),
                           "checkpoints are counted in samples: save_every_samples")  # fmt: skip
        elif interval > 0:
            rows = self.reading.value("train_dataloader.batch_size", int, 1)
            devices = self.machine.devices
            origin = f"{self.reading.origin(f'{key}.interval')} {interval} x {rows} rows x "
            origin += f"{devices} GPUs"
            self.say("save_every_samples", interval * rows * devices, origin)
        keep = self.reading.value(f"{key}.max_keep_ckpts", int, -1)
        if keep > 0:
            self.put("keep_last", keep, f"{key}.max_keep_ckpts")
        else:
            self.say("keep_last", 1_000_000, "max_keep_ckpts -1: all of them stay")
        seed = self.reading.value("randomness.seed", int, None)
        if seed is not None:
            self.put("seed", seed, "randomness.seed")


_USUAL = ("none", False)


def _clean(path: str) -> str:
    """A path as it is written in recipes, without `./` before it."""
    if not path or "://" in path:
        return path
    return posixpath.normpath(path)
