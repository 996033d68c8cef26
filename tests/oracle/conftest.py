"""What the comparisons with MONAI share."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

# The eight corners that MONAI's `PatchMerging` took from 0.9.1 to 1.4 (method sheet, 6.3).
CORNERS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


class LegacyMerging(nn.Module):
    """MONAI's `PatchMerging` before 1.5; 1.6.1 has it no more, but takes a class in its place."""

    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x):
        i, j, k = (n % 2 for n in x.shape[1:4])
        x = functional.pad(x, (0, 0, 0, k, 0, j, 0, i))
        return self.reduction(
            self.norm(torch.cat([x[:, a::2, b::2, c::2] for a, b, c in CORNERS], -1))
        )


@pytest.fixture(scope="session")
def legacy_merging():
    """See `LegacyMerging`."""
    return LegacyMerging


@pytest.fixture(scope="session")
def monai_nets():
    """MONAI's module with SwinUNETR."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.networks.nets.swin_unetr", reason="no MONAI here")
