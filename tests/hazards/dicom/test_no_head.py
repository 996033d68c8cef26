"""Series that show no head, or several volumes: left aside or refused, with the reason."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydicom.uid import generate_uid

from brainsegfounder.volumes.dicom.importer import import_dicom


def imported_beside_a_head(scanner):
    """What becomes of the other series where one of a head is there, too."""
    scanner.series(patient="p2", number=9, BodyPartExamined="HEAD").write()
    result = import_dicom(scanner.source, scanner.out)
    assert [one.contrast for one in result.series if one.outcome == "converted"] == ["T1w"]
    assert len(result.cases) == 1
    return result


@pytest.mark.parametrize(
    "part",
    ["KNEE", "LEG", "HIP", "FOOT", "ANKLE", "HAND", "WRIST", "ELBOW", "SHOULDER", "CHEST", "HEART",
     "ABDOMEN", "ABDOMENPELVIS", "PELVIS", "BREAST", "CSPINE", "LSSPINE", "LOWER EXTREMITY"],
)  # fmt: skip
def test_I65_a_series_of_another_part_of_the_body_is_left_aside(scanner, part):
    scanner.series(BodyPartExamined=part).write()
    result = imported_beside_a_head(scanner)
    [aside] = [one for one in result.series if one.outcome == "aside"]
    assert aside.reason == "not of the whole head, by its body part"
    assert [finding.code for finding in result.findings] == ["dicom_no_contrast"]


@pytest.mark.parametrize(
    "words", ["t1_tse_sag Knie", "pd_tse_fs_cor_knee", "t2_tse LWS", "T1 foot"]
)
def test_I65_so_is_one_whose_description_says_so(scanner, words):
    scanner.series(words).write()
    [aside] = [one for one in imported_beside_a_head(scanner).series if one.outcome == "aside"]
    assert aside.reason == "not of the whole head, by its description"


@pytest.mark.parametrize("part", ["", "HEAD", "BRAIN", "SKULL", "HEADNECK", "NECK", "WHOLEBODY"])
def test_a_series_that_may_show_a_head_is_converted(scanner, part):
    scanner.series(BodyPartExamined=part).write()
    assert len(import_dicom(scanner.source, scanner.out).cases) == 1


def test_a_mosaic_is_left_aside_by_that_name(scanner):
    scanner.series("t1_x", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]).write()
    [aside] = [one for one in imported_beside_a_head(scanner).series if one.outcome == "aside"]
    assert "a mosaic of its slices" in aside.reason


@pytest.mark.parametrize(
    "counted_by", ["TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber"]
)
def test_a_time_series_is_refused_and_not_laid_in_one_volume(scanner, counted_by):
    series = scanner.series("t1_vibe")
    moments = []
    for moment in range(3):
        for one in series.slices:
            later = copy.deepcopy(one)
            later.SOPInstanceUID = generate_uid()
            later.file_meta.MediaStorageSOPInstanceUID = later.SOPInstanceUID
            later.InstanceNumber = len(moments) + 1
            setattr(later, counted_by, moment + 1)
            pixels = np.frombuffer(one.PixelData, np.int16) + np.int16(moment)
            later.PixelData = pixels.tobytes()
            later["PixelData"].VR = "OW"
            moments.append(later)
    series.slices = moments
    series.write()
    [problem] = imported_beside_a_head(scanner).problems
    assert problem.code == "dicom_several_volumes"
    assert "40 slices at the place of another" in problem.found
