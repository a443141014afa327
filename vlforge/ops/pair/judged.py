"""Having an image-text model judge texts beside their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageError, ImageFile
from vlforge.ops.base import look_up
from vlforge.ops.batch import Batch, Item, drop_of
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.text_writing import NO_TEXT
from vlforge.ops.synthesis.writing import Asked, Asks, reference
from vlforge.ops.text.pieces import sound
from vlforge.ops.text.verdicts import MarkJudge, Verdict
from vlforge.types import Drop, EndpointSpec


@dataclass(frozen=True, kw_only=True)
class VlmQualityScoreFilter(MarkJudge):
    """Keep rows whose text an image-text model finds good beside the pictures.

    It looks at all pictures of a row and marks the text from 1 to 5 for faithfulness,
    detail and usefulness; the score is the mean of `dim_required_keys` by 5. `model` is a
    folder or one of the recipe's `endpoints`; `prompt_file` brings a prompt of your own,
    which has to ask for the same form of JSON. A reply without the marks is asked for
    again, `try_num` times in all, then the row is dropped with that reason. Rows without
    pictures are not asked about and stay. Marks of small models say little: try a few
    rows whose worth you know.
    """

    model: str

    prompt_name: ClassVar = "judge_picture_text"
    prompt_fields: ClassVar = ("text",)
    shown: ClassVar = "{text}"
    dimensions: ClassVar = ("faithfulness", "detail", "usefulness")
    stats: ClassVar = ("vlm_quality_score", "vlm_quality_record", "vlm_quality_tags")

    def judge(self) -> str | EndpointSpec:
        """The folder, or the endpoint of the recipe."""
        return reference(self.model, self.api_endpoint, self.model_params, False)

    def measure(self, batch: Batch) -> tuple[list[Any], ...]:
        asked = [
            self._asks(item, files, batch)
            for item, files in zip(batch.items, batch.image_files(self), strict=True)
        ]
        found = self.ask(batch, asked, self.verdict)
        return tuple([_part(one, at) for one in found] for at in range(len(self.stats)))

    def keep(self, *values: Any) -> bool:
        """Whether the score is within the bounds, where there is one."""
        return all(self.fits(score, *self.bounds()[0]) for score in values[0])

    def fault(self, name: str, values: Sequence[Any]) -> Drop:
        """The score and the bound it broke."""
        return super().fault(name, (values[0][0], *values[1:]))

    def _asks(self, item: Item, files: Sequence[ImageFile], batch: Batch) -> Asks:
        if not files:
            return None
        value = look_up(item.row, self.text_key)
        text = plain_words(sound(value), batch.context) if isinstance(value, str) else ""
        if not text:
            return Drop("", NO_TEXT)
        try:
            for file in files:
                file.size()
        except ImageError as error:
            return drop_of(error)
        return [Asked.of(self.prompt().fill(text=text), files)]


def _part(found: Verdict | Drop | None, at: int) -> Any:
    """One statistic of a row: its score in a list, which is empty where nothing was asked."""
    if isinstance(found, Drop):
        return found
    if found is None:
        return {} if at else []
    return found[at] if at else [found.score]
