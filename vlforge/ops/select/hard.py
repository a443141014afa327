"""Choosing the rows that are hardest for a model of the user's."""

from __future__ import annotations

import functools
import json
import math
import os
import struct
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError
from vlforge.ops.base import Chooser
from vlforge.ops.batch import Item, drop_of
from vlforge.ops.rows.python_code import run_module
from vlforge.ops.rows.user_code import UserCode, names_of
from vlforge.ops.select.ranks import check_share
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from vlforge.ops.batch import Batch, Context

_NUMBER = struct.Struct("<d")


@dataclass(frozen=True, kw_only=True)
class ImageOhemSelector(Chooser):
    """Keep the rows with the highest loss by a function of yours, the hardest first.

    `score_file` is a Python file. Its function `score_function` gets (model, samples,
    images, device, **score_kwargs): rows as dicts and a list of RGB pictures for each, at
    most `batch_size` rows; it gives one number per row. The model is what
    `model_function` of the same file gives for `model_kwargs`, called once, moved to
    `device` and set to evaluation where it can be; without such a function it is None.
    Of `topk` rows and a share `top_ratio` the smaller number stays. The loss is kept as the
    statistic `loss_field`.

    A row whose picture cannot be read, or for which the function fails or gives no finite
    number, is dropped with the reason; Data-Juicer ends the run. Its `score_fn` and
    `model_factory`, Python objects, have no place in a recipe: write a file.

    This runs the file with all that Python can do: name only files that you trust.
    """

    score_fn: Any = None
    model_factory: Any = None
    score_file: str = ""
    score_function: str = "score_fn"
    model_function: str = "model_factory"
    top_ratio: float | None = None
    topk: int | None = None
    batch_size: int = 8
    loss_field: str = "image_ohem_loss"
    device: str = "auto"
    model_kwargs: dict[str, Any] | None = None
    score_kwargs: dict[str, Any] | None = field(default=None)

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        op = "image_ohem_selector"
        for name in ("score_fn", "model_factory"):
            if getattr(self, name) is not None:
                raise RecipeError(f"{op}.{name} is no value of a recipe: write a score_file")
        if self.top_ratio is None and self.topk is None:
            raise RecipeError(f"{op} needs top_ratio or topk")
        check_share(f"{op}.top_ratio", self.top_ratio)
        if self.topk is not None and self.topk < 0:
            raise RecipeError(f"{op}.topk is {self.topk}, not 0 or more")
        if self.batch_size < 1:
            raise RecipeError(f"{op}.batch_size is {self.batch_size}, not 1 or more")
        if not self.score_file:
            raise RecipeError(f"{op} needs score_file, a Python file with {self.score_function}")
        object.__setattr__(self, "score_file", os.path.abspath(self.score_file))
        if not callable(getattr(_module(self.score_file), self.score_function, None)):
            raise RecipeError(
                f"{op}.score_file {self.score_file} has no function {self.score_function!r}"
            )

    def keys(self, batch: Batch) -> list[bytes | Drop]:
        found: list[bytes | Drop] = []
        usable: list[tuple[int, Item, list[Any]]] = []
        for at, (item, files) in enumerate(zip(batch.items, batch.image_files(self), strict=True)):
            found.append(Drop("", "no loss"))
            try:
                usable.append((at, item, [batch.files.rgb(file) for file in files]))
            except ImageError as error:
                found[at] = drop_of(error)
            if len(usable) == self.batch_size:
                self._score(usable, found)
                usable = []
        self._score(usable, found)
        return found

    def choose(self, keys: Any, context: Context) -> Sequence[int]:
        """The places of the hardest rows, the hardest first."""
        import numpy as np

        losses = np.ascontiguousarray(keys).view("<f8")[:, 0]
        count = len(losses)
        if self.top_ratio is not None:
            count = int(self.top_ratio * len(losses))
        if self.topk is not None:
            count = min(count, self.topk)
        order: list[int] = np.argsort(-losses, kind="stable")[:count].tolist()
        return order

    def _score(
        self, some: Sequence[tuple[int, Item, list[Any]]], found: list[bytes | Drop]
    ) -> None:
        """The keys of some rows; where the function fails for all together, one by one."""
        if not some:
            return
        for (at, item, _), loss in zip(some, self._losses(some), strict=True):
            if not isinstance(loss, Drop) and not math.isfinite(loss):
                loss = Drop("", "loss is no finite number", None, str(loss))
            if isinstance(loss, Drop):
                found[at] = loss
                continue
            item.stats[self.loss_field] = loss
            found[at] = _NUMBER.pack(loss)

    def _losses(self, some: Sequence[tuple[int, Item, list[Any]]]) -> list[float | Drop]:
        code = UserCode(self.score_file)
        module = _module(self.score_file)
        device = _device(self.device)
        model = _model(
            self.score_file, self.model_function, json.dumps(self.model_kwargs or {}), device
        )
        items = [item for _, item, _ in some]
        names = names_of(items)
        try:
            samples = [code.sample(item, names) for item in items]
            images = [list(pictures) for _, _, pictures in some]
            score = getattr(module, self.score_function)
            told = _numbers(score(model, samples, images, device, **(self.score_kwargs or {})))
            if len(told) != len(some):
                raise ValueError(f"gave {len(told)} numbers for {len(some)} rows")
        except Exception as error:  # a user's function may raise anything
            if len(some) == 1:
                return [code.fault(error)]
            return [loss for one in some for loss in self._losses([one])]
        return list(told)


def _numbers(given: Any) -> list[float]:
    """What a function gave, a tensor, an array or a list, as numbers."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    if hasattr(given, "reshape"):
        given = given.reshape(-1).tolist()
    told: Iterable[Any] = given if isinstance(given, Iterable) else [given]
    return [float(one) for one in told]


@functools.cache
def _module(path: str) -> types.ModuleType:
    where = f"image_ohem_selector.score_file {path}"
    if not path.endswith(".py"):
        raise RecipeError(f"{where} is not a .py file")
    return run_module(path, where)


@functools.cache
def _model(path: str, name: str, kwargs: str, device: str) -> Any:
    factory = getattr(_module(path), name, None)
    if factory is None:
        return None
    model = factory(**json.loads(kwargs))
    if hasattr(model, "to"):
        model.to(device)
    if hasattr(model, "eval"):
        model.eval()
    return model


def _device(asked: str) -> str:
    """The device's name; a file of the user's that needs torch has imported it by now."""
    if asked != "auto":
        return asked
    import sys

    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
