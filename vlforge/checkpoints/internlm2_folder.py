"""A folder of InternLM2 as one of Llama and back: `vlforge convert-model --to llama`."""

from __future__ import annotations

from pathlib import Path

from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.conversion import check_room
from vlforge.checkpoints.internlm2 import to_internlm2, to_llama
from vlforge.checkpoints.languages import legacy_fields
from vlforge.checkpoints.tokenizers import copy_tokenizer
from vlforge.checkpoints.weights import open_weights, write_weights
from vlforge.data.new_folder import NewFolder
from vlforge.models.parts.internlm2 import MODEL_TYPE, Heads, internlm2_fields, llama_config
from vlforge.models.parts.language import text_config
from vlforge.models.reading import read_config, write_json
from vlforge.types import ModelError

KINDS = ("llama", MODEL_TYPE)
"""What a folder can be turned into."""


def convert(folder: Path, out: Path, to: str, how: Writing) -> dict[str, int]:
    """Write an InternLM2's folder as a Llama's (`to` "llama"), or the other way ("internlm2").

    Returns:
        Bytes of each file written, by its name in `out`.

    Raises:
        ModelError: a folder of something else, or a model that the other cannot be.
        DataError: `out` is there already.
    """
    given = read_config(folder)
    wanted = MODEL_TYPE if to == "llama" else "llama"
    if given.get("model_type") != wanted:
        raise ModelError(f"{folder} holds a {given.get('model_type')!r}; --to {to} takes {wanted}")
    config = llama_config(given) if to == "llama" else text_config(given)
    own = {k: v for k, v in open_weights(folder).items() if not k.endswith("rotary_emb.inv_freq")}
    weights = to_llama(own, Heads.of(config)) if to == "llama" else to_internlm2(own, config)
    weights = how.cast(weights)
    kinds = {str(lazy.dtype).removeprefix("torch.") for lazy in weights.values()}
    if to == "llama":
        fields = legacy_fields(config) | {"architectures": ["LlamaForCausalLM"]}
        fields["model_type"] = "llama"
    else:
        fields = internlm2_fields(config)
        how.say("InternLM2's own code is not written; copy its .py files and auto_map beside")
    fields["torch_dtype"] = kinds.pop() if len(kinds) == 1 else given.get("torch_dtype")
    check_room(out, sum(lazy.nbytes for lazy in weights.values()))
    with NewFolder(out) as draft:
        write_weights(
            weights, draft, kind=how.kind, shard_bytes=how.shard_bytes, on_shard=how.on_shard
        )
        write_json(draft / "config.json", fields)
        copy_tokenizer(folder, draft)
        return {file.name: file.stat().st_size for file in sorted(draft.iterdir())}
