import torch

from tests.tiny_model import llava
from vlforge.kernels.lean_loss import supervised_places
from vlforge.kernels.moving import moved
from vlforge.models.parts.packs import pack_plan
from vlforge.models.parts.splice import plan_splice
from vlforge.training.fit import _seed

IDS = torch.tensor([[1, 5, 6, 7], [1, -200, 8, 9]])
LABELS = torch.tensor([[-100, -100, 6, 7], [-100, -100, 8, -100]])


def test_what_is_there_already_is_not_copied():
    tensor = torch.arange(3)
    assert moved(tensor, "cpu") is tensor
    assert moved(tensor, "meta").device.type == "meta"


def test_a_plan_that_was_moved_knows_where_its_labels_are():
    plan = plan_splice(IDS, [2], labels=LABELS)
    assert plan.places is None
    there = plan.to("cpu")
    assert there.places.tolist() == supervised_places(plan.labels).tolist() == [1, 2, 7]
    packed = pack_plan(there, [[0, 1]]).to("cpu")
    assert packed.places.tolist() == supervised_places(packed.labels).tolist() == [1, 2, 6]


def test_places_that_are_known_give_the_same_loss():
    model = llava("clip")
    plan = plan_splice(IDS, [4], labels=LABELS)
    pixels = torch.randn(1, 3, 8, 8)
    losses = [
        model.loss_sum(model.lay_out(one, IDS.clamp(max=30), pixels)).item()
        for one in (plan, plan.to("cpu"))
    ]
    assert losses[0] == losses[1]


def test_a_step_on_a_cpu_draws_what_torch_would():
    torch.manual_seed(123)
    drawn = torch.rand(4)
    _seed(123, torch.device("cpu"))
    assert torch.equal(torch.rand(4), drawn)
