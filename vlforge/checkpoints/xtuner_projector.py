"""Models of parts as XTuner leaves them: its connector, an InternLM2 that is to be quantised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM

from vlforge.checkpoints.checkpoint import Slice
from vlforge.checkpoints.foreign_pickle import read_trained
from vlforge.checkpoints.languages import OURS, read_language
from vlforge.checkpoints.weights import open_weights
from vlforge.checkpoints.zero_shards import is_zero, read_zero
from vlforge.models.config import ModelSpec
from vlforge.models.folder import ModelFolder, assemble
from vlforge.models.parts.internlm2 import is_internlm2
from vlforge.models.reading import first_line, read_config
from vlforge.types import ModelError

PREFIX = "projector.model."
FOLDER = "projector"


def assemble_parts(spec: ModelSpec, **how: Any) -> ModelFolder:
    """`models.folder.assemble`; `connector_weights` may also be XTuner's `iter_N.pth`, DeepSpeed's
    folder of that name, or what pth_to_hf makes of them.

    Raises:
        ModelError: as `assemble`; or the checkpoint holds more than a connector.
    """
    how = {**how, **_language(Path(spec.language), how)}
    path = Path(spec.connector_weights) if spec.connector_weights else None
    found = None if path is None or spec.family != "llava" else _projector(path)
    if found is None or path is None:
        return assemble(spec, **how)
    folder = assemble(replace(spec, connector_weights=None), **how)
    folder.model.take_connector(found, path)
    return folder


def _language(folder: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """An InternLM2 that is to be quantised, which transformers reads from no file as a Llama.

    Raises:
        ModelError: it lacks weights, or cannot go where it is asked to.
    """
    if not how or not is_internlm2(read_config(folder)):
        return {}
    found = read_language(folder)
    state = {
        name.removeprefix(OURS): Slice(lazy.to(torch.float32))
        for name, lazy in found.weights.items()
    }
    kind: Any = LlamaForCausalLM
    try:
        model, info = kind.from_pretrained(
            None, config=found.config, state_dict=state, dtype=torch.float32,
            generation_config=GenerationConfig.from_model_config(found.config),
            output_loading_info=True, **how,
        )  # fmt: skip
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from None
    lost = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if lost:
        raise ModelError(f"{folder}: {len(lost)} weights did not land, the first {lost[0]}")
    return {"language": model.eval()}


def _projector(path: Path) -> dict[str, Tensor] | None:
    """The connector's tensors by its own names; None where the file is not XTuner's."""
    if path.is_dir() and (path / FOLDER / "config.json").is_file():
        made = {f"projector.{name}": one for name, one in open_weights(path / FOLDER).items()}
        return _below({name: lazy.read() for name, lazy in made.items()}, path)
    if path.is_dir() and is_zero(path):
        return _below({name: lazy.read() for name, lazy in read_zero(path)[0].items()}, path)
    if path.suffix not in (".pth", ".pt") or not path.is_file():
        return None
    rest = read_trained(path)
    state = rest.get("state_dict", rest) if isinstance(rest, dict) else {}
    if not any(str(name).startswith(PREFIX) for name in state):
        return None
    return _below(state, path)


def _below(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    others = [name for name in state if not name.startswith("projector.")]
    if others:
        raise ModelError(
            f"{path} holds more than a connector (first {others[0]}): make a model of it with "
            f"vlforge convert-model {path} OUT --to vlforge --base LLM --vision CLIP, and go on "
            "with `model: OUT`"
        )
    return {name.removeprefix(PREFIX): one for name, one in state.items()}
