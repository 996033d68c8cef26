"""A batch is split until it fits; the trial leaves no trace."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from brainsegfounder.errors import TrainingError
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.models.swin import SwinBlock
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import open_run, write_provenance
from brainsegfounder.training.losses import Losses, region_targets, segmentation_loss
from brainsegfounder.workflows import fit_memory
from brainsegfounder.workflows.fit_memory import (
    Fit,
    candidates,
    count_gib,
    fit,
    fitted,
    most_gib,
    noise_batch,
    try_batch,
)

CPU = torch.device("cpu")


def _loss(model: nn.Module, batch: Any, _: int) -> Losses:
    targets = region_targets(batch.labels, [[1], [1, 2]])
    return segmentation_loss(model(batch.image), targets, target="regions", loss="dice-ce")


def _stage(folder: Path | None = None, *sets: str) -> Any:
    """A stage with a real network, and with what else fitting looks at."""
    regions = "{a: {labels: [1], paint: 1}, b: {labels: [1, 4], paint: 4}}"
    recipe = load_recipe(
        "demo-target",
        [f"data.regions={regions}", "model.dropout=0.2", "finetune.batch_size=4", *sets],
    )
    torch.manual_seed(0)
    network = SwinUNETR(4, 2, "nano", dropout=0.2)
    run = None
    if folder is not None:
        run = open_run(folder, recipe, resume=folder.exists())
        write_provenance(run, {})
    return fit_memory.Stage(
        recipe=recipe,
        settings=recipe.finetune,  # type: ignore[arg-type]
        store=SimpleNamespace(),  # type: ignore[arg-type]
        split=SimpleNamespace(),  # type: ignore[arg-type]
        run=run,  # type: ignore[arg-type]
        config=config_of(recipe, "segmentation", {}),
        network=network,
        device=CPU,
        identity={},
        transfer=None,
    )


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Fit(4, 1, False), ["4x1", "2x2", "1x4", "1x4c"]),
        (Fit(6, 2, False), ["6x2", "3x4", "1x12", "1x12c"]),
        (Fit(5, 1, False), ["5x1", "1x5", "1x5c"]),
        (Fit(2, 3, True), ["2x3c", "1x6c"]),
    ],
)
def test_every_way_to_make_a_step_has_the_same_cases(asked: Fit, expected: list[str]) -> None:
    found = list(candidates(asked))
    marks = {True: "c", False: ""}
    assert [
        f"{one.batch_size}x{one.accumulation}{marks[one.checkpointing]}" for one in found
    ] == expected
    wanted = asked.batch_size * asked.accumulation
    assert {one.batch_size * one.accumulation for one in found} == {wanted}


def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 2, 6, 6, 6, generator=generator)
    labels = torch.randint(0, 3, (4, 1, 6, 6, 6), generator=generator)
    targets = region_targets(labels, [[1], [1, 2]])

    def total(part: slice) -> float:
        parts = segmentation_loss(
            logits[part], targets[part], target="regions", loss="dice-ce"
        ).parts
        return float(torch.stack(list(parts.values())).sum())

    halves = (total(slice(0, 2)) + total(slice(2, 4))) / 2
    assert halves == pytest.approx(total(slice(0, 4)), rel=1e-6)


def test_a_trial_changes_no_weight_no_gradient_and_no_random_state() -> None:
    stage = _stage(None, "finetune.patch_size_vox=[64, 64, 64]", "finetune.batch_size=1")
    network = stage.network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    losses = []

    def loss(model: nn.Module, batch: Any, seed: int) -> Losses:
        losses.append(_loss(model, batch, seed))
        return losses[-1]

    try_batch(network, noise_batch(stage, 1, CPU), loss, "float32")
    assert losses[0].parts["dice"].requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


class _Hungry(nn.Module):
    """A network that needs too much for more than a few cases, and less with checkpointing."""

    def __init__(self, most_cases: int, most_recomputed: int) -> None:
        super().__init__()
        self.block = SwinBlock(
            12, 3, 0, dropout=0.0, attention_dropout=0.0, drop_path=0.0, checkpointing=False
        )
        self.most = {False: most_cases, True: most_recomputed}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if len(image) > self.most[self.block.checkpointing]:
            raise torch.OutOfMemoryError("too much")
        weight = self.block.mlp.linear1.weight[0, 0]
        return image[:, :2] * weight


@pytest.mark.parametrize(
    ("most_cases", "most_recomputed", "expected"),
    [(4, 4, Fit(4, 1, False)), (3, 4, Fit(2, 2, False)), (0, 1, Fit(1, 4, True))],
)
def test_on_a_gpu_batches_are_tried_until_one_fits(
    monkeypatch: pytest.MonkeyPatch, most_cases: int, most_recomputed: int, expected: Fit
) -> None:
    stage = _stage()
    network = _Hungry(most_cases, most_recomputed)
    stage = fit_memory.replace(stage, network=network)
    monkeypatch.setattr(fit_memory, "_fits_cpu", fit_memory._fits_gpu)
    assert fit(stage, _loss) == expected
    assert not network.block.checkpointing, "the trial leaves the network as it was"


def test_where_not_even_one_case_fits_the_message_says_what_to_lower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = fit_memory.replace(_stage(), network=_Hungry(0, 0))
    monkeypatch.setattr(fit_memory, "_fits_cpu", fit_memory._fits_gpu)
    with pytest.raises(TrainingError, match=r"one case .* does not fit .* Lower finetune\.crops"):
        fit(stage, _loss)


def test_on_a_cpu_the_counted_peak_is_compared_with_the_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = _stage()
    sizes = {one: count_gib(stage, _loss, one) for one in candidates(Fit(2, 1, False))}
    two, one, recomputed = sizes.values()
    assert two > one > recomputed > 0.05
    for free_gib, expected in ((two * 1.2, Fit(2, 1, False)), (one * 1.2, Fit(1, 2, False))):
        monkeypatch.setattr(fit_memory, "available_memory_gib", lambda free=free_gib: free)
        monkeypatch.setattr(fit_memory, "count_gib", lambda _s, _l, which: sizes[which])
        small = stage.settings.model_copy(update={"batch_size": 2})
        assert fit(fit_memory.replace(stage, settings=small), _loss) == expected


def test_what_was_chosen_is_used_logged_recorded_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fit_memory, "_fits_cpu", lambda _s, _l, one: one.checkpointing)
    with caplog.at_level(logging.WARNING):
        first = fitted(_stage(tmp_path / "run"), _loss)
    assert "does not fit the memory; using batch_size 1, accumulation 4, checkpoint" in caplog.text
    assert (first.settings.batch_size, first.settings.optimizer.accumulation) == (1, 4)
    blocks = [m for m in first.network.modules() if isinstance(m, SwinBlock)]
    assert all(block.checkpointing for block in blocks)
    chosen = {"batch_size": 1, "accumulation": 4, "checkpointing": True}
    assert '"memory": {' in (tmp_path / "run" / "provenance.json").read_text()
    assert first.config.provenance["memory"] == chosen

    monkeypatch.setattr(fit_memory, "_fits_cpu", lambda _s, _l, _one: True)
    again = fitted(_stage(tmp_path / "run"), _loss)
    assert again.config.provenance["memory"] == chosen
    monkeypatch.setattr(fit_memory, "_asked", lambda _: Fit(2, 1, False))
    other = fitted(_stage(tmp_path / "run"), _loss)
    assert other.settings.batch_size == 2, "asked for something else: tried anew"


def test_without_fit_memory_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_memory, "_fits_cpu", lambda *_: 1 / 0)
    stage = _stage(None, "finetune.fit_memory=false")
    assert fitted(stage, _loss) is stage
    sharded = _stage(None, "finetune.sharding=blocks")
    assert fitted(sharded, _loss) is sharded


def test_what_is_said_without_counting_is_more_than_what_is_counted() -> None:
    stage = _stage()
    for one in candidates(Fit(2, 1, False)):
        assert most_gib(stage, one) > 1.5 * count_gib(stage, _loss, one)


def test_with_plenty_of_memory_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = _stage()
    monkeypatch.setattr(fit_memory, "available_memory_gib", lambda: 64.0)
    monkeypatch.setattr(fit_memory, "count_gib", lambda *_: 1 / 0)
    assert fit(stage, _loss) == next(candidates(fit_memory._asked(stage)))
