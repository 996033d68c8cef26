import itertools

import pytest
import torch

from brainsegfounder.models.windows import (
    SHIFT,
    WINDOW_SIZE,
    cut_axis,
    make_layout,
    relative_position_index,
)

CPU = torch.device("cpu")


def window_of_each_token(num_tokens, shift):
    """The plain rule: token t of a rolled axis lies in window (t - shift) // 7, and is alone there
    with those that were its neighbours before the roll."""
    shift = shift if num_tokens > WINDOW_SIZE else 0
    return [(token - shift) // WINDOW_SIZE for token in range(num_tokens)]


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("num_tokens", [*range(1, 30), 35, 48, 64])
def test_stretches_cut_an_axis_where_windows_end(num_tokens, shift):
    found = []
    for stretch in cut_axis(num_tokens, shift):
        assert stretch.start == len(found)
        for _ in range(stretch.count):
            found += [len(found)] * stretch.length
    plain = window_of_each_token(num_tokens, shift)
    together = [a == b for a, b in itertools.pairwise(plain)]
    assert [a == b for a, b in itertools.pairwise(found)] == together
    assert len(found) == num_tokens


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize("num_tokens", range(8, 30))
def test_pieces_and_padding_fill_whole_windows(num_tokens, shift):
    for stretch in cut_axis(num_tokens, shift):
        end = stretch.first + stretch.length + stretch.num_padding
        assert end in (WINDOW_SIZE, WINDOW_SIZE - shift)


def test_32_tokens_are_cut_as_the_module_says():
    stretches = cut_axis(32, SHIFT)
    assert [(s.count, s.length, s.num_padding) for s in stretches] == [
        (1, 3, 0),
        (4, 7, 0),
        (1, 1, 3),
    ]


def test_an_axis_of_one_window_is_not_shifted():
    assert cut_axis(7, SHIFT) == cut_axis(7, 0)
    assert len(cut_axis(8, SHIFT)) == 2


@pytest.mark.parametrize("grid", [(8, 8, 8), (16, 9, 5), (23, 3, 7), (1, 1, 2)])
@pytest.mark.parametrize("shift", [0, SHIFT])
def test_a_layout_lists_each_token_of_the_batch_once(grid, shift):
    layout = make_layout(2, grid, shift, CPU)
    num_tokens = 2 * grid[0] * grid[1] * grid[2]
    assert layout.order.sort().values.tolist() == list(range(num_tokens))
    assert layout.order[layout.place].tolist() == list(range(num_tokens))
    assert sum(kind.num_boxes * kind.num_tokens for kind in layout.kinds) == num_tokens


def test_tokens_of_a_whole_window_use_the_whole_index():
    (kind,) = make_layout(1, (14, 7, 7), 0, CPU).kinds
    assert kind.num_boxes == 2
    assert torch.equal(kind.bias_index.view(343, 343), torch.from_numpy(relative_position_index()))
    assert kind.padding_index.shape == (343, 0)


def test_a_clipped_window_reads_the_first_rows_of_the_index():
    (kind,) = make_layout(1, (6, 6, 6), SHIFT, CPU).kinds
    expected = torch.from_numpy(relative_position_index())[:216, :216]
    assert torch.equal(kind.bias_index.view(216, 216), expected)


def test_the_index_counts_offsets_between_tokens():
    index_TT = relative_position_index()
    assert index_TT.min() == 0
    assert index_TT.max() == 13**3 - 1
    assert (index_TT.diagonal() == 13**3 // 2).all()


def test_a_layout_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        layout = make_layout(1, (11, 3, 2), SHIFT, CPU)
    assert not layout.order.is_inference()
    assert make_layout(1, (11, 3, 2), SHIFT, CPU) is layout
