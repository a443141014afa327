"""Filters that write their verdict down instead of acting on it, for `vlforge analyze`.

`vlforge.ops.measured:text_length_filter` in a `process` list is the filter of
that name with its parameters. It measures every row and keeps every row, rows
whose pictures are missing or broken too; what the filter itself would have said
stands among the row's statistics. So an analysis measures through the same
engine, and judges by the same code, as the run that drops.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Filter
from vlforge.ops.batch import Batch
from vlforge.ops.index import find
from vlforge.types import Drop, Need, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

VERDICT, TEXT, FILES, PICTURES, TOKENS, HASHES = (
    "verdict/", "row/text", "row/files", "row/pictures", "row/tokens", "row/hashes",
)  # fmt: skip
"""Keys of what stands among a row's statistics without being one: `verdict/` and a filter's
place: true, or what `said` gives; digests of text and picture files; per picture
[width, height] or the reason why there is none; picture tokens in the text; picture hashes."""


def said(drop: Drop) -> dict[str, Any]:
    """A drop as it stands among the statistics; one without `stat` is a fault of the row."""
    return {"reason": drop.reason, "stat": drop.stat, "value": drop.value, "bound": drop.bound}


def measuring(name: str) -> str:
    """How a `process` list names the filter `name` that keeps every row."""
    return f"{__name__}:{name}"


def __getattr__(name: str) -> Any:
    """The filter `name` that keeps every row; made when it is first asked for."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return _keeping_all(name, find(name))
    except RecipeError as error:
        raise AttributeError(str(error)) from None


@functools.cache
def _keeping_all(name: str, cls: type[Any]) -> type[Filter]:
    if not issubclass(cls, Filter):
        raise RecipeError(f"{name} is no filter")

    @dataclass(frozen=True, kw_only=True)
    class KeepingAll(cls):  # type: ignore[misc, valid-type]
        """The filter, without its consequence."""

        place: int = 0

        def measure(self, batch: Batch) -> tuple[list[Any], ...]:
            columns = super().measure(batch)
            faults = {at: v for at, v in enumerate(columns[0]) if isinstance(v, Drop)}
            good = [at for at in range(len(batch.items)) if at not in faults]
            stays = super().keep_all([[column[at] for at in good] for column in columns])
            verdicts: list[Any] = [True] * len(batch.items)
            for at, is_kept in zip(good, stays, strict=True):
                if not is_kept:
                    verdicts[at] = said(self.fault(name, [column[at] for column in columns]))
            for at, drop in faults.items():
                verdicts[at] = said(drop)
            for item, verdict in zip(batch.items, verdicts, strict=True):
                item.stats[f"{VERDICT}{self.place}"] = verdict
            nothing: Any = None if self.needs == Need.TEXT else []
            return tuple(
                [nothing if at in faults else value for at, value in enumerate(column)]
                for column in columns
            )

        def keep_all(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
            return [True] * len(columns[0])

    # Found again under its name, so that it can be handed to another process.
    KeepingAll.__module__ = __name__
    KeepingAll.__name__ = KeepingAll.__qualname__ = name
    return KeepingAll


@dataclass(frozen=True, kw_only=True)
class RowFacts(Filter):
    """Notes what rows are compared and counted by; keeps every row.

    Pictures are asked for their size only; one that cannot be used is noted with the reason.
    """

    needs: ClassVar = Need.HEADER
    stats: ClassVar = (TEXT, FILES, PICTURES, TOKENS)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        texts = batch.texts(self.text_key)
        rows = batch.image_files(self)
        token = batch.context.image_token
        return (
            [_digest(text.strip()) for text in texts],
            [_digest("\0".join(file.path for file in files)) if files else "" for files in rows],
            [[_size_or_reason(file) for file in files] for files in rows],
            [text.count(token) if token else 0 for text in texts],
        )

    def keep_all(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
        """All of them."""
        return [True] * len(columns[0])


@dataclass(frozen=True, kw_only=True)
class PictureHashes(Filter):
    """Notes the perceptual hash of every picture, "" for one that cannot be decoded."""

    needs: ClassVar = Need.PIXELS
    stats: ClassVar = (HASHES,)

    def view(self, image: Image, is_truncated: bool) -> str:
        """The hash as 16 hexadecimal digits."""
        from vlforge.ops.dedup.hashes import image_hash

        return image_hash(image if image.mode == "RGB" else image.convert("RGB"), "phash").hex()

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        return ([[self._hash(batch, f) for f in files] for files in batch.image_files(self)],)

    def keep_all(self, columns: Sequence[Sequence[Any]]) -> list[bool]:
        """All of them."""
        return [True] * len(columns[0])

    def _hash(self, batch: Batch, file: ImageFile) -> str:
        try:
            found: str = batch.files.view(file, self)
        except ImageError:
            return ""
        return found


def _digest(text: str) -> str:
    """16 hexadecimal digits, equal for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _size_or_reason(file: ImageFile) -> list[int] | str:
    try:
        return list(file.size())
    except ImageError as error:
        return error.reason
