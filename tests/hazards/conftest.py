"""Hostile NIfTI files, made from code: what each row of the catalogue is made with."""

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import LabelError, Problem, VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Volume

# Offsets of header fields in a NIfTI-1 file.
OFFSETS = {
    "sizeof_hdr": 0, "dim": 40, "datatype": 70, "bitpix": 72, "qfac": 76, "pixdim1": 80,
    "vox_offset": 108, "slope": 112, "units": 123, "qcode": 252, "scode": 254, "quatern_b": 256,
    "srow_x": 280, "magic": 344,
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A folder to lay hostile files in, and a sound image of 24³ voxels to spoil.

    Attributes:
        folder: Where files go.
        voxels: float32 noise around 100.
        affine: 1 mm, RAS.
    """

    folder: Path
    voxels: np.ndarray = field(
        default_factory=lambda: (
            np.random.default_rng(0).normal(100, 20, (24, 24, 24)).astype(np.float32)
        )
    )
    affine: np.ndarray = field(default_factory=lambda: np.diag([1.0, 1.0, 1.0, 1.0]))

    def raw(self, image: nib.Nifti1Image | None = None) -> bytes:
        """The bytes of a plain `.nii`."""
        return (image or nib.Nifti1Image(self.voxels, self.affine)).to_bytes()

    def poked(self, where: str, layout: str, *values: object, of: bytes | None = None) -> bytes:
        """The bytes with a header field overwritten."""
        content = bytearray(self.raw() if of is None else of)
        struct.pack_into(layout, content, OFFSETS[where], *values)
        return bytes(content)

    def file(self, content: bytes, name: str = "a.nii") -> Path:
        """A file of these bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def gz(self, content: bytes, name: str = "a.nii.gz") -> Path:
        """A compressed file of these bytes."""
        return self.file(gzip.compress(content), name)

    def image(
        self, voxels: np.ndarray, affine: np.ndarray | None = None, **options: object
    ) -> Path:
        """A sound file of other voxels."""
        affine = self.affine if affine is None else affine
        return self.file(self.raw(nib.Nifti1Image(voxels, affine, **options)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """See `Bench`."""
    return Bench(tmp_path)


@pytest.fixture
def refused() -> Callable[..., Problem]:
    """Reads a file that must not be read; gives the problem that stopped it."""

    def problem_of(path: Path, read: Callable[..., Volume] = read_nifti, **asked: Any) -> Problem:
        with pytest.raises((VolumeError, LabelError)) as caught:
            read(path, ReadingSettings(**asked))
        return caught.value.problem

    return problem_of


@pytest.fixture
def codes() -> Callable[[Volume], dict[str, str]]:
    """The findings of a volume: the kind of each code."""
    return lambda volume: {finding.code: finding.kind for finding in volume.findings}
