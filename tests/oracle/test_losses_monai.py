import pytest
import torch

from brainsegfounder.training.losses import segmentation_loss

monai_losses = pytest.importorskip("monai.losses", reason="the oracle MONAI is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 6, 5, 4, generator=generator)
    targets = (torch.rand(2, 3, 6, 5, 4, generator=generator) > 0.7).float()
    return logits, targets


def test_dice_on_regions_equals_monai() -> None:
    logits, targets = _case()
    ours = segmentation_loss(logits, targets, target="regions", loss="dice").parts["dice"]
    theirs = monai_losses.DiceLoss(sigmoid=True)(logits, targets)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_dice_and_cross_entropy_on_classes_equal_monai() -> None:
    logits, targets = _case()
    one_hot = torch.nn.functional.one_hot(targets.argmax(dim=1), 3).movedim(-1, 1).float()
    losses = segmentation_loss(logits, one_hot, target="classes", loss="dice-ce")
    ours = sum(losses.parts.values())
    theirs = monai_losses.DiceCELoss(softmax=True, include_background=False)
    dice = theirs.dice(logits, one_hot)
    ce = torch.nn.functional.cross_entropy(logits, one_hot)
    assert float(ours) == pytest.approx((dice + ce).item(), abs=1e-5)


def test_nt_xent_equals_monai() -> None:
    from brainsegfounder.training.pretext import nt_xent

    generator = torch.Generator().manual_seed(5)
    first, second = torch.randn(4, 16, generator=generator), torch.randn(4, 16, generator=generator)
    theirs = monai_losses.ContrastiveLoss(temperature=0.5)(first, second)
    assert nt_xent(first, second, 0.5).item() == pytest.approx(theirs.item(), abs=1e-5)
