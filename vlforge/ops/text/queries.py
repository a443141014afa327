"""Tagging questions by trained classifiers: intent, sentiment, topic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vlforge.ops.base import Grown, RowMapper, look_up
from vlforge.ops.batch import Batch
from vlforge.ops.index import name_of
from vlforge.ops.rows.tags import tagged, tags_of
from vlforge.ops.synthesis.picture_rows import plain_words
from vlforge.ops.synthesis.prompt_files import Prompt, read_prompt
from vlforge.ops.synthesis.replies import UnfitError, said
from vlforge.ops.synthesis.text_writing import NO_TEXT
from vlforge.ops.synthesis.writing import Asked, Asks, converse, drawing_of
from vlforge.ops.text.pieces import sound
from vlforge.types import Caption, Drop, Need, Row

_CHINESE = re.compile("[\u4e00-\u9fff]")
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class QueryClassifier(RowMapper):
    """Tags rows with the class of their question and its probability.

    `hf_model` is the folder of a text classifier. A question with Chinese signs is
    translated before by `zh_to_en_hf_model`: the folder of a translator or of a language
    model, or one of the recipe's `endpoints`; null leaves it as it is.
    """

    hf_model: str
    zh_to_en_hf_model: str | None = "Helsinki-NLP/opus-mt-zh-en"
    model_params: dict[str, Any] = field(default_factory=dict)
    zh_to_en_model_params: dict[str, Any] = field(default_factory=dict)
    query_key: str = "query"
    label_key: str
    score_key: str

    needs: ClassVar = Need.MODEL

    def apply(self, batch: Batch) -> list[Grown | Row | Drop]:
        found: list[Grown | Row | Drop] = [item.row for item in batch.items]
        asked: dict[int, str] = {}
        for at, item in enumerate(batch.items):
            if {self.label_key, self.score_key} <= tags_of(item.row).keys():
                continue
            value = look_up(item.row, self.query_key)
            text = plain_words(value, batch.context) if isinstance(value, str) else ""
            if text:
                asked[at] = text
            else:
                found[at] = Drop("", NO_TEXT, None, self.query_key)
        for at, words in self._in_english(batch, asked).items():
            if isinstance(words, Drop):
                found[at] = words
            else:
                asked[at] = words
        self._tag(batch, {at: asked[at] for at in asked if not isinstance(found[at], Drop)}, found)
        return found

    def _tag(self, batch: Batch, asked: dict[int, str], found: list[Grown | Row | Drop]) -> None:
        if not asked:
            return
        model = batch.context.classifier(self.hf_model, name_of(type(self).__name__))
        chances = model.classify_texts(list(map(sound, asked.values())))
        for at, row in zip(asked, chances, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            tags = {self.label_key: model.labels[best], self.score_key: float(row[best])}
            found[at] = tagged(batch.items[at].row, **tags)

    def _in_english(self, batch: Batch, asked: dict[int, str]) -> dict[int, str | Drop]:
        """Chinese questions in English, by the place of their row."""
        chinese = {at: text for at, text in asked.items() if _CHINESE.search(text)}
        if not chinese or not self.zh_to_en_hf_model:
            return {}
        name = name_of(type(self).__name__)
        writer = batch.context.writer(self.zh_to_en_hf_model, name)
        prompt = Prompt("", "{text}")
        if not getattr(writer, "translates", False):
            prompt = read_prompt("text_translation", "", ("text", "source", "target"))
            prompt = prompt.fill(source="Chinese", target="English")
        rows: list[Asks] = [
            [Asked.of(prompt.fill(text=chinese[at]))] if at in chinese else None
            for at in range(len(batch.items))
        ]
        replies = converse(
            batch, type(self), self.zh_to_en_hf_model, rows, drawing_of({}), _TRIES, _translation
        )
        return {at: _single(replies[at]) for at in chinese}


def _translation(row: int, place: int, reply: Caption) -> str:
    words = said(reply.text)
    if not words:
        raise UnfitError("the reply is empty")
    return words


def _single(found: Sequence[Any] | Drop | None) -> str | Drop:
    if isinstance(found, Drop):
        return found
    return str(found[0]) if found else Drop("", NO_TEXT)


@dataclass(frozen=True, kw_only=True)
class QueryIntentDetectionMapper(QueryClassifier):
    """Tag rows with the intent of their question (`query`) and its probability.

    `hf_model` is the folder of a text classifier; the tags go to `__dj__meta__`, where rows
    that have both already stay as they are. A question with Chinese signs is translated
    before by `zh_to_en_hf_model` (a translator, a language model, or one of the recipe's
    `endpoints`; null for a classifier that reads Chinese); Data-Juicer sends all questions
    through the translator. A row without a question is dropped.
    """

    hf_model: str = "bespin-global/klue-roberta-small-3i4k-intent-classification"
    label_key: str = "query_intent_label"
    score_key: str = "query_intent_score"


@dataclass(frozen=True, kw_only=True)
class QuerySentimentDetectionMapper(QueryClassifier):
    """Tag rows with the sentiment of their question (`query`) and its probability.

    As `query_intent_detection_mapper`, by a classifier of sentiments.
    """

    hf_model: str = "mrm8488/distilroberta-finetuned-financial-news-sentiment-analysis"
    label_key: str = "query_sentiment_label"
    score_key: str = "query_sentiment_score"


@dataclass(frozen=True, kw_only=True)
class QueryTopicDetectionMapper(QueryClassifier):
    """Tag rows with the topic of their question (`query`) and its probability.

    As `query_intent_detection_mapper`, by a classifier of topics.
    """

    hf_model: str = "dstefa/roberta-base_topic_classification_nyt_news"
    label_key: str = "query_topic_label"
    score_key: str = "query_topic_score"
