"""What a state dict from elsewhere is: whose names, which size, which kind of network.

Everything that shapes tell is read from them. They do not tell how patches were merged nor which
contrast is which channel; that comes from `KNOWN_FILES`, or from the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.scales import SCALES, Scale
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.windows import relative_position_index

_EMBEDDING = "patch_embed.proj.weight"
_OUTPUT = "out.conv.conv.weight"
_INDEX = ".relative_position_index"  # a buffer that every network of this kind has alike
_ENCODER_NAMES = ("swinViT", "swin_vit", "swinvit", "encoder")
_ENCODER_PART = re.compile(r"(patch_embed|layers[1-4]c?|norm|mask_token)(\.|$)")
_BRATS = ("FLAIR", "T1ce", "T1w", "T2w")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A published file whose training we know of (method sheet, section 6.1).

    Attributes:
        what: What it is, in words.
        name: Pattern of its file name.
        sha256: Of its content, where known.
        contrasts: By number of input channels.
        recipe: Shipped recipe with its labels and preparation; None for pretrained encoders.
        trained_on: Data sets it has seen.
        from_uk_biobank: Whether it is derived from UK Biobank data.
    """

    what: str
    name: str
    trained_on: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    contrasts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    recipe: str | None = None
    from_uk_biobank: bool = True


_UKB = "UK Biobank"
KNOWN_FILES = (
    KnownFile(
        "BrainSegFounder, stage 1",
        r"64-gpu-model_bestValRMSE\.pt|model_weights_UKB-pretrain\.pt",
        (_UKB,),
        ("4be92492ae4f55e934e278700a13a6c18ef8406daba2177c5f9f157dcff5f341",),
        {1: ("T1w",), 2: ("T1w", "FLAIR")},
    ),
    KnownFile(
        "BrainSegFounder, stage 2 on BraTS 2021",
        r"model_bestValRMSE-fold[0-4]\.pt|model_weights_BRATS-pretrain\.pt",
        (_UKB, "BraTS 2021"),
        ("e46d80ce75f3828222cdfd3f4891c753e9cd0356719e7d21803c89e1b8797077",),
        {4: _BRATS},
    ),
    KnownFile(
        "BrainSegFounder, fine-tuned on BraTS 2021",
        r"finetuned_model_fold_[0-4]\.pt|model_weights_BRATS-finetune\.pt",
        (_UKB, "BraTS 2021"),
        contrasts={4: _BRATS},
        recipe="paper-brats21",
    ),
    KnownFile(
        "BrainSegFounder, stage 2 on ATLAS v2.0",
        r"model_weights_ATLAS-pretrain\.pt",
        (_UKB, "ATLAS v2.0"),
        contrasts={1: ("T1w",)},
    ),
    KnownFile(
        "BrainSegFounder, fine-tuned on ATLAS v2.0",
        r"model_weights_ATLAS-finetune\.pt",
        (_UKB, "ATLAS v2.0"),
        contrasts={1: ("T1w",)},
        recipe="paper-atlas",
    ),
    KnownFile(
        "MONAI, self-supervised on CT",
        r"model_swinvit\.pt",
        ("5,050 CT scans",),
        from_uk_biobank=False,
    ),
    KnownFile(
        "Disruptive autoencoders, self-supervised on CT and MRI",
        r"ssl_pretrained_weights\.pth",
        ("CT and MRI scans",),
        from_uk_biobank=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Recognised:
    """A foreign state dict, understood.

    Attributes:
        kind: A whole SwinUNETR, or an encoder with or without pretext heads.
        scale: Name of its scale.
        in_channels: Input channels.
        out_channels: Output channels of a whole SwinUNETR; None otherwise.
        tensors: Under the names of this package, float32.
        renamed: Name here, and what it was called there, where they differ.
        dropped: Names there that are not used, and why.
        missing: Names of the encoder here that the file does not have.
        coverage: Share of the encoder's parameters that the file has, 0 to 1.
    """

    kind: Literal["segmentation", "pretraining"]
    scale: str
    in_channels: int
    out_channels: int | None
    tensors: Mapping[str, Tensor]
    renamed: Mapping[str, str]
    dropped: Mapping[str, str]
    missing: tuple[str, ...]
    coverage: float


def known_file(name: str, sha256: str) -> KnownFile | None:
    """The published file with this content, or else with this name."""
    for known in KNOWN_FILES:
        if sha256 in known.sha256:
            return known
    return next((known for known in KNOWN_FILES if re.fullmatch(known.name, name)), None)


def recognise(tensors: Mapping[str, Tensor], source: str) -> Recognised:
    """Rename the tensors of a SwinUNETR, an SSL network or a Swin encoder, and say what they are.

    Args:
        tensors: By their names in the file, with any of the usual prefixes.
        source: The file, for messages.

    Raises:
        WeightsError: There is no Swin encoder in it, or one that this package cannot compute:
            with `use_v2` blocks, a norm after the patch embedding, or another width or depth.
    """
    names, dropped = _rename(tensors, source)
    shapes = {name: tuple(tensors[old].shape) for name, old in names.items()}
    in_channels, scale = _scale_of(shapes, source)
    out_channels = shapes[_OUTPUT][0] if _OUTPUT in shapes else None
    whole = _shapes_of(lambda: SwinUNETR(in_channels, out_channels or 1, scale))
    is_whole = all(shapes.get(n) == shape for n, shape in whole.items() if not n.endswith(_INDEX))
    target = whole if is_whole else _shapes_of(lambda: SSLNetwork(in_channels, scale))
    kept = {}
    for name, old in names.items():
        if name not in target:
            dropped[old] = "not part of this network"
        elif shapes[name] != target[name] and _is_other(name):
            dropped[old] = f"a head of shape {shapes[name]}, here {target[name]}"
        elif shapes[name] != target[name]:
            raise WeightsError(
                f"{source}: '{old}' has shape {shapes[name]}, expected {target[name]} in a Swin "
                f"encoder of scale '{scale}'. The file is damaged, or of another kind of network."
            )
        else:
            kept[name] = old
    encoder = {name: shape for name, shape in target.items() if not _is_other(name)}
    floats = {n: torch.Size(s).numel() for n, s in encoder.items() if not n.endswith(_INDEX)}
    indices = {n: torch.from_numpy(relative_position_index()) for n in encoder if n not in floats}
    return Recognised(
        kind="segmentation" if is_whole else "pretraining",
        scale=scale,
        in_channels=in_channels,
        out_channels=out_channels if is_whole else None,
        tensors={**indices, **{name: _as_float32(tensors[old]) for name, old in kept.items()}},
        renamed={name: old for name, old in kept.items() if name != old},
        dropped=dropped,
        missing=tuple(name for name in floats if name not in kept),
        coverage=sum(n for name, n in floats.items() if name in kept) / sum(floats.values()),
    )


def _rename(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Map names here to names in the file; and the names that have no place here to reasons."""
    encoder, root = _prefixes(tensors, source)
    names: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for old in tensors:
        part = old.removeprefix(encoder)
        if old.startswith(encoder) and _ENCODER_PART.match(part):
            _check_part(part, old, source)
            if part.startswith(("norm.", "mask_token")):
                dropped[old] = "not used by a SwinUNETR"
                continue
            new = "swinViT." + _modern(part)
        elif old.startswith(root):
            new = old.removeprefix(root)
        else:
            dropped[old] = f"outside '{root}'"
            continue
        if new in names:
            raise WeightsError(f"{source}: '{old}' and '{names[new]}' are both '{new}' here.")
        names[new] = old
    return names, dropped


def _prefixes(tensors: Mapping[str, Tensor], source: str) -> tuple[str, str]:
    """What stands before the names of the encoder, and before those of the whole network."""
    found = [name.removesuffix(_EMBEDDING) for name in tensors if name.endswith(_EMBEDDING)]
    if len(found) != 1:
        sample = ", ".join(list(tensors)[:3])
        raise WeightsError(
            f"{source}: {len(found)} tensors named '...{_EMBEDDING}', expected one Swin encoder; "
            f"found {len(tensors)} tensors such as {sample}."
        )
    parts = found[0].rstrip(".").split(".")
    root = ".".join(parts[:-1]) if parts[-1] in _ENCODER_NAMES else ".".join(parts)
    return found[0], f"{root}." if root else ""


def _modern(name: str) -> str:
    """A name of the encoder as MONAI spells it today."""
    name = re.sub(r"^(layers[1-4]\.0)\.0\.", r"\1.", name)
    return name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")


def _check_part(part: str, old: str, source: str) -> None:
    if re.match(r"layers[1-4]c", part):
        raise WeightsError(
            f"{source}: '{old}' is a residual block of SwinUNETR-V2 (`use_v2`), which this network "
            "does not have; without it the same weights compute something else. Not converted."
        )
    if part.startswith("patch_embed.norm"):
        raise WeightsError(
            f"{source}: '{old}' is a norm after the patch embedding, which this network does not "
            "have (MONAI had it in development snapshots only). Not converted."
        )


def _scale_of(shapes: Mapping[str, tuple[int, ...]], source: str) -> tuple[int, str]:
    embedding = shapes[f"swinViT.{_EMBEDDING}"]
    blocks = [re.match(r"swinViT\.layers([1-4])\.0\.blocks\.(\d+)\.", name) for name in shapes]
    found = {(int(m[1]), int(m[2])) for m in blocks if m}
    depths = tuple(sum(stage == n for stage, _ in found) for n in (1, 2, 3, 4))
    tables = [
        f"swinViT.layers{n}.0.blocks.0.attn.relative_position_bias_table" for n in range(1, 5)
    ]
    heads = tuple(shapes[name][-1] if name in shapes else 0 for name in tables)
    for name, scale in SCALES.items():
        is_it = scale == Scale(embedding[0], depths, heads)  # type: ignore[arg-type]
        if len(embedding) == 5 and is_it:
            return embedding[1], name
    known = "; ".join(
        f"{n}: {s.feature_size}, {s.depths}, {s.num_heads}" for n, s in SCALES.items()
    )
    raise WeightsError(
        f"{source}: a Swin encoder of width {embedding[0]}, depths {depths}, heads {heads}; "
        f"expected one of {known}."
    )


def _shapes_of(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build().state_dict().items()}


def _is_other(name: str) -> bool:
    return not name.startswith("swinViT.")


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
