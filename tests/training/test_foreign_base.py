"""A stage goes on with a model in another project's layout as it lies."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_qwen
from tests.checkpoints.test_minigpt4 import laid_out
from vlforge.checkpoints.checkpoint import Writing
from vlforge.checkpoints.index import find, read_checkpoint
from vlforge.models.folder import read_folder
from vlforge.training.config import TrainConfig
from vlforge.training.quantised import open_base
from vlforge.types import ModelError

CPU = torch.device("cpu")


def opened(path):
    return open_base(TrainConfig(model=str(path), data="rows.json", samples=1), path, CPU)


@pytest.mark.parametrize("layout", ["paddle", "qwen_vl"])
def test_it_is_the_model_that_a_folder_of_ours_holds(layout, tmp_path):
    tiny_qwen.published(tmp_path, dtype=torch.float32)
    out = tmp_path / layout
    if not out.exists():
        out.mkdir()
        find(layout).write(read_checkpoint(tmp_path / "ours"), out, Writing())
    theirs, ours = opened(out), read_folder(tmp_path / "ours")
    for name, weight in ours.model.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[name], weight), name
    assert theirs.processor.size == ours.processor.size
    assert theirs.processor.fit_mode == ours.processor.fit_mode
    assert theirs.tokenizer.ids("is red") == ours.tokenizer.ids("is red")


def test_without_a_tokenizer_it_is_refused_and_what_is_no_model_says_so(tmp_path):
    home = laid_out(tmp_path / "minigpt4")
    (home / "vicuna" / "tokenizer.model").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        opened(home)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty is not a model folder"):
        opened(tmp_path / "empty")
