"""The contrast of a series from its tags: a table of cases in the style of the makers."""

from __future__ import annotations

import pytest

from brainsegfounder.volumes.dicom.contrast import SeriesTags, contrast_of_series

SE, GR, IR = ("SE",), ("GR", "IR"), ("SE", "IR")
MPRAGE = {
    "scanning_sequence": GR,
    "echo_time_ms": 2.98,
    "repetition_time_ms": 2300.0,
    "inversion_time_ms": 900.0,
}


def spin_echo(repetition_ms, echo_ms, inversion_ms=None):
    return {
        "scanning_sequence": SE if inversion_ms is None else IR,
        "repetition_time_ms": repetition_ms,
        "echo_time_ms": echo_ms,
        "inversion_time_ms": inversion_ms,
    }


NAMED = [
    ("T1w", "t1_mprage_sag_p2_iso", MPRAGE),
    ("T1w", "MPRAGE", {}),
    ("T1w", "anat-T1w", {}),
    ("T1w", "Sag 3D BRAVO", {}),
    ("T1w", "Ax FSPGR 3D", {}),
    ("T1w", "T1W_3D_TFE", {}),
    ("T1w", "sT1W_3D_TFE", {}),
    ("T1w", "t1_mp2rage_sag_UNI_Images", {}),
    ("T1w", "Ax T1 FLAIR", spin_echo(2100, 24, 860)),
    ("T1w", "AX T1 W/O CONTRAST", {}),
    ("T1w", "Ax T1 pre contrast", {}),
    ("T1w", "t1 nativ", {}),
    ("T1w", "t1_se_tra", {"contrast_agent": "NONE"}),
    ("T1ce", "t1_mprage_sag_p2_iso_KM", MPRAGE),
    ("T1ce", "MPRAGE post Gd", {}),
    ("T1ce", "Ax T1 +C", {}),
    ("T1ce", "AX T1 C+", {}),
    ("T1ce", "T1 SE TRA +GD", {}),
    ("T1ce", "sT1W_3D_TFE_post", {}),
    ("T1ce", "Sag 3D BRAVO", {"contrast_agent": "GADAVIST"}),
    ("T2w", "t2_tse_tra_p2", spin_echo(5000, 95)),
    ("T2w", "T2W_TSE", {}),
    ("T2w", "T2W_TSE SENSE", {}),
    ("T2w", "Ax T2 FSE", {}),
    ("T2w", "t2_space_sag_p2_iso", spin_echo(3200, 408)),
    ("T2w", "pd+t2_tse_tra", spin_echo(3000, 101)),
    ("PD", "pd+t2_tse_tra", spin_echo(3000, 13)),
    ("PD", "PD_TSE", {}),
    ("PD", "Proton density", {}),
    ("FLAIR", "t2_space_dark-fluid_sag_p2_iso", {}),
    ("FLAIR", "SPACE FLAIR", spin_echo(5000, 390, 1800)),
    ("FLAIR", "t2_tirm_tra_dark-fluid_4mm", {}),
    ("FLAIR", "Sag CUBE T2 FLAIR FS", {}),
    ("FLAIR", "3D_FLAIR_VISTA", {}),
    ("DWI", "ep2d_diff_3scan_trace_p2_TRACEW", {"b_value": 1000.0}),
    ("DWI", "ep2d_diff_trace_b1000", {}),
    ("DWI", "Ax DWI", {"b_value": 1000.0}),
    ("ADC", "ep2d_diff_3scan_trace_p2_ADC", {}),
    ("ADC", "Apparent Diffusion Coefficient (mm2/s)", {}),
    ("ADC", "dReg", {"image_type": ("DERIVED", "PRIMARY", "ADC")}),
    # The physics, where words are silent.
    ("T1w", "series 4", MPRAGE),
    ("T1w", "", spin_echo(550, 12)),
    ("T1ce", "", spin_echo(550, 12) | {"contrast_agent": "Dotarem"}),
    ("T2w", "Foo", spin_echo(5000, 95)),
    ("PD", "Foo", spin_echo(2500, 15)),
    ("FLAIR", "Foo", spin_echo(9000, 110, 2500)),
    # The protocol counts only where the description is silent.
    ("T1w", "", {"protocol": "t1_mpr_ns"}),
    ("T2w", "t2_tse", {"protocol": "BRAIN T1 W CONTRAST"}),
    ("FLAIR", "x", {"acquisition_contrast": "FLUID_ATTENUATED"}),
]

NONE_OF_THEM = [
    ("localizer", {}, "localizer"),
    ("3-plane loc", {}, "localizer"),
    ("AAHead_Scout_MPR_sag", {}, "localizer"),
    ("t1", {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
    ("Ax T2* GRE", {}, "susceptibility"),
    ("SWI_Images", {}, "susceptibility"),
    ("tof_fl3d_tra", {}, "angiogram"),
    ("ep2d_bold_rest", {}, "functional"),
    ("eADC", {}, "derived from diffusion"),
    ("FA", {}, "derived from diffusion"),
    ("DTI 64 dir", {}, "recovery|b-value"),
    ("ep2d_diff", {"b_value": 0.0}, "without diffusion"),
    ("t1_mp2rage_sag_INV1", {}, "MP2RAGE"),
    ("T1 MIP", {}, "projection"),
    ("STIR", {}, "STIR"),
    ("t1 lumbar spine", {}, "not of the whole head"),
    ("t1", {"body_part": "CSPINE"}, "not of the whole head"),
    ("t1", {"image_type": ("DERIVED", "SECONDARY", "P")}, "phase"),
]

IN_DOUBT = [
    ("Foo", {}),
    ("", {}),
    ("pd+t2_tse_tra", {}),
    ("T2 weird", {"echo_time_ms": 12.0}),
    ("T1 weird", {"echo_time_ms": 112.0}),
    ("Sag T1 PRE", {"contrast_agent": "GADAVIST"}),
    ("FLAIR", spin_echo(2100, 24, 860)),
    ("Foo", {"scanning_sequence": ("GR",), "echo_time_ms": 5.0, "repetition_time_ms": 30.0}),
    ("Foo", spin_echo(5000, float("nan"))),
]


@pytest.mark.parametrize(("contrast", "description", "tags"), NAMED)
def test_a_series_is_named_by_its_words_and_its_physics(contrast, description, tags):
    found, reason = contrast_of_series(SeriesTags(description=description, **tags))
    assert found == contrast, reason
    assert reason


@pytest.mark.parametrize(("description", "tags", "why"), NONE_OF_THEM)
def test_what_is_no_contrast_is_said_to_be_none(description, tags, why):
    contrast, reason = contrast_of_series(SeriesTags(description=description, **tags))
    assert contrast == ""
    assert any(word in reason for word in why.split("|"))
    assert not reason.startswith("in doubt")


@pytest.mark.parametrize(("description", "tags"), IN_DOUBT)
def test_doubt_is_said_and_never_guessed(description, tags):
    contrast, reason = contrast_of_series(SeriesTags(description=description, **tags))
    assert contrast == ""
    assert reason.startswith("in doubt")


@pytest.mark.parametrize("word", ["SECRETNAME", "t1 SECRETNAME", "SECRETNAME flair dwi"])
def test_reasons_never_repeat_the_text_of_a_header(word):
    tags = SeriesTags(description=word, protocol=word, sequence_name=word, contrast_agent=word)
    assert "SECRET" not in contrast_of_series(tags)[1].upper()
