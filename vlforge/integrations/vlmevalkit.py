"""VLForge's models in VLMEvalKit, which has no way for plug-ins to announce themselves.

`register` puts model folders into its table of models. As a program this module does so
and hands over to VLMEvalKit's `run.py`:

    python -m vlforge.integrations.vlmevalkit my-model=FOLDER -- \\
        run.py --data MMBench_DEV_EN --model my-model

Where its environment should not hold ours, answers are exchanged as files: its tables are
scored here, and `eval export --as vlmevalkit` writes what its `--mode eval --reuse` scores.

Source: open-compass/VLMEvalKit@e8e78f0 (vlmeval/vlm/base.py, config.py, inference.py).
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vlmeval.vlm.base import BaseModel

from vlforge.evaluation.benchmarks.mmbench import prompt_of
from vlforge.integrations.answering import Answerer, Ask
from vlforge.types import LLAVA_IMAGE_TOKEN, Loading, ModelError

_TEXT_ANSWER = ("Answer the question directly.", "请直接回答问题。")


class VLForge(BaseModel):  # type: ignore[misc]
    """A model folder as VLMEvalKit takes one.

    Pictures and words stay in the order of the message, a line each. `prompt` "llava" words
    multiple choice as VLMEvalKit does for LLaVA; "dataset" leaves the words to the data set.
    Answers are greedy and at most 2,048 tokens unless `generation` says otherwise.
    """

    INTERLEAVE = True

    def __init__(
        self,
        model_path: str,
        *,
        prompt: Literal["llava", "dataset"] = "llava",
        device: str = "auto",
        template: str = "auto",
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        quantise: Literal["none", "8bit", "4bit"] = "none",
        **generation: Any,
    ):
        super().__init__()
        self.prompt = prompt
        self.generation = {"max_new_tokens": 2048, "temperature": 0, **generation}
        loading = Loading(precision, quantise)
        self.answerer = Answerer(model_path, device=device, template=template, loading=loading)

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Whether `build_prompt` words this data set: multiple choice in LLaVA's words."""
        from vlmeval.dataset import DATASET_TYPE

        return self.prompt == "llava" and dataset is not None and DATASET_TYPE(dataset) == "MCQ"

    def build_prompt(self, line: Any, dataset: str | None = None) -> list[dict[str, str]]:
        """The row's pictures, then hint, question, lettered options and the request."""
        row = {str(k): str(v) for k, v in dict(line).items() if isinstance(v, str) or v == v}
        shown = self.dump_image(line, dataset)
        pictures = [shown] if isinstance(shown, str) else list(shown)
        words = {"type": "text", "value": prompt_of(row, otherwise=_TEXT_ANSWER)}
        return [*({"type": "image", "value": path} for path in pictures), words]

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: Any = None) -> str:
        """The answer to one message of texts and pictures."""
        return self.chat_inner([{"role": "user", "content": message}], dataset)

    def chat_inner(self, messages: Sequence[Mapping[str, Any]], dataset: Any = None) -> str:
        """The answer to the last turn of a conversation."""
        turns: list[Any] = []
        images: tuple[str, ...] = ()
        for turn in messages:
            text, shown = _laid_out(turn["content"])
            turns.append((turn["role"], text))
            images += shown
        (answer,) = self.answerer.answers([Ask(tuple(turns), images)], [self.generation])
        return answer


def register(models: Mapping[str, str | Path], **how: Any) -> None:
    """Put model folders into VLMEvalKit's `supported_VLM`, under names of the user's choice.

    Args:
        how: what `VLForge` takes besides the folder.

    Raises:
        ModelError: a name that VLMEvalKit has for another model.
    """
    from vlmeval.config import supported_VLM

    for name, folder in models.items():
        there = supported_VLM.get(name)
        if there is not None and getattr(there, "func", None) is not VLForge:
            raise ModelError(f"VLMEvalKit has a model called {name!r}; choose another name")
        supported_VLM[name] = partial(VLForge, model_path=str(folder), **how)


def main(words: Sequence[str]) -> None:
    """`NAME=FOLDER … -- SCRIPT …`: register the folders, then run VLMEvalKit's script.

    Raises:
        ModelError: words that do not say both.
    """
    named = words[: words.index("--")] if "--" in words else []
    script = words[len(named) + 1 :]
    pairs = [word.partition("=") for word in named]
    if not script or not pairs or not all(name and folder for name, _, folder in pairs):
        raise ModelError("give NAME=FOLDER …, then -- and VLMEvalKit's run.py with its options")
    register({name: folder for name, _, folder in pairs})
    sys.argv = list(script)
    sys.path.insert(0, str(Path(script[0]).resolve().parent))
    runpy.run_path(script[0], run_name="__main__")


def _laid_out(message: Sequence[Mapping[str, str]]) -> tuple[str, tuple[str, ...]]:
    """Texts and `<image>` marks in order, a line each, and the pictures' paths.

    Raises:
        ModelError: something other than texts and pictures.
    """
    lines, images = [], []
    for part in message:
        if part["type"] == "image":
            lines.append(LLAVA_IMAGE_TOKEN)
            images.append(part["value"])
        elif part["type"] == "text":
            lines.append(part["value"])
        else:
            raise ModelError(f"a {part['type']} cannot be shown to this model; only pictures can")
    return "\n".join(lines), tuple(images)


if __name__ == "__main__":
    # The class that registers must be the importable one, not this program's.
    from vlforge.integrations.vlmevalkit import main as start

    start(sys.argv[1:])
