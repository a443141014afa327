"""Putting tags that mean the same together, over all rows of a batch row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vlforge.data.images import ImageFile
from vlforge.ops.batch import Context, Item
from vlforge.ops.rows.tags import META
from vlforge.ops.synthesis.provenance import PROVENANCE
from vlforge.ops.synthesis.replies import UnfitError, json_in
from vlforge.ops.synthesis.text_writing import (
    NO_TEXT,
    ApiWriting,
    filled,
    named,
    parts_of,
    pattern_of,
)
from vlforge.ops.synthesis.writing import Asked, Asks
from vlforge.types import Caption, Drop, Row

_TAG, _TARGETS = "- {tag}: {cnt}", "New tags: {target_tags}\n"


@dataclass(frozen=True, kw_only=True)
class MetaTagsAggregator(ApiWriting):
    """Have a model map the tags of a batch row's rows to fewer ones, and write these.

    The tag `meta_tag_key` of each row is a text or a list of texts; the model sees each with
    how often it occurs. With `target_tags` new tags are of these, else the model chooses.
    The reply is a JSON object, or what the two groups of `output_pattern` (verbose) find;
    every tag must be in it and, with targets, be mapped to one, else it is asked for again,
    then the row is dropped. With `compat: data_juicer` tags that it leaves out stay, and so
    does the row.
    """

    meta_tag_key: str = "dialog_sentiment_labels"
    target_tags: tuple[str, ...] | None = None
    target_tag_template: str | None = None
    tag_template: str | None = None
    output_pattern: str | None = None

    kind: ClassVar = "aggregator"
    prompt_name: ClassVar = "meta_tags_aggregator"
    prompt_fields: ClassVar = ("target_tag_str", "tag_strs", "targets")
    blank: ClassVar = "tag_strs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_pattern is not None:
            pattern_of("output_pattern", self.output_pattern, 2, is_verbose=True)
        self._line()
        self._targets()

    def asks(self, item: Item, files: Sequence[ImageFile], context: Context) -> Asks:
        """One question: all tags with how often they occur."""
        tags = item.row.get(META)
        if not isinstance(tags, list):
            return Drop("", "no batch row", META, type(tags).__name__, "a list")
        counts = self._counts(item)
        if not counts:
            return Drop("", NO_TEXT)
        lines = [filled(self._line(), tag=tag, cnt=str(count)) for tag, count in counts.items()]
        told = {"tag_strs": "\n".join(lines), "target_tag_str": "", "targets": "one of your choice"}
        if self.target_tags:
            named = ", ".join(self.target_tags)
            told |= {"target_tag_str": filled(self._targets(), target_tags=named)}
            told |= {"targets": f"one of {named}"}
        return [Asked.of(self.prompt().fill(**told))]

    def read(self, item: Item, place: int, reply: Caption) -> dict[str, str]:
        """The new tag of each."""
        if self.output_pattern is not None:
            pattern = pattern_of("output_pattern", self.output_pattern, 2, is_verbose=True)
            found = {parts[0]: parts[1] for parts in parts_of(reply.text, pattern)}
        else:
            found = json_in(reply.text, dict[str, str])
        if self.compat == "data_juicer":
            return found
        lacking = [tag for tag in self._counts(item) if not found.get(tag, "").strip()]
        if lacking:
            raise UnfitError(f"the reply has no new tag for {', '.join(lacking[:4])}")
        odd = sorted(set(found.values()) - set(self.target_tags or found.values()))
        if odd:
            raise UnfitError(f"{odd[0]!r} is none of the new tags")
        return found

    def made(self, item: Item, values: Sequence[Any], context: Context) -> Row:
        """The batch row with the new tags in its rows."""
        tags = [self._mapped(one, values[0]) for one in item.row[META]]
        return item.row if tags == item.row[META] else {**item.row, META: tags}

    def marked(self, row: Row, entry: Mapping[str, Any]) -> Row:
        """Each of the joined rows tells of it."""
        given = row.get(PROVENANCE)
        before = given if isinstance(given, list) else [None] * len(row[META])
        told = [[*(one if isinstance(one, list) else ()), dict(entry)] for one in before]
        return {**row, PROVENANCE: told}

    def _counts(self, item: Item) -> Counter[str]:
        found: Counter[str] = Counter()
        for tags in item.row[META]:
            value = tags.get(self.meta_tag_key) if isinstance(tags, dict) else None
            values = value if isinstance(value, list) else [value]
            found.update(tag for tag in values if isinstance(tag, str) and tag.strip())
        return found

    def _mapped(self, tags: Any, new: Mapping[str, str]) -> Any:
        if not isinstance(tags, dict) or self.meta_tag_key not in tags:
            return tags
        value = tags[self.meta_tag_key]
        if isinstance(value, list):
            mapped: Any = [new.get(tag, tag) if isinstance(tag, str) else tag for tag in value]
        else:
            mapped = new.get(value, value) if isinstance(value, str) else value
        return {**tags, self.meta_tag_key: mapped}

    def _line(self) -> str:
        template = self.tag_template
        return _TAG if template is None else named("tag_template", template, ("tag", "cnt"))

    def _targets(self) -> str:
        template = self.target_tag_template
        if template is None:
            return _TARGETS
        return named("target_tag_template", template, ("target_tags",))
