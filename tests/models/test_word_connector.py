"""A connector that starts from a tagger hands on the words of what it sees."""

import pytest
import torch
from torch.nn import functional as F

from vlforge.models.config import SmallVisionSpec
from vlforge.models.parts.small_vision import SmallVisionConfig, SmallVisionModel
from vlforge.models.parts.tags import Tagger
from vlforge.models.parts.word_connector import word_connector
from vlforge.types import ModelError


class Words:
    """A tokenizer as far as a vocabulary goes."""

    def get_vocab(self):
        return {"<unk>": 0, "red": 1, "▁red": 2, "A": 3}


def tagger(*tags):
    torch.manual_seed(0)
    vision = SmallVisionModel(SmallVisionConfig.of(SmallVisionSpec(image_size=16, merge=2)))
    made = Tagger(vision, tags, torch.zeros(len(tags)))
    torch.nn.init.normal_(made.head.weight)
    torch.nn.init.normal_(made.bias)
    return made.eval()


def test_a_token_starts_as_the_words_of_the_tags_of_its_columns():
    made, embeddings = tagger("red", "A"), torch.randn(4, 8)
    connector = word_connector(made, Words(), embeddings, gain=0.5)
    token = torch.randn(3, made.vision.config.hidden_size)
    columns = token.view(3, 2, made.vision.config.channels[-1])
    seen = F.gelu(made.head(columns) + made.bias).sum(1)
    words = torch.stack([embeddings[2], embeddings[3]])
    torch.testing.assert_close(connector(token), 0.5 * seen @ words)


def test_every_weight_of_it_learns():
    made = tagger("red", "A")
    connector = word_connector(made, Words(), torch.randn(4, 8), gain=0.5)
    connector(torch.randn(5, made.vision.config.hidden_size)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())


def test_a_tag_that_is_no_token_is_named():
    with pytest.raises(ModelError, match="tag 'blue' is no token"):
        word_connector(tagger("blue"), Words(), torch.randn(4, 8), gain=0.5)
