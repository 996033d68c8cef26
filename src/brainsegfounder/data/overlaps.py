"""Which scans of a collection show one brain: by name, by voxels, by looks.

A pair of cases is reported once, for the strongest of its reasons. Names are not believed blindly:
every BIDS data set has a `sub-01`, so two cases of one name that look like two brains are only
namesakes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, islice

import numpy as np

from brainsegfounder.data.identity import person, spelling
from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.likeness import (
    Look,
    aligned_likeness,
    rough_likeness,
    rough_spectra,
    shifted_likeness,
)

# On 273 real brains the best of two different ones reached 0.79 after registration, apart from a
# pair of one sex and birthday at 0.81; copies with noise, a bias field, another grid, a crop,
# another mask or a rotation stayed above 0.88, those with a lesion painted in at 0.85 or more.
ALIKE, ONE_BRAIN = 0.80, 0.85
# With one name, less is enough: years or an operation may lie between the scans.
NAMED_ALIKE = 0.75
# A pair is shifted onto each other if it is among the best of either scan in the rough view, and
# registered if it then is the best of either, or good by itself. Of two different brains the best
# reach 0.70 there, copies that lost a third of the brain 0.69.
BEST_OF_EACH = 3
NOT_HOPELESS, PROMISING = 0.55, 0.75


class Kind(StrEnum):
    """Why two cases are taken for one brain, or not; the strongest reason first.

    A repeat is another case of a subject within a part, where a split by subject keeps them
    together; a namesake has the name of another subject, and another brain.
    """

    SAME_VOXELS = "same_voxels"
    SAME_BRAIN = "same_brain"
    SAME_SUBJECT = "same_subject"
    ALIAS = "alias"
    LOOKS_ALIKE = "looks_alike"
    REPEAT = "repeat"
    NAMESAKE = "namesake"


LEAKS = (Kind.SAME_VOXELS, Kind.SAME_BRAIN, Kind.SAME_SUBJECT, Kind.ALIAS)
KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Scan:
    """One contrast of one case, as far as it can be compared.

    Attributes:
        part: Of which collection or split.
        case: Its name there.
        subject: Whose brain it is said to be.
        session: Which visit, or empty.
        contrast: Its contrast's name.
        marks: Fingerprints of its voxels; two scans that share one have the same voxels.
        look: For comparing by looks, or None where the voxels are not at hand.
    """

    part: str
    case: str
    subject: str
    session: str
    contrast: str
    marks: frozenset[str] = frozenset()
    look: Look | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others: part, case and contrast."""
        return self.part, self.case, self.contrast


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two cases that show one brain, or may.

    Attributes:
        kind: Why.
        one: A scan of the first case.
        other: A scan of the second.
        likeness: After registration, -1 to 1; None where looks were not needed.
    """

    kind: Kind
    one: Scan
    other: Scan
    likeness: float | None = None

    @property
    def is_leak(self) -> bool:
        """Whether it joins two parts for sure."""
        return self.one.part != self.other.part and self.kind in LEAKS

    @property
    def is_hidden(self) -> bool:
        """Whether it is one brain under two subjects of a part: a split could divide them."""
        return self.one.part == self.other.part and self.kind in LEAKS


Report = Callable[[int, int], None]
CasePair = frozenset[tuple[str, str]]


def find_overlaps(
    scans: Sequence[Scan], aliases: Mapping[str, str], report: Report = lambda *_: None
) -> list[Overlap]:
    """Find every pair of cases that show one brain, or may.

    Args:
        scans: Of all parts.
        aliases: Which names are one person's; see `data.identity`.
        report: Told how many of how many closer looks are done.

    Returns:
        One a pair of cases, in the order of kinds, parts and cases.
    """
    found: dict[CasePair, Overlap] = {}
    for overlap in by_voxels(scans):
        found.setdefault(_cases(overlap.one, overlap.other), overlap)
    pairs = [
        (one, other)
        for one, other in (*_of_one_name(scans, aliases), *_promising(scans, aliases))
        if _cases(one, other) not in found
    ]
    for done, (one, other) in enumerate(pairs, start=1):
        judged = _judged(one, other, aliases)
        report(done, len(pairs))
        if judged is not None:
            known = found.get(_cases(one, other))
            found[_cases(one, other)] = _stronger(known, judged)
    return sorted(found.values(), key=_order)


def by_voxels(scans: Iterable[Scan]) -> Iterator[Overlap]:
    """Pairs of scans that share a fingerprint, those of one case left out."""
    holders: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        for mark in scan.marks:
            holders[mark].append(scan)
    for group in holders.values():
        for one, other in combinations(group, 2):
            if _case(one) != _case(other):
                yield Overlap(Kind.SAME_VOXELS, one, other)


def _judged(one: Scan, other: Scan, aliases: Mapping[str, str]) -> Overlap | None:
    """What a closer look at two scans says; None where it says nothing."""
    of_one_name = person(one.subject, aliases) == person(other.subject, aliases)
    if of_one_name and one.part == other.part:
        return Overlap(Kind.REPEAT, one, other)
    likeness = _likeness(one, other)
    if likeness is not None and likeness >= ONE_BRAIN:
        return Overlap(Kind.SAME_BRAIN, one, other, likeness)
    if of_one_name and (likeness is None or likeness >= NAMED_ALIKE):
        named_alike = spelling(one.subject) == spelling(other.subject)
        kind = Kind.SAME_SUBJECT if named_alike else Kind.ALIAS
        return Overlap(kind, one, other, likeness)
    if of_one_name:
        return Overlap(Kind.NAMESAKE, one, other, likeness)
    if likeness is not None and likeness >= ALIKE:
        return Overlap(Kind.LOOKS_ALIKE, one, other, likeness)
    return None


def _likeness(one: Scan, other: Scan) -> float | None:
    """After registration; None where the scans are not of one contrast or cannot be compared."""
    if one.look is None or other.look is None or not _comparable(one, other):
        return None
    try:
        return aligned_likeness(one.look, other.look)
    except VolumeError:
        return None


def _of_one_name(scans: Sequence[Scan], aliases: Mapping[str, str]) -> Iterator[tuple[Scan, Scan]]:
    """A pair of scans for each two cases of one person, of one contrast where there is one."""
    people: dict[str, dict[tuple[str, str], list[Scan]]] = defaultdict(lambda: defaultdict(list))
    for scan in scans:
        people[person(scan.subject, aliases)][_case(scan)].append(scan)
    for cases in people.values():
        for first, second in combinations(cases.values(), 2):
            both = [(a, b) for a in first for b in second if _comparable(a, b)]
            yield both[0] if both else (first[0], second[0])


def _promising(scans: Sequence[Scan], aliases: Mapping[str, str]) -> list[tuple[Scan, Scan]]:
    """Pairs of different people's scans that are worth a closer look."""
    seen = [scan for scan in scans if scan.look is not None]
    if len(seen) < 2:
        return []
    looks = [scan.look for scan in seen if scan.look is not None]
    spectra = rough_spectra(looks)
    people = [person(scan.subject, aliases) for scan in seen]
    shifted: dict[tuple[int, int], float] = {}
    for n, scan in enumerate(seen):
        likeness = rough_likeness(spectra[n], spectra)
        others = (
            m
            for m in np.argsort(-likeness).tolist()
            if people[m] != people[n] and _comparable(scan, seen[m])
        )
        for m in islice(others, BEST_OF_EACH):
            pair = min(n, m), max(n, m)
            if pair not in shifted:
                shifted[pair] = shifted_likeness(looks[n], looks[m])
    return [(seen[n], seen[m]) for n, m in _best_pairs(shifted)]


def _best_pairs(likeness: Mapping[tuple[int, int], float]) -> list[tuple[int, int]]:
    """Pairs that are the best of one of their two, or good by themselves."""
    best: dict[int, float] = {}
    for (n, m), value in likeness.items():
        best[n], best[m] = max(value, best.get(n, -1.0)), max(value, best.get(m, -1.0))
    return sorted(
        (n, m)
        for (n, m), value in likeness.items()
        if value >= PROMISING or (value >= NOT_HOPELESS and value >= min(best[n], best[m]))
    )


def _comparable(one: Scan, other: Scan) -> bool:
    return one.contrast == other.contrast or not (one.contrast and other.contrast)


def _case(scan: Scan) -> tuple[str, str]:
    return scan.part, scan.case


def _cases(one: Scan, other: Scan) -> CasePair:
    return frozenset({_case(one), _case(other)})


def _stronger(known: Overlap | None, new: Overlap) -> Overlap:
    return new if known is None or KINDS.index(new.kind) < KINDS.index(known.kind) else known


def _order(overlap: Overlap) -> tuple[int, str, str, str, str]:
    one, other = overlap.one, overlap.other
    return KINDS.index(overlap.kind), one.part, one.case, other.part, other.case
