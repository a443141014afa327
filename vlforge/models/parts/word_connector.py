"""A connector that starts as a reader of tags: what a place shows becomes the words for it.

T tags, M columns merged into a token, C channels of a column, D language width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vlforge.models.parts.connector import Connector
from vlforge.models.parts.tags import Tagger
from vlforge.types import ModelError


def word_connector(tagger: Tagger, tokenizer: Any, embeddings: Tensor, gain: float) -> Connector:
    """An mlp2x_gelu, M * T wide inside, whose output is the sum of the words of the tags seen.

    The first layer gives every column's tag logits, as the tagger's head does;
    GELU keeps the tags that are there; the second layer adds their word
    embeddings, times `gain`. Training goes on from here like with any connector.

    Args:
        embeddings: the language model's word embeddings [vocabulary, D].

    Raises:
        ModelError: a tag that the tokenizer has no token for.
    """
    words = embeddings[[_token_of(tag, tokenizer) for tag in tagger.tags]]
    config = tagger.vision.config
    channels, merge, tags = config.channels[-1], config.merge, len(tagger.tags)
    see = nn.Linear(merge * channels, merge * tags)
    say = nn.Linear(merge * tags, embeddings.shape[1])
    with torch.no_grad():
        see.weight.zero_()
        say.bias.zero_()
        for column in range(merge):
            rows = slice(column * tags, (column + 1) * tags)
            see.weight[rows, column * channels : (column + 1) * channels] = tagger.head.weight
            see.bias[rows] = tagger.bias
            say.weight[:, rows] = gain * words.T
    return Connector(see, nn.GELU(), say)


def _token_of(tag: str, tokenizer: Any) -> int:
    """The token of a tag as it stands within a sentence, after a space where it has that form."""
    vocabulary = tokenizer.get_vocab()
    for form in (f"▁{tag}", tag):
        if form in vocabulary:
            return int(vocabulary[form])
    raise ModelError(f"tag {tag!r} is no token of the tokenizer; train both with the same one")
