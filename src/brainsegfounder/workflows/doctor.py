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


@dataclass(frozen=True, slots=True)
class Finding:
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


def examine(folder: Path) -> list[Finding]:
    """Examine the installation; nothing is changed and no network is used.

    Args:
        folder: Where output would go, for the disk check.
    """
    return [
        Finding("Python", platform.python_version(), True),
        *(_package(name) for name in ("torch", "nibabel", "blosc2", "nilearn", "matplotlib")),
        _gpu(),
        _template(),
        _optional("monai", "baselines and oracle tests", 'pip install -e ".[baselines]"'),
        _disk(folder),
        _memory(),
    ]


def next_command(findings: list[Finding]) -> str:
    """What to run next."""
    broken = next((f.remedy for f in findings if not f.ok and f.remedy), None)
    return broken or "brainsegfounder demo --out demo"


def _package(name: str) -> Finding:
    version = package_version(name)
    return Finding(name, version or "not installed", version is not None, "pip install -e .")


def _optional(name: str, purpose: str, remedy: str) -> Finding:
    version = package_version(name)
    found = version or f"not installed (only for {purpose}: {remedy})"
    return Finding(name, found, True)


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("GPU", "unknown without torch", False, "pip install -e .")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", torch.cuda.get_device_name(), True)
    return Finding("GPU", f"none; {torch.get_num_threads()} CPU threads are used", True)


def _template() -> Finding:
    spec = importlib.util.find_spec("nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
    there = folder is not None and any(folder.glob("mni_icbm152_t1*"))
    found = "MNI152 in the nilearn package" if there else "missing"
    return Finding("demo template", found, there, "pip install --force-reinstall nilearn")


def _disk(folder: Path) -> Finding:
    free_gib = shutil.disk_usage(folder).free / 2**30
    remedy = "free disk space, or choose an --out on another disk"
    return Finding("disk", f"{free_gib:.0f} GiB free here", free_gib >= MIN_DISK_GIB, remedy)


def _memory() -> Finding:
    total_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("memory", f"{total_gib:.0f} GiB", True)
