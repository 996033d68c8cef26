import numpy as np
import pytest

from brainsegfounder.errors import UsageError
from brainsegfounder.workflows.experiments.subsets import nested_order, num_kept

DRAWN = np.random.default_rng(3).lognormal(2, 1.5, 64)
LOADS = {f"s{n:02d}": float(load) for n, load in enumerate(DRAWN)}
RANK = {name: rank for rank, name in enumerate(sorted(LOADS, key=LOADS.__getitem__))}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 4, 8, 16, 32])
def test_every_beginning_has_one_of_each_part_of_the_loads(seed, size):
    kept = nested_order(LOADS, seed)[:size]
    assert sorted(RANK[name] * size // 64 for name in kept) == list(range(size))


@pytest.mark.parametrize("num", [0, 1, 2, 3, 7, 24, 63])
def test_an_order_holds_everyone_once(num):
    loads = dict(list(LOADS.items())[:num])
    assert sorted(nested_order(loads, 1)) == sorted(loads)


def test_beginnings_of_any_size_are_near_the_pool_in_the_mean_of_ranks():
    sizes = range(6, 64)
    off = [
        abs(np.mean([RANK[name] for name in nested_order(LOADS, seed)[:size]]) - 31.5)
        for seed in range(20)
        for size in sizes
    ]
    # Random subsets of 6 of 64 miss the middle by 7.2 ranks in the root mean square.
    assert max(off) < 6
    assert np.mean(off) < 2


def test_the_seed_draws_other_subsets_and_the_order_of_names_does_not():
    backwards = dict(reversed(LOADS.items()))
    assert nested_order(backwards, 7) == nested_order(LOADS, 7)
    firsts = {tuple(sorted(nested_order(LOADS, seed)[:4])) for seed in range(10)}
    assert len(firsts) == 10


def test_equal_loads_are_drawn_as_well():
    loads = dict.fromkeys("abcdefgh", 0.0)
    assert len({tuple(nested_order(loads, seed)[:2]) for seed in range(20)}) > 3


@pytest.mark.parametrize(
    ("fraction", "num", "kept"), [(1.0, 24, 24), (0.1, 24, 2), (0.25, 24, 6), (0.05, 1001, 50)]
)
def test_a_fraction_is_rounded_and_leaves_two_at_least(fraction, num, kept):
    assert num_kept(fraction, num) == kept


@pytest.mark.parametrize(
    ("fraction", "num", "told"),
    [(0.0, 9, "shares above 0"), (1.5, 9, "shares above 0"), (0.5, 1, "1 subjects with labels")],
)
def test_impossible_fractions_are_refused(fraction, num, told):
    with pytest.raises(UsageError, match=told):
        num_kept(fraction, num)
