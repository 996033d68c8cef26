"""BIDS and what is named like it: raw data, derivatives, ATLAS, OASIS-3, FOMO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from brainsegfounder.data.layouts.fold_lists import FOLD_COLUMNS, fold_number
from brainsegfounder.data.layouts.gather import Item, Refused, Role, Scan
from brainsegfounder.data.layouts.metadata import with_metadata
from brainsegfounder.data.layouts.tree import Tree, read_rows
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.contrasts import find_contrast, has_agent
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import stem

ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
# Suffixes that are read; `dwi` is a 4-D series of directions, not a contrast.
SUFFIXES = {
    "T1w",
    "T2w",
    "FLAIR",
    "PDw",
    "T2starw",
    "T2star",
    "swi",
    "SWI",
    "angio",
    "ADC",
    "adc",
    "trace",
}
SUBJECT_FOLDER = re.compile(r"(?:^|/)(sub-[^/]+)/(?:ses-[^/]+/)?")
NATIVE_SPACES = {"", "orig", "T1w", "T2w", "FLAIR", "individual"}
TISSUES = {"gm", "wm", "csf", "bg", "cgm", "sgm"}
PREFERRED = {"": 0, "preproc": 1}
ATLAS_COHORT = re.compile(r"^sub-(?P<cohort>r\d+)s\d+")
OASIS3 = re.compile(r"(?:^|/)(?P<subject>OAS3\d{4})_MR_(?P<session>d\d{4})/")
FOMO = re.compile(
    r"^(?P<set>PT\d{3}_[^/]+/)?(?P<subject>sub[-_][^/]+)/(?P<session>ses[-_][^/]+)/"
    r"(?:(?:anat|dwi|perf|swi|pet)/)?(?P<name>[^/]+)\.nii(\.gz)?$"
)


@dataclass(frozen=True, slots=True)
class Named:
    """A file with the parts of its BIDS name.

    Attributes:
        path: The file.
        entities: Such as sub, ses, run, space.
        suffix: Such as T1w or mask.
        subject: The subject's folder.
    """

    path: Path
    entities: dict[str, str]
    suffix: str
    subject: str

    @property
    def case(self) -> str:
        """Name of the session: `sub-01` or `sub-01_ses-1`."""
        session = self.entities.get("ses")
        return f"{self.subject}_ses-{session}" if session else self.subject

    @property
    def space(self) -> str:
        """The grid it lies on; empty for the scanner's."""
        space = self.entities.get("space", "")
        return "" if space in NATIVE_SPACES else space


@dataclass(frozen=True, slots=True)
class Participant:
    """What the table of a tree says of a subject: the site, or empty; the fold, or None."""

    site: str = ""
    fold: int | None = None


def read_bids(tree: Tree) -> Iterator[Item]:
    """BIDS, raw or derivative: `sub-*/[ses-*/]anat/*_{T1w,T2w,FLAIR,...}.nii.gz`.

    Raw scans come before those of `derivatives/`, scans on the scanner's grid before those in a
    template's space. A `ce-` entity makes a T1w a T1ce. Masks are taken from everywhere in the
    tree, if they lie in the space of the scans: a `_mask` or `_dseg` with a label or a lesion in
    its name is the label, `desc-brain_mask` the brain, `_defacemask` what was made unknown.
    `participants.tsv` tells site and fold, where it has such columns.
    """
    yield from _description(tree)
    yield from _sessions(tree)


def _sessions(tree: Tree) -> Iterator[Item]:
    """Scans and masks of all sessions, wherever in the tree their subjects' folders are."""
    named = [part for part in map(_named, tree.scans, tree.scan_names) if part]
    images = [part for part in named if part.suffix in SUFFIXES and _is_image(part)]
    raw = [part for part in images if "derivatives/" not in tree.relative(part.path)]
    chosen = raw or images
    space = "" if any(not part.space for part in chosen) else None
    if space is None and len(spaces := {part.space for part in chosen}) > 1:
        raise DataError(_several_spaces(tree, spaces))
    chosen = [part for part in chosen if space is None or not part.space]
    participants = _participants(tree)
    yield from _mixed_sessions(chosen)
    yield from _images(chosen, participants, tree)
    yield from _masks(named, {part.case: part.space for part in chosen})


def read_atlas(tree: Tree) -> Iterator[Item]:
    """ATLAS v2.0: T1w and lesion mask in MNI space, `R001/sub-r001s001/ses-1/anat/`.

    The cohort in the subject's name is the site, unless a table beside the scans says another;
    see `layouts.metadata`. Masks of the hidden test set are not there.
    """
    yield from with_metadata(_of_atlas(tree), tree)


def _of_atlas(tree: Tree) -> Iterator[Item]:
    """Scans of subjects that are named as in ATLAS; the cohort is the site."""
    for item in _sessions(tree):
        if not isinstance(item, Scan):
            yield item
        elif match := ATLAS_COHORT.match(item.subject):
            yield replace(item, site=match["cohort"])


def read_isles26(tree: Tree) -> Iterator[Item]:
    """ATLAS R3.0, the data of ISLES'26: native T1w and lesion mask, named as in ATLAS v2.0.

    Where a native and a standardised scan of one session are there, the native ones are taken.
    Centre, chronicity and days come from a table beside the scans.
    """
    yield from read_atlas(tree)


def read_oasis3(tree: Tree) -> Iterator[Item]:
    """OASIS-3: `OAS30001_MR_d0129/anat2/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz`.

    The session is the day since entry. Further runs of a contrast become cases of their own.
    """
    for path, name in zip(tree.scans, tree.scan_names, strict=True):
        match = OASIS3.search(name)
        suffix = stem(path).rpartition("_")[2]
        if match and suffix in SUFFIXES:
            run = re.search(r"_(run-\w+?|acq-\w+?)_", stem(path))
            case = f"{match['subject']}_{match['session']}"
            repeat = run[1] if run else path.parent.name
            if path.parent.name == "NIFTI" and not run:
                repeat = path.parent.parent.name
            yield Scan(
                case, match["subject"], path, suffix, session=match["session"], repeat=repeat
            )


def read_fomo(tree: Tree) -> Iterator[Item]:
    """FOMO-300K, 260K, 60K, 45K: `[PT001_Name/]sub-x/ses-y/[anat/]t1_2.nii.gz`.

    The part of the collection (`PT001_Name`) is the site and belongs to the subject's name.
    Repeats of a contrast become cases of their own.
    """
    for path, name in zip(tree.scans, tree.scan_names, strict=True):
        if match := FOMO.match(name):
            part = (match["set"] or "").rstrip("/")
            subject = "_".join(text for text in (part, match["subject"]) if text)
            ending = match["name"].removeprefix(f"{match['subject']}_{match['session']}_")
            contrast, _, number = ending.partition("_")
            if number and not number.isdigit():
                contrast = ending.rpartition("_")[2]
            yield Scan(
                f"{subject}_{match['session']}",
                subject,
                path,
                contrast,
                session=match["session"][4:],
                site=part,
                repeat=ending,
            )


def _named(path: Path, name: str) -> Named | None:
    match = SUBJECT_FOLDER.search(name)
    if match is None:
        return None
    text, _, suffix = stem(path).rpartition("_")
    return Named(path, dict(ENTITY.findall(text)), suffix, match[1])


def _is_image(part: Named) -> bool:
    """Whether it is a whole image: no phase, no single echo after the first, no atlas label."""
    entities = part.entities
    whole = entities.get("part", "mag") == "mag" and entities.get("echo", "1").lstrip("0") in (
        "1",
        "",
    )
    return whole and not entities.keys() & {"label", "seg"}


def _images(
    chosen: list[Named], participants: dict[str, Participant], tree: Tree
) -> Iterator[Item]:
    for part in _best(chosen):
        sub = f"sub-{part.entities.get('sub', '')}"
        if sub != part.subject:
            yield Refused(part.case, _names_disagree(part))
            continue
        contrast = find_contrast(part.suffix) or ""
        if contrast == "T1w" and "ce" in part.entities:
            contrast = "T1ce"
        elif contrast == "T1w" and has_agent(tree.sidecar(part.path)):
            message = "its sidecar names a contrast agent, its name does not; read as T1w"
            yield Finding("contrast_in_doubt", tree.relative(part.path), message, "warning")
        said = participants.get(part.subject, Participant())
        yield Scan(
            part.case,
            part.subject,
            part.path,
            contrast,
            session=part.entities.get("ses", ""),
            site=said.site,
            fold=said.fold,
            is_bids=True,
        )


def _best(chosen: list[Named]) -> Iterator[Named]:
    """Of several versions of one scan the plain one, else the preprocessed one."""
    versions: dict[tuple[str, str, bool], list[Named]] = defaultdict(list)
    for part in chosen:
        versions[part.case, part.suffix, "ce" in part.entities].append(part)
    for parts in versions.values():
        ranks = [PREFERRED.get(part.entities.get("desc", ""), 2) for part in parts]
        yield from (part for part, rank in zip(parts, ranks, strict=True) if rank == min(ranks))


def _masks(named: Iterable[Named], spaces: dict[str, str]) -> Iterator[Scan]:
    """The masks of cases that have a scan in the mask's space."""
    seen: set[tuple[str, Role]] = set()
    for part in named:
        role = _role(part)
        if role is None or spaces.get(part.case) != part.space:
            continue
        if role != "label" and (part.case, role) in seen:
            continue  # several pipelines know the brain; the first by name is as good as any
        seen.add((part.case, role))
        yield Scan(part.case, part.subject, part.path, role=role, is_bids=True)


def _role(part: Named) -> Role | None:
    label = part.entities.get("label", "").lower()
    described = part.entities.get("desc", "").lower()
    if part.suffix == "defacemask" or (part.suffix == "mask" and "deface" in label + described):
        return "deface"
    if part.suffix == "brainmask" or (part.suffix == "mask" and "brain" in (label, described)):
        return "brain"
    if part.suffix == "mask" and (label or "lesion" in described) and label not in TISSUES:
        return "label"
    if part.suffix == "dseg" and part.entities.keys() & {"seg", "label"}:
        return "label"
    return None


def _description(tree: Tree) -> Iterator[Finding]:
    if "dataset_description.json" not in tree.known:
        message = "missing; the folder is read as BIDS by its names"
        yield Finding("no_dataset_description", "dataset_description.json", message, "warning")


def _mixed_sessions(chosen: list[Named]) -> Iterator[Finding]:
    with_session = {part.subject for part in chosen if "ses" in part.entities}
    for subject in sorted(with_session & {p.subject for p in chosen if "ses" not in p.entities}):
        message = "scans with and without a session; read as different visits"
        yield Finding("mixed_sessions", subject, message, "warning")


def _participants(tree: Tree) -> dict[str, Participant]:
    """What `participants.tsv` says of each subject, where it has such columns."""
    if "participants.tsv" not in tree.known:
        return {}
    try:
        rows = read_rows(tree.folder / "participants.tsv")
    except DataError as error:
        found = error.problem.found if error.problem else str(error)
        message = f"{found}; nothing is taken from it"
        tree.findings.append(Finding("table_unreadable", "participants.tsv", message, "warning"))
        return {}
    site = _column(rows, ("site", "centre", "center", "site_id"))
    fold = _column(rows, FOLD_COLUMNS)
    return {
        row.get("participant_id", ""): Participant(row.get(site, ""), fold_number(row.get(fold)))
        for row in rows
    }


def _column(rows: list[dict[str, str]], names: Iterable[str]) -> str:
    """The column of one of some names, or no column's name."""
    return next((name for row in rows[:1] for name in row if name.strip().lower() in names), "")


def _names_disagree(part: Named) -> Problem:
    return Problem(
        code="names_disagree",
        file=str(part.path),
        found=f"sub-{part.entities.get('sub', '')} in the name of a file of {part.subject}",
        expected="one subject in folder and name",
        advice="Move or rename the file.",
    )


def _several_spaces(tree: Tree, spaces: set[str]) -> Problem:
    return Problem(
        code="several_spaces",
        file=str(tree.folder),
        found=f"scans in the spaces {', '.join(sorted(spaces))} and none on the scanner's grid",
        expected="one space",
        advice='Choose one: --layout "glob:**/{subject}/**/*space-NAME*_{contrast}.nii.gz".',
    )
