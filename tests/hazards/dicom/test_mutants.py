"""Random damage to DICOM headers: a typed end, never a crash, a hang or an untyped exception."""

from __future__ import annotations

import random
import time

import pytest

from brainsegfounder.errors import DataError, Problem, VolumeError
from brainsegfounder.volumes.dicom import importer as dicom
from brainsegfounder.volumes.dicom.series import affine_of

NUM_MUTANTS = 120
PIXEL_BYTES = 64 * 48 * 2


def mutant(content, header_bytes, rng):
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place = rng.randrange(header_bytes)
        changed[place] = rng.choice([0, 255, changed[place] ^ 1 << rng.randrange(8)])
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_damaged_headers_end_in_a_typed_error_or_a_sound_volume(
    scanner, enhanced, monkeypatch, kind
):
    accepted = []

    def not_converted(stack, name):
        accepted.append(affine_of(stack))
        raise VolumeError(Problem("stopped_here", name, "", "", ""))

    monkeypatch.setattr(dicom, "convert", not_converted)
    rng, series = random.Random(0), scanner.series()
    series.keep(range(6))
    if kind == "classic":
        path = series.write() / "002.dcm"
        header_bytes = path.stat().st_size - PIXEL_BYTES
    else:
        path = scanner.source / "a.dcm"
        enhanced(series).save_as(path)
        header_bytes = path.stat().st_size - 6 * PIXEL_BYTES
    sound = path.read_bytes()
    slowest_s, typed = 0.0, 0
    for _ in range(NUM_MUTANTS):
        path.write_bytes(mutant(sound, header_bytes, rng))
        start = time.monotonic()
        with pytest.raises(DataError) as caught:
            dicom.import_dicom(scanner.source, scanner.out)
        typed += caught.value.problem is not None
        slowest_s = max(slowest_s, time.monotonic() - start)
    assert typed == NUM_MUTANTS
    assert slowest_s < 5
    spacings = [(abs(affine[:3, :3]) ** 2).sum(axis=0) ** 0.5 for affine in accepted]
    assert accepted
    assert all(spacing.min() >= 0.1 and spacing.max() <= 20 for spacing in spacings)
