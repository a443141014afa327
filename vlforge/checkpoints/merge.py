"""A base and what was trained beside it, as one model: `vlforge merge`.

Three cases. An adapter of a language model or of an encoder alone is added in the
base's own names and files. What belongs to a model that sees (LLaVA's and MGM's LoRA
folders, XTuner's checkpoints, a connector, Paddle's LoRA, an adapter of a whole
model) is read as its layout reads it and written as a whole model. Vicuna's
differences are summed.

Weights are summed in fp32 and rounded once, which is within an ulp of what peft gives
in fp16 (it rounds the change, too).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlforge.checkpoints import conversion
from vlforge.checkpoints.checkpoint import Checkpoint, Layout, Parts, Writing
from vlforge.checkpoints.index import detect, find, match
from vlforge.checkpoints.internlm2 import adapter_to_llama, to_internlm2, to_llama
from vlforge.checkpoints.languages import read_language
from vlforge.checkpoints.llava_hf import our_name
from vlforge.checkpoints.lora import CONFIG_NAME, FILE_NAMES, Adapter, is_adapter, open_adapter
from vlforge.checkpoints.paddle import LORA_CONFIG
from vlforge.checkpoints.tokenizers import copy_tokenizer, has_tokenizer
from vlforge.checkpoints.vicuna_delta import apply_delta
from vlforge.checkpoints.weights import (
    SINGLES,
    Lazy,
    Weights,
    has_weights,
    open_weights,
    write_weights,
)
from vlforge.checkpoints.xtuner import Trained
from vlforge.data.new_folder import NewFolder
from vlforge.models.parts.internlm2 import Heads, is_internlm2
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

WHOLE_LAYOUTS = {
    "llava_lora": "llava", "llava_projector": "llava", "mgm_lora": "mgm", "mgm_projector": "mgm",
    "qwen_vl_lora": "qwen_vl", "paddle": "paddle", "xtuner": "xtuner", "peft_adapter": "vlforge",
    "vlforge_adapter": "vlforge",
}  # fmt: skip
"""Layouts of what is trained beside a base, and how the whole is written by default."""
CARRIED = (".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
"""Files of a base that go along: tokenizer, processor, and code that is never run here."""
_PEFT = ("peft_adapter", "qwen_vl_lora")
"""Layouts of folders in which nothing but peft's files was trained."""
_SEPARATE = ("adapter", "xtuner")
"""What layouts keep apart to write an adapter again as it was."""
_EMBEDDINGS = ("embed_tokens.weight", "tok_embeddings.weight", "wte.weight")
_HEADS = ("lm_head.weight", "output.weight")


@dataclass(frozen=True)
class Merged:
    """What was written: its layout ("" for a base's own), its files with their bytes.

    tensors: how many there are; changed: how many of them an adapter changed, where
    that was counted. notes: what to know of it, one line each.
    """

    layout: str
    files: Mapping[str, int]
    tensors: int
    changed: int = 0
    notes: tuple[str, ...] = ()


def merge(
    base: Path | None,
    adapter: Path,
    out: Path,
    parts: Parts | None = None,
    *,
    how: Writing | None = None,
    to: str = "",
) -> Merged:
    """Write `base` with `adapter` in it into the new folder `out`.

    Args:
        base: None where the adapter says itself what it belongs to.
        parts: encoders and settings that the adapter leaves out; its `base` is `base`.
        how: shards, precision (the base's by default), progress.
        to: layout of the result, where the whole is a model that sees.

    Raises:
        ModelError: folders that do not belong together, tensors that do not land, or
            too little room; nothing is written then.
        DataError: `out` is there already.
    """
    how = how or Writing()
    for path in (base, adapter):
        if path is not None and not path.exists():
            raise ModelError(f"nothing at {path}; check the path")
    if base is None:
        return _merge_whole(None, adapter, out, parts or Parts(), how, detect(adapter), to)
    if base.resolve() == adapter.resolve():
        raise ModelError(f"{base} is given as base and as adapter")
    if is_adapter(base) and not is_adapter(adapter):
        raise ModelError(f"{base} holds an adapter; name the base first and the adapter second")
    is_alone = _is_plain(base)
    layout = match(adapter)
    if is_alone and (layout is None or layout.name in _PEFT):
        if to:
            raise ModelError(f"{base} sees no pictures; it is written as it was, without --to")
        if is_adapter(adapter):
            return merge_part(base, adapter, out, how)
        if _is_plain(adapter) and _kind(adapter) == _kind(base):
            return _merge_delta(base, adapter, out, how)
    if layout is None and adapter.is_dir() and _is_plain(adapter):
        raise ModelError(
            f"{adapter} is a whole {_kind(adapter)} and no adapter; there is nothing to merge"
        )
    chosen = layout or detect(adapter)  # which says what is wrong
    return _merge_whole(base, adapter, out, replace(parts or Parts(), base=base), how, chosen, to)


def _is_plain(path: Path) -> bool:
    """Whether this is a language model or an encoder by itself, in transformers' layout."""
    return (path / "config.json").is_file() and has_weights(path) and match(path) is None


def _kind(folder: Path) -> str:
    return str(read_config(folder).get("model_type"))


def merge_part(base: Path, adapter: Path, out: Path, how: Writing) -> Merged:
    """A language model or an encoder with its adapter, under the base's own names.

    Raises:
        ModelError: as `merge`.
    """
    given, opened = read_config(base), open_adapter(adapter)
    weights, own_head = _with_own_head(open_weights(base), opened, given)
    config = read_language(base).config if is_internlm2(given) else None
    as_llama = None if config is None else to_llama(weights, _heads(given))
    if config is not None and as_llama is not None and _is_of_llama(opened, weights, as_llama):
        # Trained here, where an InternLM2 is a Llama: q, k and v have an adapter each.
        trained = landed(opened, as_llama, config.to_dict())
        merged = how.cast(to_internlm2(trained.onto(as_llama), config))
    else:
        trained = landed(opened, weights, given)
        merged = how.cast(trained.onto(weights))
    fields = given | own_head | _resized(weights, merged)
    is_resized = fields.get("vocab_size") != given.get("vocab_size")
    notes = []
    if is_resized:
        notes.append(f"the vocabulary has {fields['vocab_size']} tokens now, as it was trained")
    conversion.check_room(out, sum(lazy.nbytes for lazy in merged.values()))
    with NewFolder(out) as draft:
        write_weights(
            merged, draft, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard
        )
        _carry(base, draft)
        if is_resized and has_tokenizer(adapter):
            copy_tokenizer(adapter, draft)
        if how.dtype is not None:
            name = str(how.dtype).removeprefix("torch.")
            kept = [key for key in ("torch_dtype", "dtype") if key in fields] or ["torch_dtype"]
            fields = fields | dict.fromkeys(kept, name)
        write_json(draft / "config.json", fields)
        files = _sizes(draft)
    changed = len(trained.pairs) + len(trained.whole)
    return Merged("", files, len(merged), changed, tuple(notes))


def _is_of_llama(adapter: Adapter, weights: Weights, as_llama: Weights) -> bool:
    """Whether an adapter has the names of an InternLM2 that is a Llama."""
    names = [*adapter.pairs, *adapter.whole]
    own = all(_landing(name, weights) for name in names)
    return not own and all(_landing(name, as_llama) for name in names)


def landed(adapter: Adapter, weights: Weights, fields: Mapping[str, Any]) -> Adapter:
    """The adapter under the names of a part's own files.

    It may have been trained on the part inside of a model that sees, under names of
    transformers 4 or 5, or on an InternLM2 that is a Llama here.

    Raises:
        ModelError: tensors that no name leads to a weight of the base for.
    """
    names = [*adapter.pairs, *adapter.whole]
    found = {name: _landing(name, weights) for name in names}
    if None in found.values() and not is_internlm2(fields) and "num_attention_heads" in fields:
        llama = adapter_to_llama(adapter, _heads(fields))
        if all(_landing(name, weights) for name in (*llama.pairs, *llama.whole)):
            return llama.renamed(lambda name: str(_landing(name, weights)))
    lost = [name for name, place in found.items() if place is None]
    if lost:
        first = adapter.pairs[lost[0]].a if lost[0] in adapter.pairs else adapter.whole[lost[0]]
        raise ModelError(
            f"{len(lost)} of {len(names)} weights that the adapter changes are not in the base, "
            f"the first is {first.where}; it was trained on another model"
        )
    return adapter.renamed(lambda name: str(found[name]))


def _landing(name: str, weights: Weights) -> str | None:
    """The base's name of a weight that the adapter calls `name`."""
    told = our_name(name) or name
    inner = told.removeprefix("vision.tower.").removeprefix("vision_model.")
    language = told.removeprefix("language.")
    candidates = (
        name,
        language,
        inner,
        f"vision_model.{inner}",
        f"language_model.{language}",
        f"model.language_model.{language.removeprefix('model.')}",
        name.removeprefix("model."),
        f"model.{name}",
    )
    return next((one for one in candidates if one in weights), None)


def _heads(fields: Mapping[str, Any]) -> Heads:
    queries = int(fields["num_attention_heads"])
    return Heads(queries, int(fields.get("num_key_value_heads") or queries))


def _with_own_head(
    weights: Weights, adapter: Adapter, fields: Mapping[str, Any]
) -> tuple[dict[str, Lazy], dict[str, Any]]:
    """The base with an output layer of its own, where it tied it and the adapter has one."""
    found = dict(weights)
    words = next((name for name in found if name.endswith(_EMBEDDINGS)), None)
    for head in set(_HEADS) & set(adapter.whole) - set(found):
        if words is not None and fields.get("tie_word_embeddings"):
            found[head] = found[words]
            return found, {"tie_word_embeddings": False}
    return found, {}


def _resized(before: Weights, after: Weights) -> dict[str, Any]:
    """The new number of tokens, where whole embeddings brought one.

    Raises:
        ModelError: another weight of another shape, or embeddings that disagree.
    """
    rows = set()
    for name, lazy in after.items():
        if lazy.shape == before[name].shape:
            continue
        is_table = (
            name.endswith((*_EMBEDDINGS, *_HEADS)) and lazy.shape[1:] == before[name].shape[1:]
        )
        if not is_table:
            raise ModelError(
                f"{lazy.where} has shape {list(lazy.shape)}, and {before[name].where} has "
                f"{list(before[name].shape)}; the adapter belongs to another base"
            )
        rows.add(lazy.shape[0])
    if not rows:
        return {}
    kept = {lazy.shape[0] for name, lazy in after.items() if name.endswith((*_EMBEDDINGS, *_HEADS))}
    if len(kept) > 1:
        raise ModelError(
            f"the adapter's embeddings and output layer have {sorted(kept)} tokens; it lacks one "
            "of the two"
        )
    return {"vocab_size": rows.pop()}


def _carry(base: Path, draft: Path) -> None:
    """The base's files that are no weights."""
    left = {*SINGLES, *FILE_NAMES, CONFIG_NAME, "config.json"}
    for file in sorted(base.iterdir()):
        is_index = file.name.endswith(".index.json")
        if file.is_file() and file.suffix in CARRIED and file.name not in left and not is_index:
            shutil.copyfile(file, draft / file.name)


def _merge_delta(base: Path, delta: Path, out: Path, how: Writing) -> Merged:
    if out.exists():
        raise ModelError(f"{out} exists already; name a new folder")
    conversion.check_room(out, sum(lazy.nbytes for lazy in open_weights(delta).values()))
    done = apply_delta(base, delta, out, how)
    return Merged("", _sizes(out), done.tensors, done.tensors, done.notes)


def _merge_whole(
    base: Path | None,
    adapter: Path,
    out: Path,
    parts: Parts,
    how: Writing,
    layout: Layout,
    to: str,
) -> Merged:
    if layout.name not in WHOLE_LAYOUTS:
        raise ModelError(
            f"{adapter} is a whole model ({layout.name}), no adapter; are base and adapter "
            "exchanged? To write it in another layout take vlforge convert-model"
        )
    if layout.name == "paddle" and not (adapter / LORA_CONFIG).is_file():
        raise ModelError(f"{adapter} is a whole model of Paddle's; a LoRA has {LORA_CONFIG}")
    checkpoint = layout.read(adapter, parts)
    changed = _changed(checkpoint)
    kept = {key: value for key, value in checkpoint.extra.items() if key not in _SEPARATE}
    checkpoint = replace(checkpoint, extra=kept)
    writer = find(to) if to else _default(base, layout)
    conversion.check(checkpoint, out, writer, how)
    files = conversion.write(checkpoint, out, writer, how)
    unused = tuple(f"not used: {line}" for line in checkpoint.unused)
    return Merged(
        writer.name, files, len(checkpoint.weights), changed, (*checkpoint.notes, *unused)
    )


def _changed(checkpoint: Checkpoint) -> int:
    """How many weights of the base an adapter changes or replaces."""
    adapter, trained = (checkpoint.extra.get(key) for key in _SEPARATE)
    if isinstance(trained, Trained):
        halves = (trained.language, trained.vision)
        count = len(trained.projector) + sum(len(half.whole) for half in halves)
        pairs = [half.adapter for half in halves if half.adapter is not None]
        return count + sum(len(one.pairs) + len(one.whole) for one in pairs)
    return len(adapter.pairs) + len(adapter.whole) if isinstance(adapter, Adapter) else 0


def _default(base: Path | None, layout: Layout) -> Layout:
    """The base's own layout where it is a whole model, else that of the adapter's system."""
    if base is not None and layout.name != "xtuner":
        whole = match(base)
        if whole is not None and whole.name not in WHOLE_LAYOUTS:
            return whole
    return find(WHOLE_LAYOUTS[layout.name])


def _sizes(folder: Path) -> dict[str, int]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}
