"""Which contrast a DICOM series is, from its tags; what is in doubt is said, never guessed.

A scan is named by what its description says, checked against how it was measured (times of echo,
repetition and inversion). Where the words are silent, the physics decides if it can. The reasons
given are our own words: no text of a header is ever repeated.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeriesTags:
    """What tells the contrast of a series.

    Attributes:
        description: SeriesDescription.
        protocol: ProtocolName; of the whole examination with some makers.
        sequence_name: SequenceName or PulseSequenceName.
        image_type: ImageType.
        scanning_sequence: ScanningSequence: SE, GR, IR, EP.
        acquisition_type: MRAcquisitionType: 2D or 3D.
        contrast_agent: ContrastBolusAgent.
        body_part: BodyPartExamined.
        acquisition_contrast: AcquisitionContrast, of enhanced images.
        echo_time_ms: EchoTime.
        repetition_time_ms: RepetitionTime.
        inversion_time_ms: InversionTime.
        flip_angle_deg: FlipAngle.
        b_value: In s/mm².
        is_enhanced: Whether it is an enhanced multi-frame image.
    """

    description: str = ""
    protocol: str = ""
    sequence_name: str = ""
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    acquisition_type: str = ""
    contrast_agent: str = ""
    body_part: str = ""
    acquisition_contrast: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    b_value: float | None = None
    is_enhanced: bool = False


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^| )(?:{words})(?= |$)")


# Descriptions are compared in lower case, everything but letters, digits, + and * made a space.
NOT_A_CONTRAST = {
    "a localizer": _pattern(
        r"loc|loca|localizer|localiser|localizers|scout|scouts|survey|aahead\w*|smartbrain"
        r"|3 ?plane|tri ?planar|plan scan|planscan"
    ),
    "a spectroscopy": _pattern(r"svs|csi|mrs|spectroscopy|press"),
    "a functional or perfusion series": _pattern(
        r"bold|fmri|func|resting|task|asl|pcasl|pasl|perf|perfusion|dsc|dce|moco|r?cbf|r?cbv"
        r"|mtt|ttp|tmax|pbp"
    ),
    "an angiogram": _pattern(r"tof|angio|mra|mrv|venogram|pcangio|pca|inhance"),
    "a susceptibility image": _pattern(
        r"swi|swan|swip|qsm|t2\*\w*|t2 ?star|t2s|hemo\w*|haemo|gre hemo|swi\w*|venobold|blood"
    ),
    "a map or projection": _pattern(
        r"mip|minip|mips|proj\w*|sub|subtraction|subtracted|t1 ?map|t2 ?map|r1 ?map|r2 ?map"
        r"|pd ?map|mask|overlay|colou?r|synthetic|mpr range|phase|phasemap|magic"
    ),
    "a calibration": _pattern(
        r"cal|calib\w*|asset|ref|refscan|ref scan|shim|b0 ?map|b1 ?map|b1|tfl b1 ?map|field ?map\w*"
        r"|fmap|coil|prescan|noise|phantom|topup"
    ),
    "a steady-state image": _pattern(r"ciss|fiesta\w*|trufi\w*|bssfp|balanced|fisp|bffe"),
    "double inversion recovery": _pattern(r"dir|double ?ir|double inversion\w*"),
    "fat images or STIR": _pattern(r"stir|dixon f|fat fraction|fat only"),
    "not of the whole head": _pattern(
        r"spine|cspine|tspine|lspine|lumbar|thoracic|cervical|knee|liver|abdomen|pelvis|heart"
        r"|cardiac|prostate|breast|shoulder|orbits?|iac|pituitary|tmj|knie|ankle|wrist|elbow|foot"
        r"|thorax|lws|bws|hws"
    ),
}
# Words for parts of the body that are too short, or too common, to count in a description.
OTHER_BODY_PART = _pattern(
    r"chest|hip|leg|thigh|calf|hand|finger|toe|arm|upper ?arm|forearm|\w*extremit(?:y|ies)|humerus"
    r"|femur|tibia|tib ?fib|clavicle|scapula|rib|sternum|sacrum|coccyx|\w*spine|ls ?spine|kidneys?"
    r"|pancreas|spleen|uterus|bladder|aorta|stomach|colon|rectum|abdomen ?pelvis|chest ?abdomen"
    r"|bowel|scrotum|penis|fetus|placenta|hals ?ws|knie|huefte"
)
DIFFUSION = _pattern(
    r"dwi\w*|diff\w*|dti\w*|hardi|trace\w*|tracew|adc\w*|eadc|dadc|isodwi|resolve|noddi"
    r"|b ?\d{3,4}\w*|ep2d diff|fa$|colfa|tensor|apparent diffusion\w*|exponential|b ?0"
)
ADC = _pattern(r"adc\w*|dadc|apparent diffusion\w*")
DERIVED_DIFFUSION = _pattern(r"eadc|exp|exponential\w*|fa|colfa|tensor|cfa|rgb")
TRACE = _pattern(r"trace\w*|tracew|isodwi|iso|isotropic|dwi trace|combined")
WEIGHTINGS = {
    "FLAIR": _pattern(r"(?:t2 ?)?\w*flair\w*|dark ?fluid|da fl|t2f|fluid attenuated"),
    "T1w": _pattern(
        r"t1|t1w\w*|t1 ?weighted|t1n|t1ce|t1c|t1gd|mp ?rage\w*|mprage\w*|mp2rage|bravo|\w*spgr\w*"
        r"|\*?tfl3d\w*|tfl|memprage|st1w\w*"
    ),
    "T2w": _pattern(r"t2|s?t2w\w*|t2 ?weighted|t2n|t2tse|t2fse"),
    "PD": _pattern(r"pd|pdw\w*|dp|proton|proton density\w*|rho"),
}
AFTER_AGENT = _pattern(
    r"post\w*|gd|\w*gado\w*|gad|gd dtpa|\+c|c\+|\+ ?gd|\+ ?c|\+|ce|t1ce|t1c|t1gd|km|mit km|nach km"
    r"|contrast|w contrast|with contrast|enhanced|c ?\+|dotarem|magnevist|gadavist|prohance"
    r"|\+gad\w*"
)
BEFORE_AGENT = _pattern(
    r"pre|pre ?contrast|precontrast|w ?o|wo|without|no contrast|non ?contrast|nativ|native|nc"
    r"|ohne km|unenhanced|c\-"
)
NO_AGENT = {"", "none", "no", "n a", "na", "0", "null", "nil", "without", "unknown", "no contrast"}
DERIVED_TYPES = {
    "MIP", "MINIP", "PROJECTION IMAGE", "MNIP", "SUBTRACTION", "FA", "EADC", "EXPONENTIAL",
    "T1 MAP", "T2 MAP", "PD MAP", "T1_MAP", "T2_MAP", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBV",
    "RCBF", "PBP", "GBP", "FMRI", "ASL", "PERFUSION", "TENSOR", "TENSOR_B0", "RGB",
    "CSA REPORT", "SCREEN SAVE", "SCREENSAVE", "CSAPARALLEL", "R2", "R2_UNSPECIFIED", "T2_STAR_MAP",
}  # fmt: skip
PHASE_TYPES = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "P_FFE", "P_SE", "P_IR"}
# Limits of b in s/mm²: below, an image without diffusion; above, one that shows it.
MAX_PLAIN_B = 50.0
MIN_DIFFUSION_B = 500.0


def contrast_of_series(tags: SeriesTags) -> tuple[str, str]:
    """The contrast of a series.

    Args:
        tags: Of its first slice.

    Returns:
        T1w, T1ce, T2w, FLAIR, PD, DWI, ADC or "" where it is none of them or in doubt, and why.
    """
    if reason := _why_none(tags):
        return "", reason
    if contrast := _diffusion(tags):
        return contrast
    sources = {
        "description": tags.description,
        "protocol name": tags.protocol,
        "sequence name": tags.sequence_name,
        "acquisition contrast": tags.acquisition_contrast,
    }
    for where, source in sources.items():
        text = _plain(source)
        if named := [name for name, pattern in WEIGHTINGS.items() if pattern.search(text)]:
            return _named(named, text, where, tags)
    return _measured(tags)


def _plain(source: str) -> str:
    """Lower case; letters and digits apart from other signs; `+` and `*` kept."""
    text = re.sub(r"[^a-z0-9+*\-]+", " ", source.lower().replace("w/o", "wo").replace("w/", "w "))
    text = re.sub(r"(?<!c)-|-(?=\w)", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def _why_none(tags: SeriesTags) -> str:
    kinds = {kind.strip().upper() for kind in tags.image_type}
    if any(kind.startswith("LOCALIZER") for kind in kinds):
        return "a localizer, by its image type"
    if kinds & PHASE_TYPES:
        return "phase, real or imaginary part, by its image type"
    if "MOSAIC" in kinds:
        return "a series of volumes, each laid out as a mosaic of its slices, by its image type"
    if kinds & DERIVED_TYPES:
        return "a derived map, by its image type"
    text = _plain(tags.description)
    for what, pattern in NOT_A_CONTRAST.items():
        if pattern.search(text):
            return f"{what}, by its description"
    part = _plain(tags.body_part)
    if NOT_A_CONTRAST["not of the whole head"].search(part) or OTHER_BODY_PART.search(part):
        return "not of the whole head, by its body part"
    return _why_no_mp2rage(text)


def _why_no_mp2rage(text: str) -> str:
    if "mp2rage" in text and not re.search(r"(?:^| )uni", text):
        return "a part of an MP2RAGE other than its uniform image, by its description"
    return ""


def _diffusion(tags: SeriesTags) -> tuple[str, str] | None:
    """The contrast where it is a diffusion series, else None."""
    kinds = {kind.strip().upper() for kind in tags.image_type}
    text = _plain(tags.description)
    b = tags.b_value if tags.b_value is not None and math.isfinite(tags.b_value) else None
    if kinds & {"ADC", "ADC_UNSPECIFIED"}:
        return "ADC", "by its image type"
    is_diffusion = "DIFFUSION" in kinds or bool(DIFFUSION.search(text)) or (b or 0) > MAX_PLAIN_B
    if not is_diffusion:
        return None
    if DERIVED_DIFFUSION.search(text):
        return "", "a map derived from diffusion, by its description"
    if ADC.search(text):
        return "ADC", "by its description"
    if b is not None and b <= MAX_PLAIN_B:
        return "", "the image without diffusion (b = 0) of a diffusion series"
    if b is not None and b >= MIN_DIFFUSION_B:
        return "DWI", f"b = {b:.0f} s/mm²"
    if "TRACEW" in kinds or TRACE.search(text):
        return "DWI", "a trace image, by its image type or description"
    return "", "a diffusion series whose b-value is low or not given"


def _named(named: list[str], text: str, where: str, tags: SeriesTags) -> tuple[str, str]:
    """The contrast of a series whose text names one or more weightings."""
    measured, _ = _measured(tags)
    if "FLAIR" in named:
        return _flair(text, where, tags)
    if len(named) > 1:
        one = "T1w" if measured == "T1ce" else measured
        if one in named:
            return _with_agent(one, text, where, tags, " and its times")
        return "", f"in doubt: the {where} names {' and '.join(named)}"
    return _with_agent(named[0], text, where, tags, "")


def _flair(text: str, where: str, tags: SeriesTags) -> tuple[str, str]:
    echo, inversion = tags.echo_time_ms, tags.inversion_time_ms
    is_t1 = bool(_pattern("t1|t1w|t1flair").search(text))
    short = (echo is not None and echo < 50) and (inversion is not None and inversion < 1400)
    if is_t1 and (short or echo is None or echo < 50):
        return _with_agent("T1w", text, where, tags, " (T1 FLAIR)")
    if is_t1 or short:
        return "", f"in doubt: the {where} names FLAIR, but T1 or its times say otherwise"
    return "FLAIR", f"by its {where}"


def _with_agent(
    weighting: str, text: str, where: str, tags: SeriesTags, also: str
) -> tuple[str, str]:
    """T1w becomes T1ce after a contrast agent; words and times that disagree are a doubt."""
    if why := _contradiction(weighting, tags):
        return "", f"in doubt: the {where} names {weighting}, but {why}"
    if weighting != "T1w":
        return weighting, f"by its {where}{also}"
    before, after = bool(BEFORE_AGENT.search(text)), bool(AFTER_AGENT.search(text))
    given = _plain(tags.contrast_agent) not in NO_AGENT
    if before and (given or (after and not _pattern("contrast|km").search(text))):
        return "", f"in doubt: the {where} names T1w both before and after a contrast agent"
    if before:
        return "T1w", f"by its {where}{also}"
    if after:
        return "T1ce", f"after a contrast agent, by its {where}{also}"
    if given:
        return "T1ce", f"T1w by its {where}{also}, and a contrast agent is recorded"
    return "T1w", f"by its {where}{also}"


def _contradiction(weighting: str, tags: SeriesTags) -> str:
    echo = tags.echo_time_ms
    if echo is None or not math.isfinite(echo) or echo <= 0:
        return ""
    if weighting in ("T1w", "PD") and echo > 60:
        return f"its echo time is {echo:.0f} ms"
    if weighting == "T2w" and echo < 40:
        return f"its echo time is {echo:.0f} ms"
    return ""


def _measured(tags: SeriesTags) -> tuple[str, str]:
    """The contrast by the physics alone, where that is clear."""
    echo, repetition = tags.echo_time_ms or 0.0, tags.repetition_time_ms or 0.0
    inversion = tags.inversion_time_ms or 0.0
    sequences = {name.strip().upper() for name in tags.scanning_sequence}
    if not (math.isfinite(echo + repetition + inversion) and echo > 0 and repetition > 0):
        return "", "in doubt: no word for it, and no echo and repetition time"
    given = _plain(tags.contrast_agent) not in NO_AGENT
    t1 = "T1ce" if given else "T1w"
    if "GR" in sequences and 500 <= inversion <= 1400 and echo < 10:
        return t1, "an inversion-prepared gradient echo, by its times"
    if "SE" not in sequences or "EP" in sequences:
        return "", "in doubt: no word for it, and its times leave several contrasts"
    if repetition <= 1000 and echo <= 30 and not inversion:
        return t1, "a spin echo of short times"
    if repetition >= 4000 and inversion >= 1500 and echo >= 70:
        return "FLAIR", "a spin echo with an inversion that nulls fluid"
    if repetition >= 1800 and not inversion and echo >= 70:
        return "T2w", "a spin echo of long times"
    if repetition >= 1800 and not inversion and echo <= 40:
        return "PD", "a spin echo of long repetition and short echo time"
    return "", "in doubt: no word for it, and its times leave several contrasts"
