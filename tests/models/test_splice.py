import pytest
import torch

from vlforge.models.parts.splice import plan_splice, splice
from vlforge.types import ModelError

IMAGE, IGNORE = -200, -100


def laid_out(ids, image_tokens, **options):
    """Ids as their own embeddings; picture k's tokens are 1000 * (k + 1) + place."""
    ids = torch.tensor(ids)
    plan = plan_splice(ids, image_tokens, **options)
    vision = [
        torch.arange(count, dtype=torch.float)[:, None] + 1000 * (number + 1)
        for number, count in enumerate(image_tokens)
    ]
    return splice(plan, ids.float()[..., None], vision)[..., 0].tolist(), plan


def test_a_picture_stands_where_its_tag_was():
    rows, plan = laid_out([[1, IMAGE, 5, 6]], [3])
    assert rows == [[1, 1000, 1001, 1002, 5, 6]]
    assert plan.positions.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert plan.mask.all()


def test_several_pictures_of_several_sizes_in_order():
    rows, plan = laid_out([[IMAGE, 4, IMAGE, 5, 0], [7, 8, IMAGE, 9, 9]], [2, 1, 3])
    assert rows == [[1000, 1001, 4, 2000, 5, 0, 0], [7, 8, 3000, 3001, 3002, 9, 9]]
    assert plan.lengths.tolist() == [6, 7]


def test_labels_are_ignored_over_pictures_and_kept_elsewhere():
    labels = torch.tensor([[IGNORE, 55, 5, 6]])
    _, plan = laid_out([[1, IMAGE, 5, 6]], [2], labels=labels)
    assert plan.labels.tolist() == [[IGNORE, IGNORE, IGNORE, 5, 6]]


@pytest.mark.parametrize(
    ("side", "wanted", "positions"),
    [
        ("right", [3, 1000, 1001, 0], [0, 1, 2, 0]),
        ("left", [0, 3, 1000, 1001], [0, 0, 1, 2]),
    ],
)
def test_shorter_rows_are_filled_on_either_side(side, wanted, positions):
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    rows, plan = laid_out([[3, IMAGE, 0, 0], [4, 5, 6, 7]], [2], mask=mask, padding_side=side)
    assert rows == [wanted, [4, 5, 6, 7]]
    assert plan.positions.tolist() == [positions, [0, 1, 2, 3]]
    assert plan.mask.sum(1).tolist() == [3, 4]


def test_padding_on_the_left_of_the_ids_is_dropped_too():
    mask = torch.tensor([[False, False, True, True]])
    rows, _ = laid_out([[0, 0, 3, IMAGE]], [2], mask=mask)
    assert rows == [[3, 1000, 1001]]


def test_rows_are_cut_after_splicing_inside_a_picture_if_need_be():
    rows, plan = laid_out([[1, IMAGE, 5], [1, 2, 3]], [3], max_length=3)
    assert rows == [[1, 1000, 1001], [1, 2, 3]]
    assert plan.lengths.tolist() == [3, 3]


def test_a_row_without_a_tag_takes_no_picture():
    rows, _ = laid_out([[1, 2], [IMAGE, 3]], [2])
    assert rows == [[1, 2, 0], [1000, 1001, 3]]


def test_with_dummies_a_row_without_a_tag_passes_over_its_picture():
    rows, _ = laid_out([[1, 2], [IMAGE, 3]], [2, 2], dummy_images=True)
    assert rows == [[1, 2, 0], [2000, 2001, 3]]


@pytest.mark.parametrize("pictures", [[], [2], [2, 2, 2]])
def test_another_number_of_pictures_than_tags_is_refused(pictures):
    with pytest.raises(ModelError, match=r"2 <image> tags in 1 rows and \d pictures"):
        plan_splice(torch.tensor([[IMAGE, 4, IMAGE]]), pictures)


def test_gradients_reach_text_and_pictures_once_each():
    ids = torch.tensor([[1, IMAGE, 5]])
    text = torch.randn(1, 3, 2, requires_grad=True)
    vision = torch.randn(1, 2, 2, requires_grad=True)
    splice(plan_splice(ids, [2]), text, vision).sum().backward()
    assert vision.grad.eq(1).all()
    assert text.grad[0, :, 0].tolist() == [1, 0, 1]
