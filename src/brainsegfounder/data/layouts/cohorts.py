"""Layouts in which folders say who and when: UK Biobank, HCP, ABIDE, ADNI, OASIS-1."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from brainsegfounder.data.layouts.gather import Item, Refused, Scan
from brainsegfounder.data.layouts.tree import Tree
from brainsegfounder.errors import Problem
from brainsegfounder.volumes.contrasts import contrast_in_words
from brainsegfounder.volumes.nifti import stem

UKB = re.compile(
    r"(?:^|/)(?P<subject>\d{4,8})_(?P<field>20252|20253)_(?P<instance>\d+)_\d+/(?:T1/|T2_FLAIR/)?"
    r"(?P<name>[^/]+)\.nii(\.gz)?$"
)
# What UK Biobank's own pipeline wrote, most prepared first; both contrasts are taken at one level.
UKB_LEVELS = (
    {"T1_brain_to_MNI": "T1w", "T2_FLAIR_brain_to_MNI": "FLAIR"},
    {"T1_brain": "T1w", "T2_FLAIR_brain": "FLAIR"},
    {"T1": "T1w", "T2_FLAIR": "FLAIR"},
)
UKB_BRAIN_MASK = "T1_brain_mask"
UKB_NAMES = {name for level in UKB_LEVELS for name in level}
HCP = re.compile(
    r"(?:^|/)(?P<subject>\d{6})/T1w/(?:(?P<contrast>T[12]w)_acpc_dc_restore(?P<brain>_brain)?"
    r"|(?P<mask>brainmask_fs))\.nii(\.gz)?$"
)
ABIDE = re.compile(
    r"(?:^|/)(?:(?P<folder>[^/]+)/)?(?P<subject>(?:(?P<site>[A-Za-z][^/]*?)_)?\d{5,7})/"
    r"session_(?P<session>\d+)/anat_(?P<repeat>\d+)/(?:mprage|anat)\.nii(\.gz)?$"
)
ADNI = re.compile(
    r"(?:^|/)(?P<subject>(?P<site>\d{3})_S_\d{4,5})/(?P<series>[^/]+)/"
    r"(?P<date>\d{4}-\d{2}-\d{2}[^/]*)/(?P<image>[IS]\d+)/[^/]+\.nii(\.gz)?$"
)
OASIS1 = re.compile(
    r"(?:^|/)(?P<subject>OAS1_\d{4})_(?P<session>MR\d)/(?:PROCESSED/MPRAGE/(?P<space>SUBJ_111|T88_111)"
    r"|(?P<raw>RAW))/[^/]+\.img$"
)


def read_ukb(tree: Tree) -> Iterator[Item]:
    """UK Biobank bulk: `EID_20252_2_0/[T1/]T1_brain_to_MNI.nii.gz`, FLAIR in 20253 alike.

    With or without the folder `T1` or `T2_FLAIR`, as unzips differ. The instance is the session.
    Both contrasts are taken at the same stage of the pipeline, so that they share a grid.
    """
    sessions: dict[tuple[str, str], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, name in zip(tree.scans, tree.scan_names, strict=True):
        if (match := UKB.search(name)) and match["name"] in UKB_NAMES | {UKB_BRAIN_MASK}:
            sessions[match["subject"], match["instance"]][match["name"]].append(path)
    for (subject, instance), files in sessions.items():
        case = f"{subject}_{instance}"
        level = _ukb_level(files)
        if level is None:
            yield Refused(case, _only_a_mask(case))
            continue
        for name, contrast in level.items():
            for path in files.get(name, []):
                yield Scan(case, subject, path, contrast, session=instance)
        if level is not UKB_LEVELS[0]:
            for path in files.get(UKB_BRAIN_MASK, []):
                yield Scan(case, subject, path, role="brain")


def read_hcp(tree: Tree) -> Iterator[Item]:
    """HCP Young Adult: `100307/T1w/T1w_acpc_dc_restore_brain.nii.gz`, T2w beside it.

    The brain-extracted scan is taken where it is there, the whole head otherwise.
    """
    matches = [
        (m, p) for p, n in zip(tree.scans, tree.scan_names, strict=True) if (m := HCP.search(n))
    ]
    stripped = {(m["subject"], m["contrast"]) for m, _ in matches if m["brain"]}
    for match, path in matches:
        subject = match["subject"]
        if match["mask"]:
            yield Scan(subject, subject, path, role="brain")
        elif match["brain"] or (subject, match["contrast"]) not in stripped:
            yield Scan(subject, subject, path, match["contrast"])


def read_abide(tree: Tree) -> Iterator[Item]:
    """ABIDE I and II: `Caltech_0051456/session_1/anat_1/mprage.nii.gz`; the site is in the folder.

    In ABIDE II the site is the folder above: `ABIDEII-BNI_1/29006/session_1/anat_1/anat.nii.gz`.
    """
    for path, name in zip(tree.scans, tree.scan_names, strict=True):
        if match := ABIDE.search(name):
            site = match["site"] or match["folder"] or ""
            case = f"{match['subject']}_session-{match['session']}"
            repeat = f"anat-{match['repeat']}"
            yield Scan(
                case,
                match["subject"],
                path,
                "T1w",
                session=match["session"],
                site=site,
                repeat=repeat,
            )


def read_adni(tree: Tree) -> Iterator[Item]:
    """ADNI from LONI: `002_S_0295/MPRAGE/2011-06-02_07_56_36.0/I240811/*.nii`.

    Visits are numbered in order of their dates, which stay unsaid. The contrast is told by the
    name of the series; repeats at one visit become cases of their own.
    """
    matches = [
        (m, p) for p, n in zip(tree.scans, tree.scan_names, strict=True) if (m := ADNI.search(n))
    ]
    days: dict[str, list[str]] = defaultdict(list)
    for subject, day in sorted({(m["subject"], m["date"][:10]) for m, _ in matches}):
        days[subject].append(day)
    for match, path in matches:
        subject, series = match["subject"], match["series"]
        contrast = contrast_in_words(series) or series
        visit = str(days[subject].index(match["date"][:10]) + 1)
        case = f"{subject}_visit-{visit}"
        yield Scan(
            case, subject, path, contrast, session=visit, site=match["site"], repeat=match["image"]
        )


def read_oasis1(tree: Tree) -> Iterator[Item]:
    """OASIS-1: Analyze files under `disc1/OAS1_0001_MR1/`, the only ones that are read.

    The average of a session's scans (`SUBJ_111`) is taken; without it the one in Talairach space
    (`T88_111`, whole head), without that the single scans (`RAW`).
    """
    sessions: dict[str, dict[str, list[tuple[re.Match[str], Path]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for name in tree.names:
        match = OASIS1.search(name)
        if match and not stem(Path(name)).endswith("_masked_gfc.img"):
            kind = match["space"] or match["raw"]
            session = f"{match['subject']}_{match['session']}"
            sessions[session][kind].append((match, tree.folder / name))
    for case, kinds in sessions.items():
        for match, path in next(
            kinds[kind] for kind in ("SUBJ_111", "T88_111", "RAW") if kinds[kind]
        ):
            repeat = path.stem.removeprefix(f"{case}_")
            yield Scan(case, match["subject"], path, "T1w", session=match["session"], repeat=repeat)


def _ukb_level(files: dict[str, list[Path]]) -> dict[str, str] | None:
    """The most prepared stage at which all contrasts of the session are there."""
    fullest = max(UKB_LEVELS, key=lambda level: sum(name in files for name in level))
    return fullest if any(name in files for name in fullest) else None


def _only_a_mask(case: str) -> Problem:
    return Problem(
        code="no_scan",
        file=case,
        found="a brain mask only",
        expected="T1_brain_to_MNI.nii.gz, T1_brain.nii.gz or T1.nii.gz",
        advice="Unzip the bulk file of field 20252 anew.",
    )
