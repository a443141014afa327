"""Rows that go through operators together: texts, picture headers and pixels, each read once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vlforge.data.images import ImageError, ImageFile, Picture, to_rgb
from vlforge.ops.base import Operator, PixelOperator, look_up
from vlforge.ops.downloads import hub_folder
from vlforge.ops.embedded import Seen
from vlforge.ops.index import name_of
from vlforge.ops.text.classes import FEW_CHARACTERS, PlainTable
from vlforge.types import (
    EOC_TOKEN,
    IMAGE_TOKEN,
    Captioner,
    Classifier,
    Drop,
    Embedder,
    EndpointSpec,
    Grounder,
    Head,
    LanguageScorer,
    ModelError,
    ModelSource,
    Need,
    Painter,
    Row,
    Scorer,
    Writer,
)

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

    from vlforge.ops.text.table import TextTable

CACHE_BYTES = 256 << 20
"""Most bytes of decoded pictures that a batch keeps for the next model operator."""


JUDGES = ("scorer", "embedder", "classifier", "head", "grounder", "painter", "language")
"""Kinds of models whose names on the hub stand for what its cache on this machine holds."""


class Item(msgspec.Struct):
    """One row on its way.

    `uid` names it for ever, `line` is its place in the source file (from 1),
    `given` holds statistics that came with the file, `stats` those measured here.
    """

    uid: str
    line: int
    row: Row
    stats: dict[str, Any] = msgspec.field(default_factory=dict)
    given: Mapping[str, Any] = msgspec.field(default_factory=dict)


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
    _loaded: dict[tuple[str, Any], Any] = field(default_factory=dict)

    def captioner(self, path: str, op: str) -> Captioner:
        """The captioner at `path`, opened once."""
        found: Captioner = self._opened("captioner", path, op)
        return found

    def scorer(self, path: str, op: str) -> Scorer:
        """The image-text scorer at `path`, opened once."""
        found: Scorer = self._opened("scorer", path, op)
        return found

    def embedder(self, path: str, op: str) -> Embedder:
        """The encoder of pictures and texts at `path`, opened once."""
        found: Embedder = self._opened("embedder", path, op)
        return found

    def writer(self, path: str | EndpointSpec, op: str) -> Writer:
        """The model that answers at `path`, or behind an endpoint, opened once."""
        found: Writer = self._opened("writer", path, op)
        return found

    def classifier(self, path: str, op: str) -> Classifier:
        """The classifier at `path`, opened once."""
        found: Classifier = self._opened("classifier", path, op)
        return found

    def head(self, path: str, op: str) -> Head:
        """What judges embeddings, at `path`, opened once."""
        found: Head = self._opened("head", path, op)
        return found

    def grounder(self, path: str, op: str) -> Grounder:
        """The open-vocabulary detector at `path`, opened once."""
        found: Grounder = self._opened("grounder", path, op)
        return found

    def language(self, path: str, op: str) -> LanguageScorer:
        """The language model at `path`, to score with, opened once."""
        found: LanguageScorer = self._opened("language", path, op)
        return found

    def painter(self, path: str, op: str) -> Painter:
        """The diffusion model at `path`, opened once."""
        found: Painter = self._opened("painter", path, op)
        return found

    def _opened(self, kind: str, path: str | EndpointSpec, op: str) -> Any:
        if self.models is None:
            raise ModelError(f"{op} names the model {path!r}, but this run was given no models")
        if (kind, path) not in self._loaded:
            place = path
            if kind in JUDGES and isinstance(path, str) and not Path(path).exists():
                place = str(hub_folder(path) or path)
            self._loaded[kind, path] = getattr(self.models, kind)(place)
        return self._loaded[kind, path]

    def plain(self, text: str) -> str:
        """`text` without special tokens and outer white space."""
        return text.replace(self.image_token, "").replace(self.eoc_token, "").strip()

    def unmatched(self, text: str, files: Sequence[ImageFile]) -> Drop | None:
        """Why a row cannot be used whose image tokens are not as many as its pictures."""
        count = text.count(self.image_token)
        if count == len(files):
            return None
        detail = f"{count} image tokens but {len(files)} images"
        return Drop("", "image tokens do not match images", None, detail, None)

    def chunks(self, text: str, files: Sequence[ImageFile]) -> list[tuple[str, list[ImageFile]]]:
        """The chunks of a text, each with the pictures that its tokens stand for."""
        left = iter(files)
        return [
            (chunk, [next(left) for _ in range(chunk.count(self.image_token))])
            for chunk in text.split(self.eoc_token)
        ]


class Files:
    """The pictures of a block of rows; what was read of one is kept until the block is done."""

    def __init__(self, viewers: Sequence[PixelOperator] = ()):
        self.viewers = tuple(viewers)
        self.seen = Seen()
        self._fills = any(map(_is_theirs, viewers))
        self._files: dict[Any, ImageFile] = {}
        self._views: dict[ImageFile, list[Any]] = {}
        self._decoded: dict[tuple[ImageFile, bool], Image] = {}
        self._decoded_bytes = 0

    def get(self, path: str, content: bytes | None = None) -> ImageFile:
        """The file at `path`; `content` stands for it where the row carries its bytes."""
        key = path if content is None else (path, content)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = ImageFile(path, content, whole=bool(self.viewers))
        return file

    def view(self, file: ImageFile, viewer: PixelOperator) -> Any:
        """What `viewer` makes of the picture; when it is decoded all later viewers look too.

        Raises:
            ImageError: the picture cannot be decoded, or the viewer refuses it.
        """
        at = self.viewers.index(viewer)
        views = self._views.get(file)
        if views is None or views[at] is _UNSEEN:
            views = self._views[file] = [_UNSEEN] * at + self._look(file, self.viewers[at:])
        found = views[at]
        if isinstance(found, ImageError):
            raise found
        return found

    def rgb(self, file: ImageFile) -> Image:
        """The picture in RGB; a cut-off file raises. Decoded once while the cache lasts."""
        image = self._decoded.get((file, False))
        if image is None:
            image = file.picture().upright
            self._keep(file, False, image)
        return to_rgb(image)

    def take(self, file: ImageFile, viewer: PixelOperator) -> Image:
        """The picture that `viewer` has just looked at, to be changed; it is not kept longer.

        Not decoded again while the cache lasts, if the viewer `keeps_pictures`.
        """
        is_theirs = _is_theirs(viewer)
        image = self._decoded.pop((file, is_theirs), None)
        if image is None:
            return _shown(file, file.picture(fills=is_theirs), is_theirs)
        self._decoded_bytes -= _bytes(image)
        return image

    def _look(self, file: ImageFile, viewers: Sequence[PixelOperator]) -> list[Any]:
        try:
            picture = file.picture(fills=self._fills)
        except ImageError as error:
            return [error] * len(viewers)
        views: list[Any] = []
        for viewer in viewers:
            is_theirs = _is_theirs(viewer)
            try:
                image = _shown(file, picture, is_theirs)
                seen = viewer.view(image, picture.is_truncated)
            except ImageError as error:
                seen = _named(error, file)
            else:
                if getattr(viewer, "keeps_pictures", False) and seen:
                    self._keep(file, is_theirs, image)
            views.append(seen)
        return views

    def _keep(self, file: ImageFile, is_theirs: bool, image: Image) -> None:
        size = _bytes(image)
        if (file, is_theirs) not in self._decoded and self._decoded_bytes + size <= CACHE_BYTES:
            self._decoded[file, is_theirs] = image
            self._decoded_bytes += size


_UNSEEN = object()


def _bytes(image: Image) -> int:
    return image.width * image.height * len(image.getbands())


def _is_theirs(viewer: Any) -> bool:
    return getattr(viewer, "compat", "") == "data_juicer"


def _shown(file: ImageFile, picture: Picture, is_theirs: bool) -> Image:
    """The picture as an operator sees it: whole and upright.

    By Data-Juicer's ways also a cut-off one, and one from a row's bytes as it is stored.
    """
    if picture.is_truncated and not is_theirs:
        raise ImageError("truncated image", "is cut off or damaged: fetch it again")
    return picture.stored if is_theirs and file.is_given else picture.upright


def _named(error: ImageError, file: ImageFile) -> ImageError:
    """The error of an operator that did not know the file's name."""
    says_it = file.path in str(error)
    return error if says_it else ImageError(error.reason, f"image {file.path} {error}")


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
        keys = (op.image_key, op.image_bytes_key)
        if keys not in self._listed:
            paths, contents = keys
            get, rows = self.files.get, [item.row for item in self.items]
            self._listed[keys] = [
                [get(path) for path in row.get(paths) or ()]
                if not row.get(contents)
                else self._given_files(row.get(paths) or [], row[contents])
                for row in rows
            ]
        return self._listed[keys]

    @cached_property
    def _listed(self) -> dict[tuple[str, str], list[list[ImageFile]]]:
        return {}

    def _given_files(self, paths: Sequence[str], contents: Any) -> list[ImageFile]:
        given = [_bytes_of(value) for value in contents] if isinstance(contents, list) else []
        given += [None] * (len(paths) - len(given))
        return list(map(self.files.get, paths, given))

    def per_image(
        self, op: Operator, look: Callable[[ImageFile], tuple[Any, ...]], width: int
    ) -> tuple[list[Any], ...]:
        """`look` at each picture; `width` columns with one list of values per row, or a `Drop`."""
        listed = self.image_files(op)
        try:
            if set(map(len, listed)) == {1}:
                singles = [look(file) for (file,) in listed]
                return tuple([[values[at]] for values in singles] for at in range(width))
            found = [[look(file) for file in files] for files in listed]
        except ImageError:
            return _columns_with_drops(listed, look, width)
        return tuple([[values[at] for values in row] for row in found] for at in range(width))

    def embedded_images(self, op: Operator, path: str) -> list[list[Any] | Drop]:
        """The unit vector of each picture by the model at `path`: a list per row, or a `Drop`.

        One forward per picture of a block, whichever operators ask, and where rows share it.
        """
        listed = self.image_files(op)
        found = iter(self.embedded_files(op, path, list(chain.from_iterable(listed))))
        return [_row_of([next(found) for _ in files]) for files in listed]

    def embedded_files(
        self, op: Operator, path: str, files: Sequence[ImageFile], turns: Sequence[Transpose] = ()
    ) -> list[Any]:
        """The same for single pictures; `turns` are done to each before, in order."""
        name = name_of(type(op).__name__)
        return self.files.seen.of_images(
            ("embedder", path),
            files,
            turns,
            self.files.rgb,
            lambda images: self.context.embedder(path, name).embed_images(images),
        )

    def embedded_texts(self, op: Operator, path: str, texts: Sequence[str]) -> list[Any]:
        """The unit vector of each text by the model at `path`, each text read once in a block."""
        name = name_of(type(op).__name__)
        return self.files.seen.of_texts(
            ("embedder", path),
            texts,
            lambda new: self.context.embedder(path, name).embed_texts(new),
        )

    def classified_images(self, op: Operator, path: str) -> list[list[list[float]] | Drop]:
        """The probabilities of each picture by the classifier at `path`, once in a block."""
        name = name_of(type(op).__name__)
        listed = self.image_files(op)
        found = iter(
            self.files.seen.of_images(
                ("classifier", path),
                list(chain.from_iterable(listed)),
                (),
                self.files.rgb,
                lambda images: self.context.classifier(path, name).classify_images(images),
            )
        )
        return [_row_of([next(found) for _ in files]) for files in listed]

    def views(self, op: Any) -> list[Any]:
        """What `op` makes of each picture: a list per row, or a `Drop`."""
        (column,) = self.per_image(op, lambda file: (self.files.view(file, op),), 1)
        return column


def _row_of(values: list[Any]) -> list[Any] | Drop:
    """A row's values, or the first that is a `Drop`."""
    return next((value for value in values if isinstance(value, Drop)), values)


def _columns_with_drops(
    listed: Sequence[Sequence[ImageFile]], look: Callable[[ImageFile], tuple[Any, ...]], width: int
) -> tuple[list[Any], ...]:
    """The columns of `Batch.per_image` where some pictures cannot be used."""
    found: list[Any] = []
    for files in listed:
        try:
            found.append([look(file) for file in files])
        except ImageError as error:
            found.append(drop_of(error))
    return tuple(
        [row if isinstance(row, Drop) else [value[at] for value in row] for row in found]
        for at in range(width)
    )


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


def _bytes_of(value: Any) -> bytes | None:
    """A picture's bytes: as they are, or as the base64 text that JSON holds in their place."""
    if not isinstance(value, str):
        return value if isinstance(value, bytes) else None
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        return None
