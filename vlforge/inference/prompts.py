"""From conversations and pictures to the embeddings that decoding starts from.

B prompts, I pictures, S pixels a side, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from vlforge.data.images import load_rgb
from vlforge.inference.load import Loaded
from vlforge.inference.prefetch import Ahead, Fitted
from vlforge.models.parts.splice import plan_splice, splice
from vlforge.text.encode import encode_turns
from vlforge.types import ModelError, Sample

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prompt:
    """Token ids, -200 for each picture, and the pictures (RGB, fitted, or a file to open)."""

    ids: tuple[int, ...]
    images: tuple[Image.Image | str | bytes | Fitted, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def prompt_of(loaded: Loaded, sample: Sample) -> Prompt:
    """A conversation as the model's template writes it, open for the answer.

    Raises:
        DataError: turns the template cannot hold, or tags that do not match the pictures.
    """
    encoded = encode_turns(
        loaded.template,
        loaded.tokenizer,
        sample.turns,
        max_length=None,
        generation=True,
        images=len(sample.images),
    )
    return Prompt(tuple(encoded.ids), sample.images)


def pixels_of(loaded: Loaded, images: Sequence[Image.Image | str | bytes | Fitted]) -> Tensor:
    """Pictures -> normalised pixels [I, 3, S, S] on the model's device."""
    return sized_pixels_of(loaded, images)[0]


def sized_pixels_of(
    loaded: Loaded, images: Sequence[Image.Image | str | bytes | Fitted]
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Pictures -> normalised pixels [I, 3, S, S] and each picture's (width, height).

    Where the model looks at tiles, I counts the tiles of all pictures.
    """
    fitted, sizes = [], []
    for image in images:
        if not isinstance(image, Fitted):
            opened = load_rgb(image) if isinstance(image, str | bytes) else image
            image = Fitted(loaded.processor.fit(opened), opened.size)
        # `fit` may give a view of memory that PIL keeps read-only; torch wants its own.
        made = torch.from_numpy(image.pixels.copy())
        fitted.append(made.reshape(-1, *made.shape[-3:]))
        sizes.append(image.size)
    return loaded.processor.normalise(torch.cat(fitted).to(loaded.device)), sizes


@torch.inference_mode()
def embed(loaded: Loaded, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Prompts -> input embeddings, [L, D] each, vision tokens in place.

    A picture that stands in several prompts is opened and encoded once.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, : len(prompt.ids)] = True
    shown = [image for prompt in prompts for image in prompt.images]
    vision = _encode_once(loaded, shown)
    plan = plan_splice(ids, [len(tokens) for tokens in vision], mask=mask)
    text = loaded.model.get_input_embeddings()(ids.clamp(min=0).to(loaded.device))
    spliced = splice(plan, text, vision)
    return [spliced[row, :length] for row, length in enumerate(plan.lengths.tolist())]


def _encode_once(
    loaded: Loaded, shown: Sequence[Image.Image | str | bytes | Fitted]
) -> list[Tensor]:
    """Vision tokens [N, D] per picture shown; equal paths and objects share theirs."""
    names = [image if isinstance(image, str | bytes) else id(image) for image in shown]
    unique = dict(zip(names, shown, strict=True))
    if not unique:
        return []
    pixels, sizes = sized_pixels_of(loaded, list(unique.values()))
    tokens = loaded.model.encode_images(pixels, sizes)
    places = {name: place for place, name in enumerate(unique)}
    return [tokens[places[name]] for name in names]


class Batches:
    """Runs a list in groups; a GPU that runs out of memory gets smaller ones from then on."""

    def __init__(self, size: int):
        if size < 1:
            raise ModelError(f"batch is {size}; give at least 1")
        self.size = size

    def run(
        self,
        items: Sequence[Item],
        work: Callable[[list[Item]], list[Result]],
        length: Callable[[Item], int],
        prepare: Callable[[list[Item]], list[Item]] | None = None,
    ) -> list[Result]:
        """`work` on groups of at most `size` items of about equal length, in the items' order.

        Args:
            prepare: makes a group ready, in a thread while the group before it is worked on.

        Raises:
            ModelError: a single item does not fit into memory.
        """
        order = sorted(range(len(items)), key=lambda place: length(items[place]))
        results: dict[int, Result] = {}
        done = 0
        ahead = Ahead(items, prepare)
        while done < len(order):
            group = order[done : done + self.size]
            try:
                made = work(ahead.ready(group, order[done + len(group) :][: self.size]))
            except torch.OutOfMemoryError:
                self._halve(len(group))
                continue
            except BaseException:
                ahead.close()
                raise
            ahead.forget(group)
            results.update(zip(group, made, strict=True))
            done += len(group)
        ahead.close()
        return [results[place] for place in range(len(items))]

    def _halve(self, group: int) -> None:
        if group == 1:
            raise ModelError(
                "the GPU has no memory left for a single sample; use bf16, a smaller model or cpu"
            ) from None
        self.size = max(1, group // 2)
        torch.cuda.empty_cache()
