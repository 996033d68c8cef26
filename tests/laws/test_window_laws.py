import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from brainsegfounder.inference.sliding_window import slide, window_starts

sizes = st.tuples(*[st.integers(1, 14)] * 3)
windows = st.tuples(*[st.integers(1, 6)] * 3)
overlaps = st.floats(0.0, 0.95)


@given(st.integers(1, 300), st.integers(1, 64), overlaps)
def test_every_voxel_lies_in_a_window_and_every_window_in_the_axis(size, window, overlap):
    starts = window_starts(size, window, overlap)
    covered = np.zeros(max(size, window), bool)
    for start in starts:
        assert 0 <= start <= max(0, size - window)
        covered[start : start + window] = True
    assert covered.all()
    assert all(other - one <= window for one, other in itertools.pairwise(starts))


@given(sizes, windows, overlaps, st.sampled_from(["gaussian", "constant"]), st.integers(1, 4))
def test_merging_undoes_cutting_into_windows(size, window, overlap, blending, batch_size):
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, *size)).astype("f4"))
    back = slide(
        lambda cut: cut,
        image,
        window=window,
        overlap=min(overlap, 0.7),
        blending=blending,
        batch_size=batch_size,
    )
    torch.testing.assert_close(back, image, rtol=1e-4, atol=1e-5)
