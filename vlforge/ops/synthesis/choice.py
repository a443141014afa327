"""Of a text and new captions for its picture, the one that agrees best with the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import Grown, RowMapper, replaced
from vlforge.ops.batch import Batch, Context, Item, drop_of
from vlforge.ops.synthesis.captioning import CONFIDENCE
from vlforge.ops.synthesis.provenance import origin, with_origin
from vlforge.ops.synthesis.writing import request_key
from vlforge.types import Caption, Drop, Need, RecipeError, Refusal, Row

if TYPE_CHECKING:
    from PIL.Image import Image

AGREEMENT = "caption_agreement"
"""Statistic: the scorer's value of each chosen text, one per picture judged."""
_PORTION = 32
_NAME = "caption_choice_mapper"


@dataclass(frozen=True, kw_only=True)
class CaptionChoiceMapper(RowMapper):
    """Give each picture the text that agrees best with it: its own, or a new caption.

    A captioner writes `caption_num` captions for every chunk with one picture; `scorer`
    (a CLIP folder, or one of VLForge's scorers) judges them and the old text, and the best
    stays. A caption has to beat the old text by `min_gain`; with `keep_original: false`
    the old text does not compete. Chunks without or with several pictures stay as they
    are. This is the mixing of raw and synthetic captions of Nguyen et al. 2023, decided
    row by row.
    """

    hf_img2seq: str
    scorer: str
    caption_num: int = 1
    min_gain: float = 0.0
    keep_original: bool = True
    prompt: str | None = None

    needs: ClassVar = Need.MODEL

    def __post_init__(self) -> None:
        if self.caption_num < 1:
            raise RecipeError(f"{_NAME}: caption_num is {self.caption_num}; give at least 1")

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        """Caption and judge the pictures of all rows together."""
        rows: list[_Row | Drop] = [
            _split(text, files, batch.context)
            for text, files in zip(batch.texts(self.text_key), batch.image_files(self), strict=True)
        ]
        asked = [
            (at, number)
            for at, row in enumerate(rows)
            if isinstance(row, _Row)
            for number in row.single
        ]
        best: dict[tuple[int, int], _Choice] = {}
        for start in range(0, len(asked), _PORTION):
            self._choose(batch, asked[start : start + _PORTION], rows, best)
        return [
            row if isinstance(row, Drop) else self._made(item, at, row, best, batch.context)
            for at, (item, row) in enumerate(zip(batch.items, rows, strict=True))
        ]

    def _choose(
        self,
        batch: Batch,
        asked: Sequence[tuple[int, int]],
        rows: list[_Row | Drop],
        best: dict[tuple[int, int], _Choice],
    ) -> None:
        images: list[Image] = []
        keys: list[tuple[int, int]] = []
        for at, number in asked:
            row = rows[at]
            if isinstance(row, Drop):
                continue
            try:
                images.append(batch.files.rgb(row.single[number]))
                keys.append((at, number))
            except ImageError as error:
                rows[at] = drop_of(error)
        if not images:
            return
        context = batch.context
        seeds = [request_key(context.seed, _NAME, batch.items[at].uid, n) for at, n in keys]
        captioner = context.captioner(self.hf_img2seq, _NAME)
        prompts = [self.prompt] * len(images)
        written = captioner.caption(images, prompts, self.caption_num, seeds)
        pairs: list[tuple[int, Caption | None, str]] = []
        for place, ((at, number), captions) in enumerate(zip(keys, written, strict=True)):
            if isinstance(captions, Refusal):
                detail = captions.detail or None
                rows[at] = Drop("", captions.reason, None, detail, None)
                continue
            row = rows[at]
            old = context.plain(row.chunks[number]) if isinstance(row, _Row) else ""
            pairs += [(place, None, old)] if old and self.keep_original else []
            pairs += [(place, caption, caption.text) for caption in captions]
        scorer = context.scorer(self.scorer, _NAME)
        scores = scorer.score([images[place] for place, _, _ in pairs], [t for _, _, t in pairs])
        for (place, caption, _), score in zip(pairs, scores, strict=True):
            best[keys[place]] = self._better(best.get(keys[place]), caption, float(score))

    def _better(self, known: _Choice | None, caption: Caption | None, score: float) -> _Choice:
        """The better of what was best and the next; the old text comes first where it competes."""
        if known is None:
            return _Choice(caption, score, caption)
        bar = known.score + (self.min_gain if known.caption is None else 0.0)
        surest = known.surest
        if surest is None or (caption is not None and caption.confidence > surest.confidence):
            surest = caption
        return (
            _Choice(caption, score, surest)
            if score > bar
            else _Choice(known.caption, known.score, surest)
        )

    def _made(
        self,
        item: Item,
        at: int,
        row: _Row,
        best: dict[tuple[int, int], _Choice],
        context: Context,
    ) -> Grown | Row:
        if not row.single:
            return item.row
        found = {number: best[at, number] for number in row.single}
        chunks = list(row.chunks)
        for number, choice in found.items():
            if choice.caption is not None:
                chunks[number] = f"{context.image_token} {choice.caption.text} "
        made = item.row
        if any(choice.caption is not None for choice in found.values()):
            made = replaced(item.row, self.text_key, context.eoc_token.join(chunks))
            entry = origin(
                _NAME, item.uid, model=self.hf_img2seq, seed=context.seed, scorer=self.scorer
            )
            made = with_origin(made, entry)
        stats = {
            AGREEMENT: [choice.score for choice in found.values()],
            CONFIDENCE: [c.surest.confidence for c in found.values() if c.surest is not None],
        }
        return Grown(False, (made,), (stats,))


@dataclass(frozen=True)
class _Choice:
    """The best text so far (None: the old one), its score, and the surest caption."""

    caption: Caption | None
    score: float
    surest: Caption | None


@dataclass(frozen=True)
class _Row:
    """A row's chunks, and the picture of each chunk that has exactly one."""

    chunks: tuple[str, ...]
    single: dict[int, ImageFile]


def _split(text: str, files: Sequence[ImageFile], context: Context) -> _Row | Drop:
    fault = context.unmatched(text, files)
    if fault is not None:
        return fault
    chunks = context.chunks(text, files)
    single = {number: own[0] for number, (_, own) in enumerate(chunks) if len(own) == 1}
    return _Row(tuple(chunk for chunk, _ in chunks), single)
