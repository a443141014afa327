"""Opens what an evaluation asks: a model folder, or a model behind an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlforge.evaluation.config import EvalConfig
from vlforge.inference.crew import count_for


def open_chat(config: EvalConfig, device: str = "auto", threads: int = 0) -> Any:
    """A `Chat` with `notes`.

    Raises:
        ModelError: no model there that answers questions.
        RecipeError: an address that is none.
    """
    if config.endpoint is not None:
        from vlforge.inference.endpoint.chat import EndpointChat
        from vlforge.inference.endpoint.client import Endpoint

        return EndpointChat(Endpoint(config.endpoint))
    from vlforge.checkpoints.checkpoint import Parts
    from vlforge.inference.local import LocalChat

    vision = Path(config.vision) if config.vision else None
    parts = Parts(vision=vision, select_layer=config.select_layer)
    how: dict[str, Any] = {"template": config.template, "loading": config.loading, "parts": parts}
    if config.adapter:
        from vlforge.inference.adapted import load_adapted

        loaded = load_adapted(config.model, config.adapter, device, **how)
        return LocalChat(loaded, batch=config.batch_size, stop=config.stop)
    return LocalChat(
        config.model,
        device=device,
        threads=threads,
        batch=config.batch_size,
        stop=config.stop,
        **how,
    )


def process_count(config: EvalConfig, device: str) -> int:
    """Processes that share the questions: as many as asked for, else one per GPU."""
    is_one = config.endpoint is not None or config.device_map != "none"
    return count_for(config.processes, device, is_one=is_one)
