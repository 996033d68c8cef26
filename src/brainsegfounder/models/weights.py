"""Weights on disk, and moving an encoder from one network to the next.

Files are safetensors, never pickles. Pretraining, adaptation and fine-tuning hand on the encoder
only. Its patch embedding is matched by contrast name: a known contrast keeps its weights wherever
it now stands, a new one is initialised, one that is gone is dropped. Everything is checked before
anything is copied, so a network is never left half loaded, and a transfer that fills nothing is an
error: a start from random weights is never taken for a pretrained one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.safetensors_header import check_header

NewContrast = Literal["mean", "kaiming"]

ENCODER = "swinViT."
PATCH_EMBEDDING = "swinViT.patch_embed.proj.weight"
_WRAPPER = "module."  # put before each name by DistributedDataParallel

_log = logging.getLogger(__name__)


class _Network(Protocol):
    """What a network must tell about itself to receive an encoder."""

    @property
    def in_channels(self) -> int: ...
    @property
    def merging(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a transfer of an encoder did with every tensor.

    Attributes:
        source: Where the weights came from, for messages.
        loaded: Names copied as they were.
        adapted: Names copied after a change, and a sentence on the change.
        skipped: Names of the source that were not used, and why.
        missing: Names of the target encoder that the source does not have; they keep their values.
        encoder_coverage: Share of the target encoder's parameters that were filled, 0 to 1.
    """

    source: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    encoder_coverage: float

    def summary(self) -> str:
        """Tell it in a few lines of plain text."""
        lines = [
            f"{self.source}: {100 * self.encoder_coverage:.1f} % of the encoder's parameters "
            f"filled; {len(self.loaded)} tensors loaded, {len(self.adapted)} adapted, "
            f"{len(self.missing)} missing, {len(self.skipped)} skipped"
        ]
        lines += [f"adapted {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"missing {name}: keeps its initial values" for name in self.missing]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"skipped {_listed(names)}: {reason}" for reason, names in reasons.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the same as plain lists, dictionaries and numbers."""
        return {
            "source": self.source,
            "encoder_coverage": self.encoder_coverage,
            "loaded": list(self.loaded),
            "adapted": dict(self.adapted),
            "skipped": dict(self.skipped),
            "missing": list(self.missing),
        }


def save_state(
    path: Path | str, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file; it appears whole or not at all.

    Args:
        path: File to write; an older one is replaced.
        state: Tensors by name, on any device.
        metadata: Text to keep beside them, such as contrasts, scale and merging.

    Raises:
        WeightsError: A tensor holds NaN or infinity, or the file cannot be written.
    """
    path = Path(path)
    _check_finite(state, f"{path}: not written")
    tensors = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, unfinished, metadata=dict(metadata or {}))
        unfinished.replace(path)
    except (SafetensorError, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise WeightsError(
            f"{path}: cannot be written ({error}). Check that its folder exists, may be written "
            "to, and has space left."
        ) from error


def load_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file into CPU memory.

    Raises:
        WeightsError: The file is missing, is not safetensors, is damaged, or holds NaN or infinity.
    """
    path = _existing_file(path)
    check_header(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    _check_finite(state, f"{path}: not loaded")
    return state


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the text kept in a safetensors file, without its tensors; empty where there is none.

    Raises:
        WeightsError: The file is missing, is not safetensors, or is damaged.
    """
    path = _existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def load_encoder(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source_contrasts: Sequence[str],
    target_contrasts: Sequence[str],
    source_merging: str,
    new_contrast: NewContrast = "mean",
    generator: torch.Generator | None = None,
    source: str = "weights",
) -> LoadReport:
    """Fill a network's encoder from the weights of another network.

    Args:
        model: `SwinUNETR`, `SSLNetwork`, or any with their `swinViT`, `in_channels` and `merging`.
        state: Tensors named `swinViT...` or `module.swinViT...`; others are skipped.
        source_contrasts: Contrasts of the weights, in the order of their input channels.
        target_contrasts: Contrasts of `model`, in the order of its input channels.
        source_merging: How patches were merged when the weights were trained.
        new_contrast: Start of a contrast that the weights do not know: `mean` of those they know,
            or `kaiming`, random, as in the paper.
        generator: Randomness for `kaiming`; one seeded with 0 if None.
        source: Name of the weights for messages, such as their file.

    Returns:
        What was loaded, what was not, and why.

    Raises:
        WeightsError: The weights were trained with another way of merging patches, at another
            scale, with other channels than `source_contrasts`, or nothing fits. `model` is then
            unchanged.
    """
    network = cast(_Network, model)
    _check_merging(source_merging, network.merging, source)
    _check_contrasts(target_contrasts, network.in_channels, "the network")
    found, skipped = _split_encoder(state, source)
    target = {name: t for name, t in model.state_dict().items() if name.startswith(ENCODER)}
    _check_blocks(found, target, source)

    adapted: dict[str, str] = {}
    kept_share = 1.0
    if PATCH_EMBEDDING in found:
        _check_contrasts(source_contrasts, found[PATCH_EMBEDDING].shape[1], source)
    if PATCH_EMBEDDING in found and tuple(source_contrasts) != tuple(target_contrasts):
        found[PATCH_EMBEDDING], kept_share = _adapt_channels(
            found[PATCH_EMBEDDING], source_contrasts, target_contrasts, new_contrast, generator
        )
        what = _describe_channels(source_contrasts, target_contrasts, new_contrast)
        adapted[PATCH_EMBEDDING] = what
    for name in target:
        if name in found:
            _check_tensor(name, found[name], target[name], source)
    coverage = _coverage(found, target, kept_share)
    if coverage == 0.0:
        raise _nothing_fits(state, source)
    _copy(found, target)

    report = LoadReport(
        source=source,
        loaded=tuple(name for name in target if name in found and name not in adapted),
        adapted=adapted,
        skipped=skipped,
        missing=tuple(name for name in target if name not in found),
        encoder_coverage=coverage,
    )
    _log.info("%s", report.summary())
    return report


def load_whole(model: nn.Module, state: Mapping[str, Tensor], source: str = "weights") -> None:
    """Fill every tensor of a network; names and shapes must be exactly its own.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes differ. `model` is then unchanged.
    """
    target = model.state_dict()
    missing = [name for name in target if name not in state]
    unexpected = [name for name in state if name not in target]
    misshaped = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(t.shape)}"
        for name, t in target.items()
        if name in state and state[name].shape != t.shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "wrong shape": misshaped}
    if any(faults.values()):
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in faults.items() if names)
        raise WeightsError(
            f"{source}: does not fit the network ({told}). Build it with the contrasts, outputs "
            "and scale that the weights were trained with."
        )
    for name, tensor in target.items():
        _check_tensor(name, state[name], tensor, source)
    _copy(state, target)


def _existing_file(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise WeightsError(f"{path}: {what}; expected weights as .safetensors.")
    return path


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path}: cannot be read as safetensors ({error}). If it is a .pt file, save its "
        "tensors as safetensors; if it was copied or downloaded, fetch it again."
    )


def _check_finite(state: Mapping[str, Tensor], refusal: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{refusal}: '{name}' holds NaN or infinity; expected numbers only.")


def _check_merging(found: str, expected: str, source: str) -> None:
    if found != expected:
        raise WeightsError(
            f"{source}: trained with merging '{found}', but the network merges patches by "
            f"'{expected}'. The shapes are the same, so it would load and silently compute other "
            f"numbers. Build the network with merging '{found}'."
        )


def _check_contrasts(contrasts: Sequence[str], num_channels: int, owner: str) -> None:
    listed = ", ".join(contrasts)
    if len(set(contrasts)) != len(contrasts):
        raise WeightsError(f"{owner}: a contrast stands twice in '{listed}'; expected each once.")
    if len(contrasts) != num_channels:
        raise WeightsError(
            f"{owner}: has {num_channels} input channels, but {len(contrasts)} contrasts were "
            f"named ({listed}). Name one contrast for each channel, in order."
        )


def _split_encoder(
    state: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Part a state dict into encoder tensors without `module.`, and reasons to skip the others."""
    found: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for name, tensor in state.items():
        bare = name.removeprefix(_WRAPPER)
        if not bare.startswith(ENCODER):
            skipped[name] = "not part of the encoder; only the encoder moves on"
        elif bare in found:
            raise WeightsError(f"{source}: '{bare}' stands twice, with and without '{_WRAPPER}'.")
        else:
            found[bare] = tensor
    return found, skipped


def _check_blocks(found: Iterable[str], target: Iterable[str], source: str) -> None:
    """Refuse an encoder of other depths, and names that no encoder of ours has."""
    names, known = set(found), set(target)
    if not names:
        return
    unknown = sorted(names - known)
    lost = sorted(_blocks(known) - _blocks(names))
    if unknown or lost:
        what = f"has '{unknown[0]}', which the network has not" if unknown else f"lacks '{lost[0]}'"
        raise WeightsError(
            f"{source}: {what}; found {len(_blocks(names))} attention blocks, expected "
            f"{len(_blocks(known))}. Set the recipe's scale to that of the weights."
        )


def _blocks(names: Iterable[str]) -> set[str]:
    return {name.split(".attn.")[0] for name in names if ".attn." in name}


def _check_tensor(name: str, found: Tensor, expected: Tensor, source: str) -> None:
    if found.shape != expected.shape:
        raise WeightsError(
            f"{source}: '{name}' has shape {tuple(found.shape)}, but the network expects "
            f"{tuple(expected.shape)}. Set the recipe's scale to that of the weights."
        )
    if found.is_floating_point() != expected.is_floating_point():
        raise WeightsError(
            f"{source}: '{name}' holds {found.dtype}, but the network expects {expected.dtype}."
        )
    if not expected.is_floating_point() and not torch.equal(found.to(expected), expected):
        raise WeightsError(
            f"{source}: '{name}' numbers the tokens of a window otherwise than this network, so "
            "the weights would be read in the wrong places. The file is damaged or foreign."
        )


def _adapt_channels(
    weight_FCIJK: Tensor,
    source_contrasts: Sequence[str],
    target_contrasts: Sequence[str],
    new_contrast: NewContrast,
    generator: torch.Generator | None,
) -> tuple[Tensor, float]:
    """Order the patch embedding's channels as the target's contrasts; return the share filled."""
    shape = [weight_FCIJK.shape[0], len(target_contrasts), *weight_FCIJK.shape[2:]]
    if new_contrast == "mean":
        adapted = weight_FCIJK.mean(dim=1, keepdim=True).repeat(1, shape[1], 1, 1, 1)
    else:
        random = generator or torch.Generator().manual_seed(0)
        adapted = torch.empty(shape, dtype=weight_FCIJK.dtype)
        nn.init.kaiming_normal_(adapted, nonlinearity="relu", generator=random)
    known = [name for name in target_contrasts if name in source_contrasts]
    for name in known:
        channel = weight_FCIJK[:, list(source_contrasts).index(name)]
        adapted[:, list(target_contrasts).index(name)] = channel
    return adapted, 1.0 if new_contrast == "mean" else len(known) / len(target_contrasts)


def _describe_channels(
    source_contrasts: Sequence[str], target_contrasts: Sequence[str], new_contrast: NewContrast
) -> str:
    kept = [name for name in target_contrasts if name in source_contrasts]
    new = [name for name in target_contrasts if name not in source_contrasts]
    dropped = [name for name in source_contrasts if name not in target_contrasts]
    start = f"mean of {', '.join(source_contrasts)}" if new_contrast == "mean" else "Kaiming"
    told = [f"{', '.join(kept)} kept"] if kept else []
    told += [f"{', '.join(new)} new ({start})"] if new else []
    told += [f"{', '.join(dropped)} dropped"] if dropped else []
    return "; ".join(told) + f"; channels are now {', '.join(target_contrasts)}"


def _coverage(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor], kept_share: float
) -> float:
    """Share of the target's parameters that `found` fills; buffers of integers do not count."""
    sizes = {name: t.numel() for name, t in target.items() if t.is_floating_point()}
    filled = {name: float(size) for name, size in sizes.items() if name in found}
    if PATCH_EMBEDDING in filled:
        filled[PATCH_EMBEDDING] *= kept_share
    return sum(filled.values()) / sum(sizes.values())


def _nothing_fits(state: Mapping[str, Tensor], source: str) -> WeightsError:
    return WeightsError(
        f"{source}: none of its {len(state)} tensors fits the encoder; expected names such as "
        f"'{PATCH_EMBEDDING}', found {_listed(state) or 'no tensor'}. Give weights "
        "of a Swin encoder, or train from random weights on purpose."
    )


def _copy(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in state.items():
            target[name].copy_(tensor)


def _listed(names: Iterable[str], at_most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
