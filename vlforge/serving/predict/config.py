"""The `predict` stage of a recipe. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlforge.types import Drawing, Loading


@dataclass(frozen=True)
class PredictConfig:
    """Answer every row of a file, as `vlforge predict` does, into the stage's folder.

    `model` is a folder, `input` an ad-caption TSV, any dataset of `vlforge list formats` or
    a folder of pictures, read as `format`, relative pictures from `images`. `output` is the
    file's name in the stage's folder; .tsv and .txt hold `id`, tab, answer, line for line.
    `prompt` is asked of every row; without it the row's own question, or 请描述图片内容.
    `fallback` stands where there is no answer ("auto": 一张图片 in a TSV, nothing in JSON);
    such rows are listed in `fell_back.jsonl`. `damaged: fallback` does not ask about
    pictures that are cut off. `temperature: 0` takes the likeliest words.
    `precision` to `device_map` say how the model is loaded; `processes` share the rows
    ("auto": one per GPU).
    """

    model: str
    input: str
    output: str = "answers.tsv"
    prompt: str = ""
    images: str = ""
    format: str = "auto"
    fallback: str = "auto"
    damaged: Literal["answer", "fallback"] = "answer"
    template: str = "auto"
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    beams: int = 1
    seed: int | Literal["auto"] = "auto"
    batch: int = 32
    processes: int | Literal["auto"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantise: Literal["none", "8bit", "4bit"] = "none"
    attention: Literal["auto", "sdpa", "flash", "flex", "eager"] = "auto"
    device_map: Literal["none", "auto"] | dict[str, str] = "none"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "beams", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if isinstance(self.processes, int) and self.processes < 1:
            raise ValueError(f"processes is {self.processes}; give at least 1, or auto")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p:g}; give a share above 0, at most 1")
        if not self.output or "/" in self.output or self.output.startswith("."):
            raise ValueError(f"output is {self.output!r}; give a file's name")

    @property
    def drawing(self) -> Drawing:
        """How words are drawn."""
        return Drawing(self.max_new_tokens, self.temperature, self.top_p, self.beams)

    @property
    def loading(self) -> Loading:
        """How the model is loaded."""
        return Loading(self.precision, self.quantise, self.attention, self.device_map)
