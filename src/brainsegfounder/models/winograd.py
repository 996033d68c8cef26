"""3x3x3 convolution of some rows of a map with half the products, after Winograd.

Four rows of the result come from six rows of the input. Both sides of the convolution along I are
polynomials; they are evaluated at six points, multiplied there (a 3x3 convolution in the plane for
each point instead of three for each row), and interpolated. Lavin and Gray, "Fast algorithms for
convolutional neural networks", CVPR 2016, write it F(4, 3). The points are not the usual 0, 1, 2
with signs: these lose half as many digits, about one decimal place against the plain sum.
"""

# Shape letters in this file: C channels in, F channels out, I J K axes of a feature map or kernel,
# R rows along I, W points, T tiles of four rows, P values of a row (J*K*C or J*K*F).

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from brainsegfounder.models.maps import empty_scratch

TILE_ROWS = 4
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity
_NUM_POINTS = len(_POINTS) + 1
# Below this PyTorch convolves a plane by a loop that is slow.
SMALLER_VALUES = 20480
# Below this nothing is gained.
LARGER_VALUES = 1 << 16
# Tiles at once: fewer make the gradient of a kernel slow, more leave the cache.
_TILES = 2


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of four coefficients and of three at the points, and what six inputs give there."""
    points = np.array(_POINTS)
    of_results = np.vander(points, TILE_ROWS, increasing=True)
    of_kernel = np.vander(points, 3, increasing=True)
    of_inputs = np.zeros((_NUM_POINTS, _NUM_POINTS))
    for w, point in enumerate(points):
        others = np.delete(points, w)
        of_kernel[w] /= np.prod(point - others)
        of_inputs[w, :-1] = np.poly(others)[::-1]
    of_inputs[-1] = np.poly(points)[::-1]
    return _with_infinity(of_results), _with_infinity(of_kernel), of_inputs


def _with_infinity(values: np.ndarray) -> np.ndarray:
    """The value at infinity is the last coefficient."""
    return np.vstack([values, np.eye(values.shape[1])[-1]])


_RESULTS_WR, _KERNEL_WI, _INPUTS_WR = (torch.from_numpy(one) for one in _matrices())


def pays(shape: torch.Size, out_channels: int) -> bool:
    """Whether rows of a map (B, C, I, J, K) are convolved faster this way."""
    _, c, i, j, k = shape
    smaller, larger = (num * j * k for num in sorted((c, out_channels)))
    is_large = smaller > SMALLER_VALUES and larger > LARGER_VALUES
    return i >= TILE_ROWS and is_large


class RowConvolution:
    """A 3x3x3 kernel, ready to be applied to rows of maps of one size."""

    def __init__(self, weight_FCIJK: Tensor) -> None:
        self._weight_FCIJK = weight_FCIJK
        planes_WFCJK = torch.einsum("wi,fcijk->wfcjk", _as(_KERNEL_WI, weight_FCIJK), weight_FCIJK)
        self._planes = [one.contiguous(memory_format=torch.channels_last) for one in planes_WFCJK]

    def apply(self, x_BCRJK: Tensor, out_BFRJK: Tensor) -> None:
        """Convolve rows of one case.

        Args:
            x_BCRJK: The rows and one more on either side, channels last.
            out_BFRJK: Where to put the result, channels last.
        """
        size, num_rows = x_BCRJK.shape[3:], out_BFRJK.shape[2]
        x_RP, out_RP = _as_rows(x_BCRJK), _as_rows(out_BFRJK)
        at_points, back_RW = _as(_INPUTS_WR, x_RP), _as(_RESULTS_WR, x_RP).t()
        result_WTP = _scratch(out_RP)
        for first, num_tiles, x_WTP in _tiles(at_points, x_RP, num_rows):
            for w, plane_FCJK in enumerate(self._planes):
                part_TFJK = _as_planes(result_WTP[w, :num_tiles], size)
                part_TFJK.copy_(
                    functional.conv2d(_as_planes(x_WTP[w], size), plane_FCJK, padding=1)
                )
            for t in range(num_tiles):
                start = first + t * TILE_ROWS
                torch.mm(back_RW, result_WTP[:, t], out=out_RP[start : start + TILE_ROWS])
        rest = num_rows % TILE_ROWS
        if rest:
            out_BFRJK[:, :, -rest:] = functional.conv3d(
                x_BCRJK[:, :, -rest - 2 :], self._weight_FCIJK, padding=(0, 1, 1)
            )


class RowKernelGradient:
    """Sums up the gradient of a 3x3x3 kernel over rows."""

    def __init__(self, weight_FCIJK: Tensor) -> None:
        self._weight_FCIJK = weight_FCIJK
        self._gradient_FCIJK = torch.zeros_like(weight_FCIJK)
        planes_WFCJK = weight_FCIJK.new_zeros(_NUM_POINTS, *weight_FCIJK[:, :, 0].shape)
        self._planes = [one.contiguous(memory_format=torch.channels_last) for one in planes_WFCJK]

    def add(self, x_BCRJK: Tensor, grad_BFRJK: Tensor) -> None:
        """Add what rows of one case bring.

        Args:
            x_BCRJK: Rows of the input and one more on either side, channels last.
            grad_BFRJK: Gradient of the result of the convolution, channels last.
        """
        size, num_rows = x_BCRJK.shape[3:], grad_BFRJK.shape[2]
        x_RP, grad_RP = _as_rows(x_BCRJK), _as_rows(grad_BFRJK)
        at_points, of_results_WR = _as(_INPUTS_WR, x_RP), _as(_RESULTS_WR, x_RP)
        grad_WTP = _scratch(grad_RP)
        for first, num_tiles, x_WTP in _tiles(at_points, x_RP, num_rows):
            for t in range(num_tiles):
                start = first + t * TILE_ROWS
                torch.mm(of_results_WR, grad_RP[start : start + TILE_ROWS], out=grad_WTP[:, t])
            for w, plane_FCJK in enumerate(self._planes):
                planes = (_as_planes(grad_WTP[w, :num_tiles], size), _as_planes(x_WTP[w], size))
                plane_FCJK += kernel_gradient(*planes, plane_FCJK, padding=(1, 1))
        rest = num_rows % TILE_ROWS
        if rest:
            rows = (grad_BFRJK[:, :, -rest:], x_BCRJK[:, :, -rest - 2 :])
            self._gradient_FCIJK += kernel_gradient(*rows, self._weight_FCIJK, padding=(0, 1, 1))

    def result(self) -> Tensor:
        """The gradient (F, C, I, J, K)."""
        planes_WFCJK = torch.stack(self._planes)
        of_kernel_WI = _as(_KERNEL_WI, planes_WFCJK)
        return self._gradient_FCIJK + torch.einsum("wi,wfcjk->fcijk", of_kernel_WI, planes_WFCJK)


def kernel_gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
    """The gradient of a kernel of a plain convolution, in two or three dimensions."""
    ones, zeros = [1] * len(padding), [0] * len(padding)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, ones, list(padding), ones, False, zeros, 1, [False, True, False])
    )
    result: Tensor = gradient
    return result


def _tiles(at_points: Tensor, x_RP: Tensor, num_rows: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the first row of some tiles, their number, and their input at the points (W, T, P)."""
    x_WTP = _scratch(x_RP)
    num_whole = num_rows // TILE_ROWS
    for tile in range(0, num_whole, _TILES):
        num_tiles = min(_TILES, num_whole - tile)
        for t in range(num_tiles):
            first = (tile + t) * TILE_ROWS
            torch.mm(at_points, x_RP[first : first + _NUM_POINTS], out=x_WTP[:, t])
        yield tile * TILE_ROWS, num_tiles, x_WTP[:, :num_tiles]


def _scratch(rows_RP: Tensor) -> Tensor:
    return empty_scratch((_NUM_POINTS, _TILES, rows_RP.shape[1]), rows_RP.dtype)


def _as(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.to(like.dtype)


def _as_rows(x_BCRJK: Tensor) -> Tensor:
    """Rows of one case as a matrix (R, P), without a copy."""
    return x_BCRJK[0].permute(1, 2, 3, 0).view(x_BCRJK.shape[2], -1)


def _as_planes(x_TP: Tensor, size: torch.Size) -> Tensor:
    """Planes in channels-last layout (T, C, J, K), without a copy."""
    return x_TP.view(len(x_TP), *size, -1).permute(0, 3, 1, 2)
