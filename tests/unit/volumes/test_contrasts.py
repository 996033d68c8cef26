import pytest

from brainsegfounder.errors import ContrastError
from brainsegfounder.volumes.contrasts import (
    contrast_in_sidecar,
    contrast_in_words,
    contrast_name,
    find_contrast,
)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("t1n", "T1w"), ("T1CE", "T1ce"), ("t2f", "FLAIR"), ("T2", "T2w"), ("T2_FLAIR", "FLAIR"),
        ("PDw", "PD"), ("T2*", "T2starw"), ("angio", "MRA"), ("t1-gd", "T1ce"), ("ADC", "ADC"),
    ],
)  # fmt: skip
def test_every_spelling_has_one_standard_name(spelling, name):
    assert contrast_name(spelling) == name


def test_an_unknown_contrast_lists_the_known_spellings():
    assert find_contrast("bold") is None
    with pytest.raises(ContrastError, match=r"bold: unknown contrast; expected one of T1w, T1ce"):
        contrast_name("bold")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("MP-RAGE", "T1w"), ("Accelerated_SAG_IR-FSPGR", "T1w"), ("T1 FLAIR", None),
        ("MPR-R__GradWarp__B1_Correction__N3", "T1w"), ("Sag 3D FLAIR", "FLAIR"),
        ("MPRAGE_GradWarp__N3__Scaled", "T1w"), ("Axial_T2_FLAIR", "FLAIR"),
        ("Axial_PD_T2_FSE", None), ("Axial T2* GRE", "T2starw"), ("t1_mprage_post_gd", "T1ce"),
        ("T1 pre contrast", None), ("ep2d_diff_ADC", "ADC"), ("localizer T1", None),
        ("rest_bold", None), ("B1_Calibration_Body T1", None), ("TOF_3D", "MRA"), ("", None),
    ],
)  # fmt: skip
def test_a_series_tells_one_contrast_or_nothing(words, name):
    assert contrast_in_words(words) == name


@pytest.mark.parametrize(
    ("sidecar", "name"),
    [
        ({"SeriesDescription": "t1_mprage", "ContrastBolusIngredient": "GADOLINIUM"}, "T1ce"),
        ({"SeriesDescription": "t1_mprage", "ContrastBolusIngredient": "NONE"}, "T1w"),
        ({"SeriesDescription": "T1", "ProtocolName": "T2"}, None),
        ({"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9}, "T1w"),
        ({"EchoTime": 0.09, "RepetitionTime": 9.0, "InversionTime": 2.5}, "FLAIR"),
        ({"EchoTime": 0.1, "RepetitionTime": 6.0}, "T2w"),
        ({"EchoTime": 0.03, "RepetitionTime": 2.0}, None),
        ({"EchoTime": "short", "RepetitionTime": None}, None),
        ({}, None),
    ],
)
def test_a_sidecar_tells_a_contrast_by_its_words_and_else_by_clear_times(sidecar, name):
    assert contrast_in_sidecar(sidecar) == name
