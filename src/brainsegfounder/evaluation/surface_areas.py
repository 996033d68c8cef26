"""How much surface passes through a cell of 2x2x2 voxels, for each of its 256 fillings.

The surface is that of marching cubes at half height. Of the 256 fillings only 13 differ once the
cell may be turned, mirrored and inverted; their surfaces are put together from few pieces. The
pieces are those of the table of google-deepmind/surface-distance (Apache-2.0), which has exactly
these symmetries, so that both give the same areas; a test compares all 256.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The value of each voxel of a cell in its code, along I, J, K.
WEIGHTS = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]], dtype=np.uint8)

# Area vectors in a cell of side 1: how much of the piece faces along I, J, K.
_Piece = tuple[float, float, float]
_CORNER: _Piece = (0.125, 0.125, 0.125)
_CORNERS: _Piece = (0.25, 0.25, 0.25)
_EDGE_IJ: _Piece = (0.25, 0.25, 0.0)
_EDGE_IK: _Piece = (0.25, 0.0, 0.25)
_EDGE_JK: _Piece = (0.0, 0.25, 0.25)
_HALF_FACE: _Piece = (0.5, 0.0, 0.0)
_SHAPES: dict[int, tuple[_Piece, ...]] = {
    0b00000001: (_CORNER,),
    0b00000011: (_EDGE_IJ,) * 2,
    0b00000110: (_CORNER,) * 2,
    0b00000111: (_HALF_FACE, _CORNERS, _CORNER),
    0b00001111: (_HALF_FACE,) * 2,
    0b00010110: (_CORNER,) * 3,
    0b00010111: (_CORNER, _CORNERS, _CORNERS, _CORNER),
    0b00011000: (_CORNER,) * 2,
    0b00011001: (_EDGE_JK, _EDGE_JK, _CORNER),
    0b00011011: (_CORNER, (0.375, 0.375, 0.375), _EDGE_JK, _EDGE_IK),
    0b00011110: (_HALF_FACE, _CORNER, _CORNERS, _CORNER),
    0b00111100: (_EDGE_IJ,) * 4,
    0b01101001: (_CORNER,) * 4,
}


@functools.lru_cache(maxsize=32)
def areas_mm2(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Area of the surface in a cell, for each code.

    Args:
        spacing_mm: Sides of the cell: the distance between voxel centres along I, J, K.

    Returns:
        Square millimetres, shape (256,); 0 for empty and full cells.
    """
    i_mm, j_mm, k_mm = spacing_mm
    # Factor by factor, so that the last bit is as in the table named above.
    vectors = _vectors() * np.array([j_mm, i_mm, i_mm]) * np.array([k_mm, k_mm, j_mm])
    areas: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1).sum(axis=-1)
    areas.flags.writeable = False
    return areas


@functools.cache
def _vectors() -> NDArray[np.float64]:
    """Area vectors of up to four pieces for each code, shape (256, 4, 3)."""
    vectors = np.zeros((256, 4, 3))
    for shape, pieces in _SHAPES.items():
        cell = (WEIGHTS & shape) > 0
        for order in itertools.permutations(range(3)):
            for flips in itertools.product((False, True), repeat=3):
                code = _code(cell, order, flips)
                turned = np.array(pieces)[:, order]
                vectors[[code, 255 - code], : len(pieces)] = turned
    return vectors


def _code(cell: NDArray[np.bool_], order: Sequence[int], flips: Sequence[bool]) -> int:
    """The code of a cell after its axes were permuted and mirrored."""
    turned = np.flip(cell.transpose(order), tuple(axis for axis in range(3) if flips[axis]))
    return int(WEIGHTS[turned].sum(dtype=int))
