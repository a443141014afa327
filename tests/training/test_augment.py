import numpy as np
import torch

from vlforge.training.augment import Augment, uniform


def pictures(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 16, 16, 3), generator=generator, dtype=torch.uint8)


def test_a_picture_depends_on_its_position_not_on_its_batch():
    augment, positions = Augment(seed=3), np.arange(100, 106)
    together = augment(pictures(), positions)
    for place in range(6):
        alone = augment(pictures()[place : place + 1], positions[place : place + 1])
        assert torch.equal(alone[0], together[place])


def test_seed_and_position_change_the_picture():
    same = pictures(1).expand(2, -1, -1, -1)
    a, b = Augment(seed=3)(same, np.array([1, 2]))
    c = Augment(seed=4)(same[:1], np.array([1]))[0]
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


def test_without_strength_nothing_changes():
    still = Augment(seed=0, shift=0, brightness=0, contrast=0, noise=0)
    assert torch.equal(still(pictures(), np.arange(6)), pictures())


def test_shifts_move_and_repeat_the_edge_but_never_mirror():
    ramp = torch.arange(16, dtype=torch.uint8).mul(10)[None, None, :, None].expand(200, 16, 16, 3)
    moved = Augment(seed=0, shift=0.2, brightness=0, contrast=0, noise=0)(ramp, np.arange(200))
    steps = moved.int().diff(dim=2)
    assert steps.min() == 0
    assert steps.max() == 10
    assert len({tuple(row.tolist()) for row in moved[:, 0, :, 0]}) == 7


def test_numbers_are_even_over_zero_to_one():
    numbers = uniform(5, np.arange(20000), 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.03
