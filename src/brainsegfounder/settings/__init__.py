"""The sections of a recipe: typed, frozen, complete, closed to unknown names.

Pretraining's objectives are in `objectives`, what a section is in `section`.
Every setting has a default that works and a sentence that says what it does; `recipe explain`
prints these sentences. How a recipe is read from YAML is in `recipes`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from brainsegfounder.settings.objectives import (
    KINDS,
    ContrastiveSettings,
    CrossContrastSettings,
    InpaintingSettings,
    MaeSettings,
    MaskingSettings,
    Objective,
    RotationSettings,
    SimMimSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.settings.section import (
    OURS,
    Architecture,
    Contrast,
    Count,
    Fraction,
    PatchSize,
    Positive,
    Section,
)

__all__ = [
    "AS_IT_IS",
    "KINDS",
    "OURS",
    "Architecture",
    "AugmentSettings",
    "Contrast",
    "ContrastiveSettings",
    "Count",
    "CrossContrastSettings",
    "DataSettings",
    "FinetuneSettings",
    "Fraction",
    "InpaintingSettings",
    "MaeSettings",
    "MaskingSettings",
    "ModelSettings",
    "Objective",
    "OptimizerSettings",
    "PatchSize",
    "Positive",
    "PredictSettings",
    "PreparationSettings",
    "PretrainSettings",
    "ReadingSettings",
    "Recipe",
    "Region",
    "RotationSettings",
    "Section",
    "SimMimSettings",
    "SplitSettings",
    "StageSettings",
    "ThreeTaskFixedSettings",
    "ThreeTaskSettings",
]


class ReadingSettings(Section):
    """What is allowed of a file beyond what every scan should be; each is off unless asked for."""

    strict: bool = False
    """Refuse what is otherwise repaired with a warning: orientation by guess or in doubt."""
    accept_bad_crc: bool = False
    """Read a gzip stream whose data are whole but whose checksum is wrong."""
    volume: Annotated[int, Field(ge=0)] | None = None
    """Which volume of a 4-D file to take, counted from 0; null refuses such files."""
    magnitude: bool = False
    """Take the magnitude of complex voxels."""
    any_size: bool = False
    """Accept spacings outside 0.1 to 20 mm, fields of view outside 50 to 600 mm, thin slabs, and
    more than 2^28 voxels where memory allows."""
    one_hot: bool = False
    """Read a 4-D mask as one volume for each label, numbered from 1."""
    label_map: dict[int, int] = {}
    """Label values of the file that are replaced, such as {3: 4}."""


# What is allowed of a file where nothing is said.
AS_IT_IS = ReadingSettings()


class PreparationSettings(Section):
    """How a scan becomes what a network sees; stored with every store and model."""

    orientation: Literal["RAS"] = "RAS"
    """Axis order of the prepared grid."""
    spacing_mm: tuple[Positive, Positive, Positive] | None = (1.0, 1.0, 1.0)
    """Distance between voxel centres; null keeps each scan's own."""
    margin_mm: Annotated[float, Field(ge=0.0)] = 4.0
    """What is kept around the foreground when cropping."""
    normalisation: Literal["zscore-brain"] = "zscore-brain"
    """Mean 0 and standard deviation 1 inside the brain, contrast by contrast; 0 outside."""
    registration: Literal["never", "rigid"] = "never"
    """rigid: contrasts of a session that do not share a grid are brought onto the first one's."""
    brain: Literal["foreground", "auto", "deepbet"] = "foreground"
    """Where the brain is: what is not background; auto: a given mask, else what is stripped
    already, else deepbet for T1w, else the foreground; deepbet: as auto, but never without."""
    bias_correction: bool = False
    """N4 correction of the intensity bias inside the brain, before normalising."""
    space: Literal["native", "mni"] = "native"
    """mni: registered to MNI152 by an affine map of the first contrast."""
    resize_vox: PatchSize | None = None
    """The whole scan, not cropped, averaged down to exactly this many voxels a side (the published
    ATLAS protocol: 96); needs spacing_mm: null and space: native. null: no such resizing."""

    @model_validator(mode="after")
    def _one_way_to_a_grid(self) -> PreparationSettings:
        if self.resize_vox is not None and (self.spacing_mm is not None or self.space != "native"):
            raise ValueError(
                f"resize_vox {list(self.resize_vox)}: sets the grid by itself, so spacing_mm must "
                f"be null (found {self.spacing_mm}) and space native (found {self.space})"
            )
        return self


class Region(Section):
    """A thing to segment: the label values that form it, and the value written for it."""

    labels: Annotated[tuple[int, ...], Field(min_length=1)]
    """Label values of the data set whose union is the region."""
    paint: int
    """The label value written where the region is predicted; smaller regions paint last."""


class DataSettings(Section):
    """Which contrasts, labels and subjects."""

    contrasts: Annotated[tuple[Contrast, ...], Field(min_length=1)]
    """Contrast names in channel order."""
    copies: Count = 1
    """How many channels each contrast fills in fine-tuning; the paper's first runs with one
    contrast gave it four."""
    labels: dict[str, int] = {}
    """Name of each label value that may stand in a mask, beside 0."""
    regions: dict[str, Region] = {}
    """Regions in the order of the output channels."""
    regions_are: Literal["lesions", "structures"] = "lesions"
    """Whether a prediction lists the parts of each region, as one does with lesions."""
    exclude_subjects: tuple[str, ...] = ()
    """Subjects never prepared nor trained on (kept for a later test)."""


class SplitSettings(Section):
    """Who is trained on, who chooses the model, who is reported; always whole subjects."""

    seed: int = 0
    """Seed of the assignment of subjects to folds and to the inner validation part."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds that `--fold N` counts through."""
    by: Literal["subject", "site"] = "subject"
    """Whether a fold tests some subjects, or all subjects of some sites."""
    stratify: Literal["none", "lesion-load"] = "none"
    """Whether small and large lesions are shared out evenly among the folds."""
    folds_file: str = ""
    """A list of folds instead: a MONAI datalist, nnU-Net's splits_final.json, or a table with the
    columns case (or subject, participant_id) and fold."""
    test_subjects: tuple[str, ...] = ()
    """Held out by name when no fold is asked for."""
    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of the training subjects that chooses the best model (at least one if above 0)."""

    @model_validator(mode="after")
    def _one_way_to_make_folds(self) -> SplitSettings:
        ways = {
            "folds_file": bool(self.folds_file),
            "by: site": self.by == "site",
            "stratify: lesion-load": self.stratify == "lesion-load",
        }
        if sum(ways.values()) > 1:
            told = " and ".join(name for name, is_asked in ways.items() if is_asked)
            raise ValueError(f"{told}: each makes the folds in its own way; choose one")
        return self


class ModelSettings(Section):
    """The network."""

    architecture: Architecture = OURS
    """swin-unetr: the one that is pretrained; segresnet, dynunet (nnU-Net's) and unetr are MONAI's,
    baselines that are fine-tuned from random weights."""
    scale: Literal["nano", "nano-small", "nano-big", "tiny", "small", "big"] = "tiny"
    """Width and depth: nano 4 M, tiny 62 M, small 64 M, big 69 M parameters; nano-small and
    nano-big are as deep as small and big, and as narrow as nano. A baseline has two sizes: nano...,
    and that of its paper for the others."""
    merging: Literal["complete", "legacy", "v2"] = "complete"
    """Order of the eight corners in patch merging; published weights need legacy. Means nothing to
    a baseline."""
    dropout: Fraction = 0.0
    """Dropout in attention projections and MLPs; of segresnet after its first convolution; dynunet
    has none."""
    drop_path: Fraction = 0.0
    """Stochastic depth, rising linearly to this rate; swin-unetr only."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time; swin-unetr only."""

    @model_validator(mode="after")
    def _architecture_has_it(self) -> ModelSettings:
        absent = set() if self.architecture == OURS else {"drop_path", "checkpointing"}
        if self.architecture == "dynunet":
            absent.add("dropout")
        asked = sorted(name for name in absent if getattr(self, name))
        if asked:
            raise ValueError(
                f"{asked[0]} {getattr(self, asked[0])}: {self.architecture} has none; leave it "
                f"out, or set model.{asked[0]}={'false' if asked[0] == 'checkpointing' else 0}"
            )
        return self


class OptimizerSettings(Section):
    """AdamW with linear warm-up and cosine decay."""

    peak_lr: Positive = 1e-4
    """Learning rate after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-5
    """Decoupled decay of weight matrices and kernels; biases, norms and tables are spared."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps of linear rise."""
    final_lr_fraction: Fraction = 0.0
    """Learning rate at the last step, as a share of the peak."""
    clip_norm: Positive | None = 1.0
    """Largest allowed gradient norm; null never clips."""
    accumulation: Count = 1
    """Batches whose gradients are added before one step."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Each block of the encoder learns at this share of the rate of the block after it, from the
    last one to the patch embedding; the decoder learns at the whole rate. null or 1: all alike."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """The best model is a moving average of the weights with this decay a step; null: none."""


class StageSettings(Section):
    """What every training stage has."""

    steps: Count = 1000
    """Optimiser steps of the whole run."""
    batch_size: Count = 2
    """Cases per batch."""
    crops_per_case: Count = 1
    """Patches drawn from each case of a batch."""
    patch_size_vox: PatchSize = (96, 96, 96)
    """Size of a patch; every side a multiple of 32, at least 64."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimiser and schedule."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the GPU has it, float32 elsewhere."""
    sharding: Literal["none", "blocks"] = "none"
    """Several processes: none: each holds the whole model (DDP); blocks: each holds its part of
    every transformer block (FSDP2; swin-unetr only)."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read patches; 0 reads in the training process."""
    validate_every: Count = 100
    """Steps between validations."""
    checkpoint_every: Count = 100
    """Steps between checkpoints."""
    transfer: Literal["encoder", "encoder+decoder"] = "encoder"
    """What is taken over from the start weights (paper: the encoder); a decoder is there after the
    objectives mae and cross-contrast."""
    new_contrast: Literal["mean", "kaiming"] = "mean"
    """How patch-embedding weights of a contrast unknown to the start weights begin."""

    @model_validator(mode="after")
    def _patch_fits_network(self) -> StageSettings:
        if any(side % 32 or side < 64 for side in self.patch_size_vox):
            raise ValueError(
                f"patch_size_vox {list(self.patch_size_vox)}: every side must be a multiple of "
                "32 and at least 64 (the deepest level halves five times and needs two voxels)"
            )
        return self


class PretrainSettings(StageSettings):
    """Self-supervision (stages 1 and 2)."""

    objective: Objective = ThreeTaskSettings()
    """What the network is asked; `kind` says which of five."""

    @model_validator(mode="after")
    def _objective_fits_crop(self) -> PretrainSettings:
        reason = self.objective.misfit(self.patch_size_vox)
        if reason:
            raise ValueError(f"patch_size_vox {list(self.patch_size_vox)}: {reason}")
        return self


class AugmentSettings(Section):
    """Random changes of training patches; probabilities are per patch."""

    flip: Fraction = 0.5
    """Chance of a flip along each axis."""
    scale_intensity: Annotated[float, Field(ge=0.0)] = 0.1
    """Each contrast is multiplied by 1 + U(-this, this)."""
    shift_intensity: Annotated[float, Field(ge=0.0)] = 0.1
    """U(-this, this) is added to each contrast (in standard deviations)."""
    noise: Annotated[float, Field(ge=0.0)] = 0.0
    """Gaussian noise up to this standard deviation, in every fifth patch."""


class FinetuneSettings(StageSettings):
    """Supervised training (stage 3)."""

    target: Literal["regions", "classes"] = "regions"
    """regions: one sigmoid each, may overlap; classes: one softmax over all labels."""
    loss: Literal["dice", "dice-ce"] = "dice-ce"
    """Soft Dice, alone (the paper) or plus cross-entropy."""
    output_prior: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Probability of every region before the first step; 0.5 is the published networks' start."""
    foreground_fraction: Fraction = 0.5
    """Share of patches centred on a labelled voxel."""
    augment: AugmentSettings = AugmentSettings()
    """Random changes of the patches."""
    contrast_dropout: Fraction = 0.0
    """Chance that each contrast of a training case is missing (0 everywhere), never all of them;
    above 0 the model may be given cases that lack contrasts."""
    freeze: Literal["none", "encoder", "encoder-but-patch-embedding"] = "none"
    """What stays as the start weights have it; the published option leaves the patch embedding
    free."""
    fit_memory: bool = True
    """Where a batch does not fit the memory, it is halved and accumulation doubled before the first
    step, at the same cases a step; at last activations are recomputed."""


def _of_swin_only(settings: FinetuneSettings) -> dict[str, str]:
    """What is asked for that needs blocks of a Swin encoder, and what it would be, in words."""
    asked = {}
    if settings.sharding != "none":
        asked[f"sharding {settings.sharding}"] = "sharded"
    if settings.freeze != "none":
        asked[f"freeze {settings.freeze}"] = "frozen in part"
    if settings.optimizer.layer_decay not in (None, 1.0):
        asked[f"optimizer.layer_decay {settings.optimizer.layer_decay}"] = "trained by layers"
    return asked


class PredictSettings(Section):
    """Sliding-window inference."""

    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """Share of a window that its neighbour covers again."""
    blending: Literal["gaussian", "constant"] = "gaussian"
    """Weight of a voxel by its place in the window."""
    batch_size: Count = 1
    """Windows computed at once."""
    flips: bool = False
    """Whether to average over all eight mirrored views of each window."""
    drop_small: Literal["never", "validated"] = "never"
    """validated: parts of a region that are smaller than a volume are dropped, if that raises the
    mean Dice of the validation cases; fine-tuning chooses the volume, and the model keeps it."""


class Recipe(Section):
    """One run, completely."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Name of the recipe."""
    description: str = ""
    """One sentence for `recipe list`."""
    seed: int = 0
    """Seed of weights, patches, augmentation and pretext tasks."""
    data: DataSettings
    """Contrasts, labels, regions, subjects."""
    split: SplitSettings = SplitSettings()
    """Training, inner validation and test subjects."""
    reading: ReadingSettings = ReadingSettings()
    """What is allowed of the files."""
    preparation: PreparationSettings = PreparationSettings()
    """Grid and intensities."""
    model: ModelSettings = ModelSettings()
    """The network."""
    pretrain: PretrainSettings | None = None
    """Self-supervision; stage 1 on its own, stage 2 in a target recipe."""
    finetune: FinetuneSettings | None = None
    """Supervised training."""
    predict: PredictSettings = PredictSettings()
    """Inference, also during validation."""

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        data = self.data
        if len(set(data.contrasts)) != len(data.contrasts):
            raise ValueError(f"data.contrasts {list(data.contrasts)}: a contrast stands twice")
        known = set(data.labels.values())
        for name, region in data.regions.items():
            strange = sorted({*region.labels, region.paint} - known)
            if strange:
                raise ValueError(
                    f"data.regions.{name}: label values {strange} are not in data.labels "
                    f"({sorted(known)})"
                )
        if self.model.architecture != OURS and self.finetune is not None:
            for asked, what in _of_swin_only(self.finetune).items():
                raise ValueError(
                    f"finetune.{asked}: only swin-unetr can be {what}; leave it out for "
                    f"{self.model.architecture}"
                )
        if self.finetune is not None:
            if not data.regions:
                raise ValueError("data.regions: empty; fine-tuning needs at least one region")
            if self.finetune.contrast_dropout and len(data.contrasts) < 2:
                raise ValueError(
                    f"finetune.contrast_dropout {self.finetune.contrast_dropout}: never drops all "
                    f"contrasts, so it needs two or more, not {list(data.contrasts)}"
                )
        objective = None if self.pretrain is None else self.pretrain.objective
        if isinstance(objective, CrossContrastSettings) and len(data.contrasts) < 2:
            raise ValueError(
                f"data.contrasts {list(data.contrasts)}: the objective cross-contrast restores "
                "contrasts from others, so it needs two or more"
            )
        return self

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the output channels: regions, or background and each label."""
        if self.finetune is not None and self.finetune.target == "classes":
            return ("background", *self.data.labels)
        return tuple(self.data.regions)
