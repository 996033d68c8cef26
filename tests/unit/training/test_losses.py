import pytest
import torch

from brainsegfounder.training.losses import (
    class_targets,
    region_targets,
    segmentation_loss,
    soft_dice_loss,
)


def test_regions_are_unions_of_label_values() -> None:
    labels = torch.tensor([0, 1, 2, 4]).reshape(1, 1, 4, 1, 1)
    targets = region_targets(labels, [[1, 4], [1, 2, 4], [4]])
    assert targets[0, :, :, 0, 0].tolist() == [[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]]


def test_classes_and_background_fill_every_voxel_once() -> None:
    labels = torch.tensor([0, 1, 2, 4]).reshape(1, 1, 4, 1, 1)
    targets = class_targets(labels, [1, 2, 4])
    assert torch.equal(targets.sum(dim=1), torch.ones(1, 4, 1, 1))
    assert targets[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0]


def test_dice_loss_is_zero_for_a_perfect_and_one_for_a_disjoint_prediction() -> None:
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2] = 1
    assert soft_dice_loss(target, target).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(1 - target, target).item() == pytest.approx(1, abs=1e-6)


def test_an_empty_region_without_false_voxels_costs_nothing() -> None:
    empty = torch.zeros(1, 1, 4, 4, 4)
    assert soft_dice_loss(empty, empty).item() == 0


@pytest.mark.parametrize("target", ["regions", "classes"])
def test_the_loss_has_a_cross_entropy_part_only_when_asked(target: str) -> None:
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    targets = class_targets(labels, [1, 2])
    both = segmentation_loss(logits, targets, target=target, loss="dice-ce")  # type: ignore[arg-type]
    alone = segmentation_loss(logits, targets, target=target, loss="dice")  # type: ignore[arg-type]
    assert set(both.parts) == {"dice", "ce"}
    assert set(alone.parts) == {"dice"}
    assert both.parts["dice"] == alone.parts["dice"]
