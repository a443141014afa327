"""Rows that go through operators together: texts, picture headers and pixels, each read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlforge.data.images import ImageError, ImageFile, load_upright, to_rgb
from vlforge.ops.base import Operator, PixelOperator, look_up
from vlforge.ops.text.classes import FEW_CHARACTERS, PlainTable
from vlforge.types import (
    EOC_TOKEN,
    IMAGE_TOKEN,
    Captioner,
    Drop,
    ModelError,
    ModelSource,
    Need,
    Row,
    Scorer,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlforge.ops.text.table import TextTable

CACHE_BYTES = 256 << 20
"""Most bytes of decoded pictures that a batch keeps for the next model operator."""


@dataclass(slots=True)
class Item:
    """One row on its way.

    `uid` names it for ever, `line` is its place in the source file (from 1),
    `given` holds statistics that came with the file, `stats` those measured here.
    """

    uid: str
    line: int
    row: Row
    stats: dict[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What operators share beside the rows: special tokens, seed, models.

    `produced` is the folder for files that operators make, such as blurred pictures.
    """

    image_token: str = IMAGE_TOKEN
    eoc_token: str = EOC_TOKEN
    seed: int = 0
    models: ModelSource | None = None
    produced: str = ""
    _loaded: dict[tuple[str, str], Any] = field(default_factory=dict)

    def captioner(self, path: str, op: str) -> Captioner:
        """The captioner at `path`, loaded once."""
        source = self._source(path, op)
        key = ("captioner", path)
        if key not in self._loaded:
            self._loaded[key] = source.captioner(path)
        loaded: Captioner = self._loaded[key]
        return loaded

    def scorer(self, path: str, op: str) -> Scorer:
        """The image-text scorer at `path`, loaded once."""
        source = self._source(path, op)
        key = ("scorer", path)
        if key not in self._loaded:
            self._loaded[key] = source.scorer(path)
        loaded: Scorer = self._loaded[key]
        return loaded

    def plain(self, text: str) -> str:
        """`text` without special tokens and outer white space."""
        return text.replace(self.image_token, "").replace(self.eoc_token, "").strip()

    def _source(self, path: str, op: str) -> ModelSource:
        if self.models is None:
            raise ModelError(f"{op} names the model {path!r}, but this run was given no models")
        return self.models


class Files:
    """The pictures of a block of rows; what was read of one is kept until the block is done."""

    def __init__(self, viewers: Sequence[PixelOperator] = ()):
        self.viewers = tuple(viewers)
        self._files: dict[str, ImageFile] = {}
        self._views: dict[str, list[Any]] = {}
        self._decoded: dict[str, Image] = {}
        self._decoded_bytes = 0

    def get(self, path: str, content: bytes | None = None) -> ImageFile:
        """The file at `path`; `content` stands for it where the row carries its bytes."""
        key = path if content is None else f"{path}\0{id(content)}"
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = ImageFile(path, content, whole=bool(self.viewers))
        return file

    def view(self, file: ImageFile, viewer: PixelOperator) -> Any:
        """What `viewer` makes of the picture; all viewers look when it is decoded first.

        Raises:
            ImageError: the picture cannot be decoded, or the viewer refuses it.
        """
        views = self._views.get(file.path)
        if views is None:
            views = self._views[file.path] = self._look(file)
        found = views[self.viewers.index(viewer)]
        if isinstance(found, ImageError):
            raise found
        return found

    def rgb(self, file: ImageFile) -> Image:
        """The picture in RGB; a cut-off file raises. Decoded once while the cache lasts."""
        image = self._decoded.get(file.path)
        if image is None:
            image = to_rgb(load_upright(file.source))
            size = image.width * image.height * 3
            if self._decoded_bytes + size <= CACHE_BYTES:
                self._decoded[file.path] = image
                self._decoded_bytes += size
        return image

    def _look(self, file: ImageFile) -> list[Any]:
        try:
            image, is_truncated = _decoded(file)
        except ImageError as error:
            return [error] * len(self.viewers)
        views: list[Any] = []
        for viewer in self.viewers:
            try:
                views.append(viewer.view(image, is_truncated))
            except ImageError as error:
                views.append(error)
        return views


def _decoded(file: ImageFile) -> tuple[Image, bool]:
    source = file.source
    try:
        return file.upright(), False
    except ImageError as error:
        if error.reason != "truncated image":
            raise
    return load_upright(source, truncated="fill"), True


@dataclass
class Batch:
    """Some rows, and the shared look at them."""

    items: Sequence[Item]
    context: Context
    files: Files = field(default_factory=Files)

    @cached_property
    def _tables(self) -> dict[tuple[str, bool], TextTable | PlainTable]:
        return {}

    def texts(self, key: str, ignore_special_tokens: bool = False) -> list[str]:
        """The text field of each row, dotted keys followed; "" where it is missing."""
        found = [_text(item.row, key) for item in self.items]
        return [self.context.plain(t) for t in found] if ignore_special_tokens else found

    def table(self, key: str, ignore_special_tokens: bool = False) -> TextTable | PlainTable:
        """The texts ready for counting, worked out once for all text filters."""
        wanted = (key, ignore_special_tokens)
        if wanted not in self._tables:
            self._tables[wanted] = _table_of(self.texts(key, ignore_special_tokens))
        return self._tables[wanted]

    def image_files(self, op: Operator) -> list[list[ImageFile]]:
        """The pictures of each row, from the row's bytes where it carries them."""
        out = []
        for item in self.items:
            paths = item.row.get(op.image_key) or []
            content = item.row.get(op.image_bytes_key)
            if isinstance(content, list) and len(content) == len(paths):
                out.append([self.files.get(p, c) for p, c in zip(paths, content, strict=True)])
            else:
                out.append([self.files.get(path) for path in paths])
        return out

    def per_image(
        self, op: Operator, look: Callable[[ImageFile], tuple[Any, ...]], width: int
    ) -> tuple[list[Any], ...]:
        """`look` at each picture; `width` columns with one list of values per row, or a `Drop`."""
        columns: tuple[list[Any], ...] = tuple([] for _ in range(width))
        for files in self.image_files(op):
            try:
                values = [look(file) for file in files]
            except ImageError as error:
                for column in columns:
                    column.append(drop_of(error))
                continue
            for at, column in enumerate(columns):
                column.append([value[at] for value in values])
        return columns

    def views(self, op: Any) -> list[Any]:
        """What `op` makes of each picture: a list per row, or a `Drop`."""
        (column,) = self.per_image(op, lambda file: (self.files.view(file, op),), 1)
        return column


def _table_of(texts: list[str]) -> TextTable | PlainTable:
    if sum(map(len, texts)) < FEW_CHARACTERS:
        return PlainTable(texts)
    from vlforge.ops.text.table import TextTable

    return TextTable(texts)


def drop_of(error: ImageError) -> Drop:
    """The drop record of a row whose picture cannot be used; the operator's name comes later."""
    return Drop("", error.reason, None, str(error), None)


def needs_pixels(op: Operator) -> bool:
    """Whether `op` is a `PixelOperator`."""
    return op.needs == Need.PIXELS


def _text(row: Row, key: str) -> str:
    value = row[key] if key in row else look_up(row, key)
    return value if isinstance(value, str) else ""
