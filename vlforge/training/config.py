"""The `tokenizer`, `pretrain` and `train` stages of a recipe. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vlforge.models.config import Lean, ModelSpec, SmallLanguageSpec, SmallVisionSpec


@dataclass(frozen=True)
class TokenizerConfig:
    """Train a tokenizer on datasets of any format and on plain text."""

    data: tuple[str, ...]
    type: Literal["word"] = "word"
    max_vocab: int = 4096
    extra_words: tuple[str, ...] = ()


ScheduleName = Literal[
    "cosine", "cosine_with_min_lr", "cosine_with_restarts", "linear", "polynomial",
    "constant", "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay",
    "one_cycle", "lavis", "xtuner", "paddle_cosine", "paddle_linear",
]  # fmt: skip
"""How learning rates go; see `vlforge.training.schedules`."""

GroupsName = Literal["default", "llava", "mgm", "qwen", "lavis", "paddle", "xtuner"]
"""Whose rule says which weights decay; see `vlforge.training.optimiser_groups`."""


@dataclass(frozen=True)
class Optimiser:
    """AdamW (or plain SGD), what of it differs by part, and how the rate goes.

    `lr_parts` gives parts or regular expressions over parameter names a rate of their
    own, `lr_multi` a multiple of `lr`; the last entry that means a parameter counts.
    With `groups: llava` or `mgm` their keys may also be pieces of the published names
    (`mm_projector: 2.0e-5` is `mm_projector_lr`).
    `groups` says by whose rule weights decay: `default` all but vectors; `llava`, `mgm`
    and `qwen` as transformers' Trainer, all but biases and the norms that it knows;
    `lavis` as MiniGPT-4; `paddle` all but what is called bias or norm; `xtuner` all.
    `warmup_steps` above 0 count instead of `warmup_ratio`. Warmup begins at `warmup_lr`
    and the schedule ends at `min_lr` ("auto": 0, for polynomial 1e-7), both of a part
    with the base rate `lr`. `cycles`, `power` and `decay_ratio` are those of
    cosine_with_restarts, polynomial and warmup_stable_decay.
    """

    type: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    lr_parts: dict[str, float] = field(default_factory=dict)
    lr_multi: dict[str, float] = field(default_factory=dict)
    groups: GroupsName = "default"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: ScheduleName = "cosine"
    warmup_ratio: float = 0.03
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float | Literal["auto"] = "auto"
    cycles: float | Literal["auto"] = "auto"
    power: float = 1.0
    decay_ratio: float = 0.1


@dataclass(frozen=True)
class Mixture:
    """One dataset of several, and how much of it is seen.

    `weight` is its share of the samples, relative to the others'; or `rows` or
    `epochs` of it are seen; without any of them it counts by its rows.
    `PATH#0.7w`, `PATH#1000` and `PATH#2.5e` are short for these. `format` is one
    of `vlforge list formats`, judged by content unless named; `image_root` is
    where this dataset's relative picture paths start. `captions: blip` makes its
    answers small letters without marks, at most 50 words, as BLIP-2 and MiniGPT-4's
    first stage learn them. `at_most` cuts a dataset with more rows down to so many, those
    that Better Synth's kit draws; `questions` is a LLaVA file whose first questions the
    rows get back by their ids (its `restore_questions`); `prompts` a file such as
    MiniGPT-4's alignment.txt, of which each row gets one as its question.
    """

    path: str
    weight: float | None = None
    rows: int | None = None
    epochs: float | None = None
    format: str = "auto"
    image_root: str | None = None
    captions: Literal["as_is", "blip"] = "as_is"
    at_most: int | None = None
    questions: str | None = None
    prompts: str | None = None


@dataclass(frozen=True)
class Mixing:
    """How several datasets become one order.

    `exact` meets every share to the row and shuffles all; `per_sample` draws a
    dataset for each row, `per_batch` for each global batch, whose rows are then
    all of one dataset. `temperature` T, without weights, counts a dataset of n
    rows as n^(1/T): above 1 the small ones come more often.
    """

    draw: Literal["exact", "per_sample", "per_batch"] = "exact"
    temperature: float = 1.0


@dataclass(frozen=True)
class AugmentSpec:
    """How far pictures may change: `shift` as a share of the side, the rest of full scale."""

    shift: float = 0.05
    brightness: float = 0.1
    contrast: float = 0.15
    noise: float = 0.03


@dataclass(frozen=True)
class PretrainConfig:
    """Train one part alone: an encoder by tagging, or a decoder on text.

    `objective: tags` trains `vision` to name the caption's words somewhere on
    the picture; `objective: text` trains `language` on texts. `tag_sharpness`
    says how near to the best place on the map a tag's score is. Words on fewer
    than `tag_min_count` pictures, or on a larger share of them than
    `tag_max_share`, are no tags.
    """

    objective: Literal["tags", "text"]
    data: str | tuple[str | Mixture, ...]
    tokenizer: str
    samples: int
    vision: SmallVisionSpec = field(default_factory=SmallVisionSpec)
    language: SmallLanguageSpec = field(default_factory=SmallLanguageSpec)
    batch: int = 16
    mixing: Mixing = Mixing()
    tag_sharpness: float = 1.0
    tag_max_share: float = 1.0
    tag_min_count: int = 1
    optimiser: Optimiser = Optimiser()
    augment: bool | AugmentSpec = False
    group_by_length: bool = False
    image_root: str | None = None
    save_every_samples: int = 0
    seed: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA adapter of one part; the part's own weights stay as they are.

    `targets` are names at the end of a module's path (`q_proj`, `attn.c_proj`),
    expressions over the whole path (`.*attn.c_attn.*`), or published sets: `all_linear`
    (every linear layer but the output layer, as LLaVA and XTuner), `clip` (XTuner's),
    `ad_captions` and `qwen` (Qwen-VL's), `internlm2` (output layer included, as XTuner).
    `exclude` takes away in the same words. An expression that means layers outside of the
    part is refused, unless `outside: leave` says that those are left alone.
    `rslora` scales by the root of the rank; `dora` learns each row's length apart.
    `bias: all` trains the part's biases, `lora_only` those of the adapted layers;
    `modules_to_save` are trained whole and kept with the adapter. `weights` is an adapter
    of peft to go on from.
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05
    targets: str | tuple[str, ...] = "all_linear"
    exclude: str | tuple[str, ...] = ()
    outside: Literal["refuse", "leave"] = "refuse"
    dora: bool = False
    rslora: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: tuple[str, ...] = ()
    weights: str | None = None


@dataclass(frozen=True)
class MergeConfig:
    """Put an adapter into its base: one whole model, in the layout `to`.

    `adapter` is the folder of a train stage with `lora` (`$tune`), which knows its base,
    or any of `vlforge merge`, which needs `base`. `to` is a layout of `vlforge list
    layouts`; the base's own by default. Sums are in fp32 and rounded once to `dtype`.
    """

    adapter: str
    base: str | None = None
    vision: str | None = None
    to: str = ""
    dtype: Literal["keep", "fp32", "bf16", "fp16"] = "keep"


@dataclass(frozen=True)
class ConvertConfig:
    """Write a model in another layout: `to` is one of `vlforge list layouts`.

    `model` is a stage (`$tune`) or a folder in any layout that is read; `dtype: keep`
    leaves every weight as it is.
    """

    model: str
    to: str
    dtype: Literal["keep", "fp32", "bf16", "fp16"] = "keep"


@dataclass(frozen=True)
class HeldOut:
    """What a stage is looked at while it trains: rows that it does not learn, and benchmarks.

    `data` gives the rows, at most `rows` of them, whose mean loss over supervised tokens is
    `eval_loss`; `every_samples` says how often (0: at the end alone). `benchmarks` are
    entries as in an `evaluate` stage, each asked about `benchmark_rows` questions.
    """

    data: str | tuple[str | Mixture, ...] = ()
    rows: int = 256
    every_samples: int = 0
    benchmarks: tuple[dict[str, Any], ...] = ()
    benchmark_rows: int = 64


@dataclass(frozen=True)
class Guard:
    """What happens when a loss is no number or leaps.

    A leap is a loss of more than `spike` times the median of the last `window` steps, once
    10 lie behind (0: leaps are not looked for). The rows of the batch are written to
    `spikes.jsonl`. `on_spike: skip` leaves such a step's update out, `stop` ends the stage,
    `warn` goes on; a loss or gradient that is no number is left out up to `nan_steps` times
    in a row (0: it ends the stage).
    """

    spike: float = 0.0
    window: int = 100
    on_spike: Literal["warn", "skip", "stop"] = "warn"
    nan_steps: int = 0


TrackerName = Literal["tensorboard", "wandb", "mlflow", "swanlab", "trackio"]
"""Where curves can be sent; see `vlforge.training.trackers`."""


@dataclass(frozen=True)
class TrainConfig:
    """One stage of VLM training: align, instruct, or any other.

    `model` is three nouns to assemble, or the folder of a model to go on with (`$align`: what
    an earlier stage made), ours or an image-text model of transformers.
    `image_aspect_ratio` changes how that model fits pictures.
    `train` names what learns: vision, connector, language, a stage of the family as
    published (`align`, `instruct`), regular expressions over parameter names,
    `vision_last_half` (of an encoder's layers) or `vision_high_last_blocks` (Mini-Gemini's
    second encoder). What `freeze` names stays all the same; everything else is frozen.
    The budget is `samples`, `steps` or `epochs` (of `iters_per_epoch` batches each, where
    given), unless the entries of `data` name their rows or epochs.
    `batch` is the global batch, worked down to `micro_batch` rows times accumulation for
    as many devices as there are; "auto" is micro_batch x accumulation x devices. A run
    with another global batch than `expect_global_batch` stops. `drop_last` leaves a last
    short batch out.
    `loss_mean` is over the tokens of a global batch; or over its micro-batches' means, as
    transformers' Trainer did up to 4.45 (LLaVA, Mini-Gemini, Qwen-VL); or as LAVIS, whose
    accumulated micro-batches add up undivided.
    `precision: auto` is bf16 products over fp32 weights on a GPU, fp32 on a CPU. Parts
    that do not learn are held in `frozen_precision` (auto: that of the products) and
    written as they were. `tf32: auto` allows it where precision is not fp32.
    A row of more than `max_length` tokens, pictures included, loses its last words, and is
    left out where its pictures do not fit (`on_too_long: cut`); `drop` leaves it out whole,
    `refuse` stops. Rows without a label are left out, or stop the stage (`on_no_labels`);
    all are counted and the first are named. `template: v1+im_start_end` puts each picture
    between two tokens of its own; `template: auto` is a native model's own chat template.
    `tokenizer: slow` gives texts the ids of transformers 4's slow Llama tokenizer, with which
    LLaVA and MGM trained, `fast` those of its fast one (XTuner). `compat: llava` (mgm, xtuner,
    …) gives rows that system's labels, its faults too.
    `group` brings rows of like length together: `length` (the same as `group_by_length`)
    in windows of 50 batches; `llava`, `mgm` and `xtuner` as those systems, pictures and texts
    apart; `balanced` leaves the order and shares each batch out so that devices end together.
    `pack: isolated` lays several rows end to end instead of padding them, each blind to the
    others: the same loss. A pack is as long as the longest row, or `pack_length` tokens.
    `random_crop` shows a part of each picture, another each time, as MiniGPT-4's published
    training does (auto: where the family does).
    `lora` and `vision_lora` give the language model and the encoder an adapter; such a part
    learns nothing else, whatever `train` says of it, and the stage leaves the adapters, what
    else was trained, and where its base is. `quantise` holds the language model's matrices
    in 8 or 4 bits meanwhile (QLoRA).
    `export: connector` writes mm_projector.bin (MiniGPT-4: checkpoint_N.pth, N its last epoch
    from 0), with its published names, and no model.
    `parallel` says how several processes share the model: `ddp` (auto), `fsdp2`, `zero1`,
    `zero2`, `zero3`, with `_offload` at the end for optimiser and weights in main memory,
    XTuner's names (`deepspeed_zero2`), or a DeepSpeed JSON by its path.
    `checkpointing` names the parts (`vision`, `language`) whose layers are computed a second
    time instead of kept; auto takes none while memory suffices.
    `cache` keeps what a frozen encoder makes of each picture: auto in memory where it fits,
    on also on disk, for later runs too. `compile` gives decoder and encoder layers to
    torch.compile, auto on a GPU where batches have few shapes. `lean` is what is left out.
    `decode` reads pictures in threads or in processes; auto is by what one picture costs.
    A killed stage goes on from its last checkpoint when the same command comes again;
    `resume: false` begins anew. `keep_last` checkpoints stay while it trains, with
    `keep_best` the model of the least `eval_loss` is what the stage leaves.
    `evaluate`, `trackers` (tensorboard, wandb, mlflow, swanlab, trackio) and `guard` look on.
    """

    model: ModelSpec | str
    data: str | tuple[str | Mixture, ...]
    samples: int | None = None
    epochs: float | None = None
    steps: int | None = None
    iters_per_epoch: int | None = None
    mixing: Mixing = Mixing()
    template: str = "plain"
    image_aspect_ratio: Literal["model", "square", "pad", "stretch"] = "model"
    train: str | tuple[str, ...] = ("connector",)
    freeze: str | tuple[str, ...] = ()
    batch: int | Literal["auto"] = 16
    micro_batch: int | Literal["auto"] = "auto"
    accumulation: int | Literal["auto"] = "auto"
    expect_global_batch: int | None = None
    drop_last: bool = False
    loss_mean: Literal["tokens", "micro_batches", "lavis"] = "tokens"
    max_length: int = 256
    on_too_long: Literal["cut", "drop", "refuse"] = "cut"
    on_no_labels: Literal["drop", "refuse"] = "drop"
    tokenizer: Literal["auto", "slow", "fast"] = "auto"
    compat: str | None = None
    optimiser: Optimiser = Optimiser()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    frozen_precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tf32: bool | Literal["auto"] = "auto"
    augment: bool | AugmentSpec = False
    group_by_length: bool = False
    group: Literal["none", "length", "llava", "mgm", "xtuner", "balanced"] = "none"
    pack: Literal["off", "isolated"] = "off"
    pack_length: int | Literal["auto"] = "auto"
    random_crop: bool | Literal["auto"] = "auto"
    image_root: str | None = None
    save_every_samples: int = 0
    lora: LoraSpec | None = None
    vision_lora: LoraSpec | None = None
    quantise: Literal["none", "8bit", "4bit"] = "none"
    export: Literal["model", "connector", "both"] = "model"
    parallel: str = "auto"
    checkpointing: Literal["auto"] | tuple[Literal["vision", "language"], ...] = "auto"
    cache: Literal["auto", "on", "off"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    lean: Lean = field(default_factory=Lean)
    decode: Literal["auto", "threads", "processes"] = "auto"
    resume: bool = True
    keep_last: int = 1
    keep_best: bool = False
    evaluate: HeldOut | None = None
    trackers: tuple[TrackerName, ...] = ()
    guard: Guard = Guard()
    seed: int | Literal["auto"] = "auto"
