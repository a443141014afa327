"""What a plan advises a stage that needs a GPU."""

from dataclasses import replace

import pytest

from vlforge.models.cost import model_cost
from vlforge.models.sizes import SIZES
from vlforge.runs import environment
from vlforge.runs.kinds import advice
from vlforge.runs.kinds.advice import advise, feature_bytes
from vlforge.training.config import TrainConfig

GIB = 2**30
STAGE = TrainConfig(model="m", data="d", max_length=2048, batch=256)


def lines(name, learns=("connector",), seen=3.0, memory=141.0, is_cropped=False, **changes):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(advice, "gpu_memory", lambda: memory * GIB)
        cost = model_cost(SIZES[name])
        stage = replace(STAGE, **changes)
        return advise(stage, cost, learns, 16 * GIB, 256, 558_000, seen, is_cropped)


def test_what_is_computed_twice_is_said_with_its_memory():
    align, _ = lines("llava-1.5-7b", micro_batch=32)
    assert align.startswith("with 32 rows of 704 tokens nothing is computed twice: ")
    small, _ = lines("llava-1.5-7b", micro_batch=32, memory=80)
    assert "layers of language are computed twice" in small
    none, _ = lines("llava-1.5-7b", micro_batch=32, memory=0)
    assert none.endswith("of 80 GiB (a GPU is assumed)")
    much, _ = lines("llava-1.5-7b", ("connector", "language"), memory=20)
    assert much.endswith("too many: lower micro_batch or set parallel: zero3 of this machine's GPU")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llava-1.5-7b", {}, "cache: off is advised: 0.66 TB, read at"),
        ("mgm-2b", {}, "cache: off, maps are larger than what decoding costs: 27.7 MB a picture"),
        ("minigpt4-7b", {}, "cache: on is advised: 27.43 GB, read at"),
        ("minigpt4-7b", {"seen": 1.0}, "cache: off is advised (pictures are looked at once)"),
        ("minigpt4-7b", {"is_cropped": True}, "pictures change each time; without that on is"),
        ("minigpt4-7b", {"learns": ("vision",)}, "cache: off, the encoder learns"),
    ],
)
def test_the_cache_is_advised_by_size_and_gain(name, changes, said):
    assert said in lines(name, **changes)[1]


def test_a_picture_s_features_are_as_large_as_reckoned_elsewhere():
    sizes = {name: feature_bytes(model_cost(SIZES[name]).vision) for name in SIZES}
    assert sizes["llava-1.5-7b"] == pytest.approx(1.18e6, rel=0.01)
    assert sizes["minigpt4-7b"] == pytest.approx(49e3, rel=0.01)
    assert sizes["mgm-2b"] - sizes["llava-1.5-7b"] == pytest.approx(26.5e6, rel=0.01)


def test_memory_of_the_smallest_gpu_counts(monkeypatch):
    monkeypatch.setattr(environment, "ask_gpus", lambda what: ["81559", "40960", "[N/A]"])
    assert environment.gpu_memory() == 40960 * 2**20
    monkeypatch.setattr(environment, "ask_gpus", lambda what: [])
    assert environment.gpu_memory() == 0
