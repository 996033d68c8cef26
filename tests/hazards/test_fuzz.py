"""Thousands of spoilt files: each ends in the same image, a typed error, or another sound image.

    pytest tests/hazards/test_fuzz.py --mutants 200000

A bit of a compressed file is flipped, a compressed file is cut short, header bytes are overwritten.
By default a sample is tried; `--mutants N` tries N headers, N / 20 flips (at most 10,000) and
N / 200 cuts (at most 1,000).
"""

import gzip
import logging
import struct
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.errors import VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.header import MAX_ORIGIN_MM, SPACING_LIMITS_MM
from brainsegfounder.volumes.nifti import AS_IT_IS, read_nifti
from brainsegfounder.volumes.quality import inspect

MAX_SECONDS = 5.0
# Fields of a NIfTI-1 header that decide on voxels and place, each with its layout.
FIELDS = {
    0: "i", 40: "h", 42: "h", 44: "h", 46: "h", 48: "h", 50: "h", 68: "h", 70: "h", 72: "h",
    76: "f", 80: "f", 84: "f", 88: "f", 108: "f", 112: "f", 116: "f", 123: "B", 252: "h",
    254: "h", 256: "f", 260: "f", 264: "f", 268: "f", 272: "f", 276: "f", 280: "f", 284: "f",
    288: "f", 292: "f", 296: "f", 300: "f", 304: "f", 308: "f", 312: "f", 316: "f", 320: "f",
    324: "f", 344: "i",
}  # fmt: skip
FLOATS = [
    0, 1, -1, 0.5, -0.5, 1e-30, 1e30, 3e38, -3e38, 1e-45, 352, 1e9, np.nan, np.inf, -np.inf
]  # fmt: skip
INTEGERS = {
    "B": [0, 1, 2, 3, 8, 255],
    "h": [0, 1, -1, 2, 3, 4, 7, 8, 16, 24, 32, 64, 128, 256, 512, 768, 1536, 2304, 32767, -32768],
    "i": [0, 1, -1, 348, 540, 2**31 - 1, -(2**31)],
}


@pytest.fixture
def mutants(request, caplog):
    """How many headers are mutated; the log of their repairs is not kept."""
    caplog.set_level(logging.CRITICAL)
    return request.config.getoption("--mutants")


@pytest.fixture(scope="module")
def sound():
    """A smooth image of 40 x 36 x 32 voxels: its header, voxels and affine as a plain file."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (40, 36, 32)), 2)
    voxels = (4000 * voxels).astype(np.int16)
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    affine[:3, 3] = (40, -30, -20)
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    return image.to_bytes()


@pytest.fixture(scope="module")
def stream(sound):
    """The same, compressed."""
    return gzip.compress(sound, mtime=0)


def outcome(path, reading=AS_IT_IS):
    """The volume, or None after a typed error that says everything; anything else is a crash."""
    began_s = time.monotonic()
    problem = volume = None
    try:
        volume = read_nifti(path, reading)
    except VolumeError as error:
        problem = error.problem
    assert time.monotonic() - began_s < MAX_SECONDS
    assert volume is not None or (problem.code and problem.found and problem.advice)
    return volume


def test_no_flipped_bit_of_a_compressed_file_changes_a_voxel_or_the_affine(
    tmp_path, sound, stream, mutants
):
    path, rng = tmp_path / "a.nii.gz", np.random.default_rng(1)
    path.write_bytes(stream)
    right = read_nifti(path)
    places = rng.integers(0, 8 * len(stream), min(10_000, mutants // 20))
    read = 0
    for place in [*range(8 * 18), *(int(place) for place in places)]:
        flipped = bytearray(stream)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        volume = outcome(path)
        if volume is not None:
            read += 1
            np.testing.assert_array_equal(volume.voxels, right.voxels)
            np.testing.assert_array_equal(volume.affine, right.affine)
    # Only bits of the gzip header that mean nothing (time, system) may flip unseen.
    assert read < 8 * 18


def test_no_cut_of_a_compressed_file_is_silent(tmp_path, stream, mutants):
    path, rng = tmp_path / "a.nii.gz", np.random.default_rng(2)
    lengths = rng.integers(0, len(stream), min(1000, mutants // 200))
    for length in [0, 1, 2, 9, 10, 17, 18, *range(len(stream) - 9, len(stream)), *lengths]:
        path.write_bytes(stream[: int(length)])
        assert outcome(path) is None, length


def mutated(content, rng):
    """One to three fields overwritten, by a value from the edge or by random bytes."""
    spoilt = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.choice(list(FIELDS)))
        layout = FIELDS[at]
        if rng.random() < 0.3:
            at = int(rng.integers(0, 352))
            spoilt[at] = int(rng.integers(0, 256))
        elif rng.random() < 0.4:
            spoilt[at : at + struct.calcsize(layout)] = rng.bytes(struct.calcsize(layout))
        else:
            edges = FLOATS if layout == "f" else INTEGERS[layout]
            struct.pack_into(f"<{layout}", spoilt, at, edges[int(rng.integers(len(edges)))])
    return bytes(spoilt)


def test_every_mutated_header_ends_in_a_sound_volume_or_a_typed_error(tmp_path, sound, mutants):
    path, rng = tmp_path / "a.nii", np.random.default_rng(3)
    read = 0
    for number in range(mutants):
        path.write_bytes(mutated(sound, rng))
        volume = outcome(path, ReadingSettings(strict=bool(number % 2), volume=0, magnitude=True))
        if volume is None:
            continue
        read += 1
        low, high = SPACING_LIMITS_MM
        assert np.isfinite(volume.voxels).all()
        assert np.isfinite(volume.affine).all()
        assert np.array_equal(volume.affine[3], [0, 0, 0, 1])
        assert low <= min(volume.spacing_mm) <= max(volume.spacing_mm) <= high
        axes = volume.affine[:3, :3] / volume.spacing_mm
        assert abs(np.linalg.det(axes)) > 0.29
        assert np.abs(volume.affine[:3, 3]).max() <= 1.1 * MAX_ORIGIN_MM
        if read % 50 == 0:
            assert all(finding.code for finding in inspect(volume))
    assert 0.1 * mutants < read < mutants
