"""What all tests share: no network, no display, drawn brains, and real scans if there are any."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.phantom import write_cohort
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.prepare import run_prepare

os.environ["MPLBACKEND"] = "Agg"
# A suite that was started in the background ignores SIGINT, and so would what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
LOOPBACK = ("127.", "::1", "localhost")
BRATS_CONTRASTS = ("t1", "t1ce", "t2", "flair")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        metavar="DIR",
        default=str(ROOT.parent / "shared" / "data"),
        help="Real scans, read only; tests that need them skip where the folder is absent.",
    )
    parser.addoption(
        "--mutants",
        metavar="N",
        type=int,
        default=2000,
        help="How many spoilt headers tests/hazards/test_fuzz.py tries (full run: 200000).",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests marked slow come first, those with most of them before the others."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real scans."""
    folder = Path(request.config.getoption("--real-data"))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}; point --real-data at them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """A test that reaches beyond this machine fails."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(link: socket.socket, address: object) -> None:
        if link.family != socket.AF_UNIX and not str(address[0]).startswith(LOOPBACK):
            raise RuntimeError(f"a test tried to connect to {address}; tests have no network")

    def guarded(link: socket.socket, address: object) -> None:
        check(link, address)
        connect(link, address)

    def guarded_ex(link: socket.socket, address: object) -> int:
        check(link, address)
        return connect_ex(link, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket.socket, "connect_ex", guarded_ex)
        yield


def draw_brain(
    shape_vox: tuple[int, int, int] = (26, 30, 26),
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0),
    num_contrasts: int = 1,
    seed: int = 0,
    air: float = 0.0,
) -> tuple[Volume, Volume]:
    """A brain that differs along every axis and between left and right, and its lesion.

    Args:
        shape_vox: Voxels along I, J, K, which run to the right, anterior, superior.
        spacing_mm: Distance between voxel centres.
        num_contrasts: Channels, each with another look.
        seed: Of the noise.
        air: Standard deviation of the noise outside; 0 is a skull-stripped volume.

    Returns:
        float32 intensities and int16 labels: 2 around 1 around 4, right, front and top of centre.
    """
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n) for n in shape_vox]
    right, front, top = np.meshgrid(*axes, indexing="ij")
    inside = right**2 + front**2 + top**2 < 0.8
    away = np.sqrt((right - 0.3) ** 2 + (front - 0.15) ** 2 + (top - 0.1) ** 2)
    labels = np.select([away < 0.15, away < 0.3, away < 0.45], [4, 1, 2], 0)
    channels = []
    for number in range(num_contrasts):
        tissue = 100 + 40 * right + 25 * front + 10 * top + 30 * (number + 1) * (labels > 0)
        noisy = tissue + rng.normal(0, 3, shape_vox)
        channels.append(np.where(inside, noisy, np.abs(rng.normal(0, 1, shape_vox)) * air))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-21.0, -33.0, -12.0)
    return (
        Volume(np.stack(channels).astype(np.float32), affine),
        Volume(labels[None].astype(np.int16), affine.copy()),
    )


def turn(volume: Volume, order: Sequence[int], flips: Sequence[int]) -> Volume:
    """The same voxels at the same millimetres, axes permuted, then some of them flipped."""
    voxels = volume.voxels.transpose([0, *(axis + 1 for axis in order)])
    affine = volume.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis + 1] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis + 1)
    return Volume(np.ascontiguousarray(voxels), affine, volume.source)


def rotated(affine: np.ndarray, degrees: float) -> np.ndarray:
    """An affine whose grid is turned about an oblique axis."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    turned = np.array(affine, dtype=float)
    turned[:3] = (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross) @ turned[
        :3
    ]
    return turned


def write_brats(folder: Path, names: Sequence[str], spacing_mm: float = 2.0) -> Path:
    """Cases in BraTS 2018 names: `<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz`."""
    for seed, name in enumerate(names):
        image, labels = draw_brain(spacing_mm=(spacing_mm,) * 3, num_contrasts=4, seed=seed)
        for channel, contrast in zip(image.voxels, BRATS_CONTRASTS, strict=True):
            scan = Volume(channel[None], image.affine)
            write_nifti(folder / name / f"{name}_{contrast}.nii.gz", scan)
        write_nifti(folder / name / f"{name}_seg.nii.gz", labels)
    return folder


@pytest.fixture(scope="session", name="draw_brain")
def _draw_brain() -> Callable[..., tuple[Volume, Volume]]:
    return draw_brain


@pytest.fixture(scope="session", name="turn")
def _turn() -> Callable[..., Volume]:
    return turn


@pytest.fixture(scope="session", name="rotated")
def _rotated() -> Callable[..., np.ndarray]:
    return rotated


@pytest.fixture(scope="session")
def brats_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small cases with BraTS 2018 names; read only."""
    return write_brats(tmp_path_factory.mktemp("brats"), ["Brats18_A_1", "Brats18_B_1"])


@pytest.fixture(scope="session")
def bids_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn brains with tumours and four contrasts at 3 mm, as BIDS."""
    folder = tmp_path_factory.mktemp("cohort") / "bids"
    write_cohort(
        folder,
        num_subjects=6,
        seed=0,
        lesion="tumour",
        contrasts=("T1w", "T1ce", "T2w", "FLAIR"),
        spacing_mm=3.0,
    )
    return folder


@pytest.fixture(scope="session")
def cohort(bids_tree: Path) -> Path:
    """The store of `bids_tree`, prepared as the recipe demo-target says."""
    store = bids_tree.parent / "store"
    run_prepare([bids_tree], store, load_recipe("demo-target"))
    return store


@pytest.fixture(scope="session")
def bids_errors() -> Callable[[Path], list[str]]:
    """What the official validator calls an error in a data set, with its place."""
    beside_python = Path(sys.executable).with_name("bids-validator-deno")
    validator = str(beside_python) if beside_python.exists() else shutil.which(beside_python.name)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")

    def errors(folder: Path) -> list[str]:
        command = [validator, "--format", "json", str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        issues = json.loads(told.stdout)["issues"]["issues"]
        return [
            f"{issue['code']} {issue.get('location')}"
            for issue in issues
            if issue["severity"] == "error"
        ]

    return errors
