"""The tables of `vlforge plan MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlforge.cli.show import plain_line, table

if TYPE_CHECKING:
    from vlforge.runs.model_plan import ModelPlan

GIB = 2**30


def show_model_plan(given: Path, lora_rank: int, lora_targets: str) -> None:
    """Weights by part; then per stage what learns, and what a sample takes."""
    from vlforge.runs.model_plan import Lora, plan_model

    targets = tuple(part.strip() for part in lora_targets.split(",") if part.strip())
    planned = plan_model(given, lora=Lora(lora_rank, targets) if lora_rank else None)
    _parts(planned)
    plain_line("")
    _stages(planned)


def _parts(planned: ModelPlan) -> None:
    cost = planned.cost
    forward = {
        "vision": f"{cost.vision.flops / 1e9:,.0f} a picture",
        "connector": f"{cost.connector.flops / 1e9:,.1f} a picture",
        "language": f"{cost.language.token_flops / 1e9:,.2f} a token",
    }
    rows = [
        (part, f"{weights:,}", f"{weights * 2 / GIB:.2f}", forward[part])
        for part, weights in cost.by_part().items()
    ]
    rows.append(("all", f"{cost.parameters:,}", f"{cost.parameters * 2 / GIB:.2f}", ""))
    table((planned.name, "weights", "GiB in bf16", "forward GFLOPs"), rows, right=(1, 2, 3))
    plain_line(f"A picture takes {cost.image_tokens:,} tokens in the language model.")


def _stages(planned: ModelPlan) -> None:
    rows = [
        (
            stage.name,
            ", ".join(stage.learns),
            f"{stage.trained:,}",
            f"{stage.tokens:,}",
            f"{stage.flops / 1e12:.2f}",
            f"{stage.kept_bytes / GIB:.2f}",
            f"{stage.kept_bytes_checkpointed / GIB:.2f}",
            f"{stage.state_bytes / GIB:.1f}",
        )
        for stage in planned.stages
    ]
    heads = (
        "stage", "learns", "weights that learn", "tokens", "TFLOPs", "kept GiB",
        "checkpointed", "states GiB",
    )  # fmt: skip
    table(heads, rows, right=range(2, 8))
    for stage in planned.stages:
        sample = stage.sample
        pictures = "1 picture" if sample.images == 1 else f"{sample.images} pictures"
        plain_line(
            f"A sample of {stage.name}: {pictures} and {sample.text_tokens} tokens of text, "
            f"{sample.supervised} of them supervised."
        )
    plain_line("Kept: what waits for the backward pass, in bf16. States: frozen weights in bf16,")
    plain_line("learning ones in fp32 with gradient and AdamW's moments.")
