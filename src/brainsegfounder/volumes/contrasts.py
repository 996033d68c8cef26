"""Contrasts: one name for each, whatever files, folders, sidecars and scanners call them.

`find_contrast` knows whole spellings (`t1n`, `T2_FLAIR`, `PDw`), `contrast_in_words` finds a
contrast in a longer name (`MPRAGE_GradWarp`, `Axial T2 FLAIR post`), `contrast_in_sidecar` in the
JSON file that a converter leaves beside a scan. Each says nothing rather than guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from brainsegfounder.errors import ContrastError

# Spellings seen in names (lower case, without separators), for the names used everywhere.
CONTRAST_SYNONYMS = MappingProxyType(
    {
        "t1": "T1w", "t1w": "T1w", "t1n": "T1w", "mprage": "T1w", "t1mprage": "T1w",
        "t1ce": "T1ce", "t1c": "T1ce", "t1gd": "T1ce", "t1post": "T1ce", "t1wce": "T1ce",
        "t1contrast": "T1ce", "t1wpost": "T1ce",
        "t2": "T2w", "t2w": "T2w",
        "flair": "FLAIR", "t2f": "FLAIR", "t2flair": "FLAIR", "t2wflair": "FLAIR",
        "pd": "PD", "pdw": "PD",
        "t2s": "T2starw", "t2star": "T2starw", "t2starw": "T2starw",
        "swi": "SWI", "swan": "SWI",
        "dwi": "DWI", "trace": "DWI", "adc": "ADC",
        "mra": "MRA", "tof": "MRA", "angio": "MRA",
    }
)  # fmt: skip
CONTRASTS = tuple(dict.fromkeys(CONTRAST_SYNONYMS.values()))

# Words that tell the contrast of a longer name; the first group with a word in the name decides.
WORDS = (
    ({"flair", "darkfluid", "tirm"}, "FLAIR"),
    ({"adc"}, "ADC"),
    ({"swi", "swan", "venbold"}, "SWI"),
    ({"tof", "mra", "angio"}, "MRA"),
    ({"t2star", "t2s", "hemo"}, "T2starw"),
    ({"dwi", "trace", "tracew"}, "DWI"),
)
T1_WORDS = {"t1", "t1w", "mprage", "mpr", "rage", "spgr", "fspgr", "bravo", "tfe", "ffe3d"}
T2_WORDS = {"t2", "t2w"}
PD_WORDS = {"pd", "pdw", "proton"}
AGENT_WORDS = {"post", "gd", "gad", "gado", "gadolinium", "contrast", "ce", "c", "km", "postgd"}
# Series that hold no anatomy of one contrast, though their names may tell one.
OTHER_WORDS = {
    "b1map", "calibration", "cal", "dti", "fieldmap", "fmri", "localizer", "localiser", "loc",
    "mapit", "perfusion", "phase", "pha", "rest", "scout", "survey", "t1map", "t2map",
}  # fmt: skip
FREE_TEXT = ("SeriesDescription", "ProtocolName")
AGENT_FIELDS = ("ContrastBolusIngredient", "ContrastBolusAgent")


@lru_cache(maxsize=4096)  # a cohort spells its few contrasts alike
def find_contrast(spelling: str) -> str | None:
    """The standard name of a contrast for one of its spellings, or None."""
    return CONTRAST_SYNONYMS.get(re.sub(r"[^a-z0-9]", "", _without_star(spelling)))


def contrast_name(spelling: str) -> str:
    """The standard name of a contrast for any of its spellings.

    Raises:
        ContrastError: The spelling is not known.
    """
    name = find_contrast(spelling)
    if name is None:
        raise ContrastError(
            f"{spelling}: unknown contrast; expected one of {', '.join(CONTRASTS)} "
            f"or a spelling of them ({', '.join(CONTRAST_SYNONYMS)})."
        )
    return name


def contrast_in_words(text: str) -> str | None:
    """The contrast that a longer name or a series description tells, or None where it tells two.

    A T1 with a word for a contrast agent is a T1ce, unless another word takes it back.
    """
    words = {word for word in re.split(r"[^a-z0-9]+", _without_star(text)) if word}
    if words & OTHER_WORDS or (words & T1_WORDS and "flair" in words):  # GE's T1 FLAIR is a T1w
        return None
    for group, name in WORDS:
        if words & group:
            return name
    agent = bool(words & AGENT_WORDS)
    found = [
        name
        for group, name in ((T1_WORDS, "T1w"), (T2_WORDS, "T2w"), (PD_WORDS, "PD"))
        if words & group
    ]
    if len(found) != 1 or (agent and words & {"pre", "without", "wo"}):
        return None
    return "T1ce" if found == ["T1w"] and agent else found[0]


def contrast_in_sidecar(sidecar: Mapping[str, Any]) -> str | None:
    """The contrast that a BIDS or dcm2niix sidecar tells, or None where it is silent or in doubt.

    Descriptions come first; without any word in them the times of the sequence decide, in bands
    that leave the middle ground alone. A contrast agent makes a T1w a T1ce.

    Args:
        sidecar: Fields of the JSON file; times in seconds, as BIDS and dcm2niix write them.
    """
    told = {contrast_in_words(str(sidecar[key])) for key in FREE_TEXT if sidecar.get(key)} - {None}
    if len(told) > 1:
        return None
    name = told.pop() if told else _contrast_of_times(sidecar)
    return "T1ce" if name == "T1w" and has_agent(sidecar) else name


def has_agent(sidecar: Mapping[str, Any]) -> bool:
    """Whether a sidecar names a contrast agent."""
    none = {"", "none", "no", "n/a", "na"}
    return any(str(sidecar.get(key) or "").strip().lower() not in none for key in AGENT_FIELDS)


def _without_star(text: str) -> str:
    return text.lower().replace("t2*", "t2star")


def _contrast_of_times(sidecar: Mapping[str, Any]) -> str | None:
    """By echo, repetition and inversion time in seconds: textbook bands, with gaps between them."""
    echo_s, repetition_s, inversion_s = (
        value if isinstance(value := sidecar.get(key), int | float) else None
        for key in ("EchoTime", "RepetitionTime", "InversionTime")
    )
    if echo_s is None or repetition_s is None:
        return None
    if inversion_s is not None and inversion_s >= 1.5 and echo_s >= 0.07 and repetition_s >= 4:
        return "FLAIR"
    if inversion_s is not None and inversion_s <= 1.3 and echo_s <= 0.01:
        return "T1w"
    if inversion_s is None and echo_s >= 0.07 and repetition_s >= 2:
        return "T2w"
    return None
