"""Rigid and affine registration with SimpleITK: where one scan lies on another, in millimetres.

Mattes mutual information, so contrasts may differ; three levels of resolution; sampled points are
drawn with a fixed seed and one thread adds them up, so the same scans give the same numbers.
The result is a 4 x 4 matrix in RAS millimetres. Moving a volume is then a change of its affine:
no voxel is touched here, and undoing is the inverse matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.geometry import resample_to, spaced_grid
from brainsegfounder.volumes.intensity import foreground
from brainsegfounder.volumes.volume import Affine, Grid, Volume

# Half a millimetre is found on a grid of 2 mm, at a fraction of the time of 1 mm.
WORK_MM = 2.0
# Headers of one session place a scan better than its outline does; beyond this they are doubted.
FAR_MM = 15.0
MASK_MARGIN_MM = 10.0
CLIP_PERCENTILES = (0.5, 99.5)
MIN_OVERLAP = 0.85
SEED = 1
SAMPLED = (1.0, 0.5, 0.2)
SHRINK = (4, 2, 1)
SMOOTH_MM = (4.0, 2.0, 0.0)
BINS = 32
ITERATIONS = 150


@dataclass(frozen=True, slots=True)
class Registration:
    """How a moving scan comes to lie on a fixed one, and what speaks for it.

    Attributes:
        matrix: From the moving scan's millimetres to the fixed one's, RAS, shape (4, 4).
        information: Mutual information (nats) before and after.
        overlap: Share of the smaller foreground within the larger, before and after.
    """

    matrix: Affine
    information: tuple[float, float]
    overlap: tuple[float, float]

    @property
    def is_trusted(self) -> bool:
        """Whether both measures speak for it: more information, and foregrounds that meet."""
        gained = self.information[1] > self.information[0] - 1e-3
        met = self.overlap[1] >= min(MIN_OVERLAP, self.overlap[0] - 0.02)
        return gained and met

    def record(self) -> dict[str, Any]:
        """For the provenance."""
        return {
            "matrix": self.matrix.tolist(),
            "information": [round(value, 4) for value in self.information],
            "overlap": [round(value, 4) for value in self.overlap],
        }


@dataclass(frozen=True, slots=True)
class _Scan:
    """A scan made small and clipped for registration; `mask` is its foreground."""

    image: Any
    volume: Volume
    mask: NDArray[np.bool_]

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        places = np.argwhere(self.mask).mean(axis=0)
        return np.asarray((self.volume.affine @ [*places, 1.0])[:3], dtype=np.float64)


def register(fixed: Volume, moving: Volume, kind: Literal["rigid", "affine"]) -> Registration:
    """Find how the moving scan comes to lie on the fixed one.

    Starts from where the headers say the scans are; where their foregrounds' centres are more
    than 15 mm apart, putting these on each other is tried too, and the better start is taken.

    Args:
        fixed: One contrast, shape (1, I, J, K), any axes that are orthogonal.
        moving: The same of another scan.
        kind: rigid: turn and shift; affine: also stretch and shear, after a rigid fit.

    Returns:
        The matrix and how well it does, on grids of 2 mm; accurate to a fraction of a millimetre.

    Raises:
        VolumeError: A scan has one single value, or the scans do not meet at all.
    """
    one, other = _scan(fixed), _scan(moving)
    transform = _best_start(one, other)
    transform = _optimise(one, other, transform)
    if kind == "affine":
        transform = _optimise(one, other, _as_affine(transform))
    matrix = np.asarray(np.linalg.inv(_matrix(transform)), dtype=np.float64)
    identity = np.eye(4)
    return Registration(
        matrix=matrix,
        information=(_information(one, other, None), _information(one, other, transform)),
        overlap=(overlap_of(one, other, identity), overlap_of(one, other, matrix)),
    )


def overlap_of(one: _Scan, other: _Scan, matrix: Affine) -> float:
    """Share of the smaller foreground that lies within the larger one, 0 to 1.

    Args:
        one: The fixed scan.
        other: The moving scan.
        matrix: From the moving scan's millimetres to the fixed one's.
    """
    moved = Volume(other.mask[None], matrix @ other.volume.affine)
    there = resample_to(moved, one.volume.grid).voxels[0] > 0.5
    # What lies outside the fixed field of view counts as not met.
    volume_ml = other.mask.sum() * moved.grid.voxel_volume_ml
    voxel_ml = one.volume.grid.voxel_volume_ml
    smaller_ml = min(float(one.mask.sum()) * voxel_ml, float(volume_ml))
    return min(1.0, float((there & one.mask).sum()) * voxel_ml / max(smaller_ml, 1e-9))


def share_in_common(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Of two masks on one grid, the share of the smaller that lies within the larger."""
    smaller = min(int(one.sum()), int(other.sum()))
    return float((one & other).sum()) / max(smaller, 1)


def _scan(volume: Volume) -> _Scan:
    finest = np.maximum(volume.spacing_mm, WORK_MM)
    grid = spaced_grid(volume.grid, (float(finest[0]), float(finest[1]), float(finest[2])))
    coarse = resample_to(volume, grid)
    mask = foreground(coarse.voxels, volume.source)
    low, high = np.percentile(coarse.voxels[0][mask], CLIP_PERCENTILES)
    clipped = replace(coarse, voxels=np.clip(coarse.voxels, min(0.0, float(low)), float(high)))
    return _Scan(_itk(clipped.voxels[0], grid), clipped, mask)


def _itk(voxels: NDArray[Any], grid: Grid) -> Any:
    """The same voxels for SimpleITK, which is told RAS millimetres and need not know."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetSpacing(grid.spacing_mm)
    # The nearest orthonormal axes: SimpleITK refuses what is off by rounding.
    left, _, right = np.linalg.svd(grid.affine[:3, :3] / np.asarray(grid.spacing_mm))
    image.SetDirection((left @ right).ravel().tolist())
    return image


def _best_start(one: _Scan, other: _Scan) -> Any:
    import SimpleITK

    centre_mm, shift_mm = one.centre_mm, other.centre_mm - one.centre_mm
    starts = [np.zeros(3)]
    if np.linalg.norm(shift_mm) > FAR_MM:
        starts.append(shift_mm)
    transforms = []
    for shift in starts:
        transform = SimpleITK.Euler3DTransform()
        transform.SetCenter(centre_mm.tolist())
        transform.SetTranslation(shift.tolist())
        transforms.append(transform)
    return max(transforms, key=lambda transform: _information(one, other, transform))


def _as_affine(rigid: Any) -> Any:
    import SimpleITK

    affine = SimpleITK.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def _method(one: _Scan) -> Any:
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    # One unit of work, not only one thread: sums are then taken in one order.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(SimpleITK.sitkLinear)
    steps = np.ceil(MASK_MARGIN_MM / np.asarray(one.volume.spacing_mm)).astype(int)
    near = ndimage.maximum_filter(one.mask, size=tuple(2 * steps + 1))
    method.SetMetricFixedMask(_itk(near.astype(np.uint8), one.volume.grid))
    return method


def _optimise(one: _Scan, other: _Scan, start: Any) -> Any:
    method = _method(one)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(SAMPLED, SEED)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=ITERATIONS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel(SMOOTH_MM)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    try:
        method.Execute(one.image, other.image)
    except RuntimeError as error:
        raise VolumeError(
            Problem(
                "registration_failed", other.volume.source,
                f"cannot be registered to {one.volume.source}: the scans do not meet",
                "two scans of one head", "Look at both, or register them by hand.",
            )
        ) from error  # fmt: skip
    return start


def _information(one: _Scan, other: _Scan, transform: Any | None) -> float:
    """Mutual information in nats; 0 where the scans do not meet at all."""
    import SimpleITK

    method = _method(one)
    method.SetInitialTransform(transform or SimpleITK.Euler3DTransform())
    try:
        return -float(method.MetricEvaluate(one.image, other.image))
    except RuntimeError:  # too few points of the fixed scan fall into the moving one
        return 0.0


def _matrix(transform: Any) -> Affine:
    """The transform as a matrix, by what it does to the origin and three unit points."""
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis, unit in enumerate(np.eye(3)):
        matrix[:3, axis] = np.asarray(transform.TransformPoint(unit.tolist())) - origin
    matrix[:3, 3] = origin
    return matrix
