import numpy as np
import pytest
import torch

from brainsegfounder.data.loader import Batch, PatchDataset, PatchSampling, batches
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import StorePlan, open_store
from brainsegfounder.data.store_writer import finish_store, write_case
from brainsegfounder.errors import DataError
from brainsegfounder.settings import AugmentSettings, PreparationSettings
from brainsegfounder.volumes.preparation import prepare
from brainsegfounder.volumes.volume import Volume

SETTINGS = PreparationSettings(spacing_mm=None, margin_mm=2.0)
NAMES = ("a", "b", "c")
CONTRASTS = ("T1w", "FLAIR")


def made(folder, draw_brain, array_format="blosc2"):
    cases = [Case(name, name, {}) for name in NAMES]
    for seed, case in enumerate(cases):
        image, labels = draw_brain(num_contrasts=2, seed=seed)
        write_case(folder, case, prepare(image, SETTINGS, labels), array_format=array_format)
    finish_store(folder, cases, StorePlan(CONTRASTS, SETTINGS, array_format=array_format))
    return open_store(folder)


@pytest.fixture(scope="module")
def store(draw_brain, tmp_path_factory):
    return made(tmp_path_factory.mktemp("store"), draw_brain)


def dataset(store, seed=0, contrasts=CONTRASTS, **sampling):
    chosen = {"patch_size_vox": (8, 10, 12), "with_labels": True, **sampling}
    return PatchDataset(store, store.cases, contrasts, PatchSampling(**chosen), seed)


def same(one, other):
    return (
        one.cases == other.cases
        and one.subjects == other.subjects
        and one.numbers == other.numbers
        and torch.equal(one.image, other.image)
        and torch.equal(one.labels, other.labels)
    )


def test_sample_n_is_a_function_of_the_seed_and_n_alone(store):
    one, other = (dataset(store, augment=AugmentSettings(noise=1.0)) for _ in range(2))
    forward = [one[n] for n in range(7)]
    backward = [other[n] for n in reversed(range(7))][::-1]
    assert all(map(same, forward, backward))
    assert not same(forward[0], dataset(store, seed=1, augment=AugmentSettings(noise=1.0))[0])


def test_every_case_comes_once_an_epoch_in_an_order_of_its_own(store):
    data = dataset(store)
    epochs = [[data[3 * epoch + n].cases[0] for n in range(3)] for epoch in range(8)]
    assert all(sorted(epoch) == sorted(NAMES) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_case_gives_another_patch_in_every_epoch(store):
    data = dataset(store)
    of_a = [sample.image for n in range(18) if (sample := data[n]).cases == ("a",)]
    assert len(of_a) == 6
    assert len({image.numpy().tobytes() for image in of_a}) == 6


def test_a_patch_is_cut_from_the_stored_image_with_its_mask(store):
    data = dataset(store, crops_per_case=2)
    sample = data[4]
    assert sample.image.shape == (2, 2, 8, 10, 12)
    assert sample.labels.shape == (2, 1, 8, 10, 12)
    assert sample.image.dtype == torch.float32
    case = next(case for case in store.cases if case.case == sample.cases[0])
    whole, mask = store.image(case)[:].astype(np.float32), store.labels(case)[:]
    windows = np.lib.stride_tricks.sliding_window_view(whole, (2, 8, 10, 12))[0]
    for image, labels in zip(sample.image.numpy(), sample.labels.numpy(), strict=True):
        hits = np.argwhere((windows == image).all(axis=(3, 4, 5, 6)))
        assert len(hits) == 1
        i, j, k = hits[0]
        np.testing.assert_array_equal(labels, mask[:, i : i + 8, j : j + 10, k : k + 12])


def test_samples_of_an_npy_store_are_the_same(store, draw_brain, tmp_path):
    plain = dataset(made(tmp_path, draw_brain, "npy"), foreground_fraction=0.5)
    assert all(same(plain[n], dataset(store, foreground_fraction=0.5)[n]) for n in range(3))
    augmented = dataset(plain.store, augment=AugmentSettings())
    assert same(augmented[1], dataset(store, augment=AugmentSettings())[1])


def test_contrasts_come_in_the_order_asked_for(store):
    both, swapped = dataset(store)[0], dataset(store, contrasts=("FLAIR", "T1w"))[0]
    assert torch.equal(both.image.flip(1), swapped.image)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_go_on_where_another_run_stopped(store, num_workers):
    data = dataset(store, augment=AugmentSettings())
    whole = list(batches(data, first_batch=0, num_batches=4, batch_size=2, num_workers=0))
    rest = list(batches(data, first_batch=2, num_batches=2, batch_size=2, num_workers=num_workers))
    assert all(map(same, whole[2:], rest))
    assert same(
        whole[1],
        Batch(
            torch.cat([data[2].image, data[3].image]),
            torch.cat([data[2].labels, data[3].labels]),
            None,
            data[2].cases + data[3].cases,
            data[2].subjects + data[3].subjects,
            data[2].numbers + data[3].numbers,
        ),
    )


def test_a_patch_larger_than_the_volume_holds_all_of_it_in_the_middle(store):
    sample = dataset(store, patch_size_vox=(64, 16, 64))[0]
    case = next(case for case in store.cases if case.case == sample.cases[0])
    image = sample.image[0].numpy()
    i, _, k = case.shape_vox
    before_i, before_k = (64 - i + 1) // 2, (64 - k + 1) // 2
    inner = image[:, before_i : before_i + i, :, before_k : before_k + k]
    assert np.count_nonzero(inner) == np.count_nonzero(image) > 0
    assert sample.labels.shape == (1, 1, 64, 16, 64)


def test_a_foreground_fraction_of_1_always_hits_a_labelled_voxel(store):
    data = dataset(store, foreground_fraction=1.0, patch_size_vox=(4, 4, 4))
    assert all(data[n].labels.any() for n in range(40))


def test_without_a_foreground_fraction_most_small_patches_miss(store):
    data = dataset(store, patch_size_vox=(4, 4, 4))
    assert sum(bool(data[n].labels.any()) for n in range(40)) < 30


def test_rare_labels_are_drawn_as_often_as_common_ones(store):
    data = dataset(store, foreground_fraction=1.0, patch_size_vox=(4, 4, 4))
    hits = sum(bool((data[n].labels == 4).any()) for n in range(60))
    assert hits >= 15, "one label in three"


def test_no_masks_are_read_where_none_are_wanted(store):
    data = dataset(store, with_labels=False)
    (batch,) = batches(data, first_batch=0, num_batches=1, batch_size=2, num_workers=0)
    assert data[0].labels is None
    assert batch.labels is None
    assert batch.image.shape[0] == len(batch.cases) == 2


def test_a_batch_moves_whole(store):
    moved = dataset(store)[0].to(torch.device("cpu"))
    assert same(moved, dataset(store)[0])


def missing(sample):
    """Which contrasts of a sample are 0 everywhere, in all of its crops alike."""
    absent = ~sample.image.any(dim=(2, 3, 4))
    assert torch.equal(absent, absent[:1].expand_as(absent))
    return tuple(absent[0].tolist())


def test_contrasts_are_missing_as_often_as_was_asked_and_never_all(store):
    whole, some = dataset(store), dataset(store, contrast_dropout=0.4, crops_per_case=2)
    found = [missing(some[n]) for n in range(300)]
    assert not any(missing(whole[n]) == (True, False) for n in range(20))
    assert (True, True) not in found
    # Of 0.16 in which both are missing, one of the two is given back.
    for place in range(2):
        assert sum(row[place] for row in found) / 300 == pytest.approx(0.4 - 0.08, abs=0.08)
    certain = dataset(store, contrast_dropout=1.0)
    assert {missing(certain[n]) for n in range(30)} == {(True, False), (False, True)}


def test_what_is_not_missing_is_the_same_patch_as_without_dropout(store):
    options = {"augment": AugmentSettings(noise=1.0), "foreground_fraction": 0.5}
    whole, some = dataset(store, **options), dataset(store, contrast_dropout=0.6, **options)
    for n in range(12):
        one, other = whole[n], some[n]
        assert torch.equal(one.labels, other.labels)
        kept = ~torch.tensor(missing(other))
        assert torch.equal(one.image[:, kept], other.image[:, kept])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_which_contrasts_are_missing_follows_from_seed_and_number_alone(store, num_workers):
    data = dataset(store, contrast_dropout=0.5)
    whole = list(batches(data, first_batch=0, num_batches=6, batch_size=2, num_workers=0))
    rest = list(batches(data, first_batch=3, num_batches=3, batch_size=2, num_workers=num_workers))
    assert all(map(same, whole[3:], rest))
    assert not all(map(same, whole[3:], whole[:3]))


def test_a_split_without_a_case_is_refused(store):
    with pytest.raises(DataError, match="no case to draw patches from"):
        PatchDataset(store, [], CONTRASTS, PatchSampling((4, 4, 4)), 0)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
def test_batches_are_the_same_for_any_number_of_workers(store, num_workers):
    data = dataset(store, augment=AugmentSettings(noise=1.0), crops_per_case=2)
    options = {"first_batch": 1, "num_batches": 7, "batch_size": 2}
    plain = list(batches(data, num_workers=0, **options))
    assert len(plain) == 7
    assert all(map(same, plain, batches(data, num_workers=num_workers, **options)))


def test_patches_of_a_run_are_numbered_without_a_gap(store):
    data = dataset(store, crops_per_case=3)
    every = list(batches(data, first_batch=2, num_batches=2, batch_size=2, num_workers=0))
    assert [n for batch in every for n in batch.numbers] == list(range(12, 24))


@pytest.fixture(scope="module")
def masked(draw_brain, tmp_path_factory):
    """A store of two cases: one with a deface and an anatomy mask, one with none."""
    folder = tmp_path_factory.mktemp("masked")
    cases = [Case(name, name, {}) for name in ("masked", "plain")]
    for seed, case in enumerate(cases):
        image, labels = draw_brain(num_contrasts=2, seed=seed)
        masks = {}
        if case.case == "masked":
            deface, anatomy = np.zeros((2, *labels.voxels.shape), dtype=np.int16)
            deface[:, :, 20:], anatomy[:, 4:] = 1, 1
            masks = {
                "deface": Volume(deface, labels.affine),
                "anatomy": Volume(anatomy, labels.affine),
            }
        write_case(folder, case, prepare(image, SETTINGS, labels, masks=masks))
    finish_store(folder, cases, StorePlan(CONTRASTS, SETTINGS))
    return open_store(folder)


def test_valid_is_inside_the_anatomy_mask_and_outside_the_deface_mask(masked):
    data = dataset(masked, with_valid=True, patch_size_vox=(64, 64, 64), with_labels=False)
    of = {sample.cases[0]: sample for sample in (data[0], data[1])}
    case = next(case for case in masked.cases if case.case == "masked")
    hidden, shown = (masked.mask(case, name)[:] > 0 for name in ("deface", "anatomy"))
    assert of["masked"].valid.dtype == torch.bool
    assert of["masked"].valid.shape == (1, 1, 64, 64, 64)
    wanted = np.count_nonzero(shown & ~hidden)
    assert int(of["masked"].valid.sum()) == wanted > 0
    assert of["plain"].valid.all(), "a case without masks shows anatomy everywhere"


def test_valid_follows_the_flips_of_the_image(masked):
    whole = {"patch_size_vox": (64, 64, 64), "with_valid": True}
    still = AugmentSettings(flip=0.0, scale_intensity=0.0, shift_intensity=0.0)
    turning = still.model_copy(update={"flip": 1.0})
    one, other = (dataset(masked, augment=settings, **whole) for settings in (still, turning))
    for number in range(2):
        for name in ("image", "labels", "valid"):
            plain, flipped = (getattr(data[number], name) for data in (one, other))
            assert torch.equal(plain.flip(2, 3, 4), flipped)


def test_no_valid_mask_is_made_where_no_case_has_one(store):
    assert dataset(store, with_valid=True)[0].valid is None


def test_crops_have_the_brain_that_is_asked_for(store):
    small = {"patch_size_vox": (8, 8, 8), "with_labels": False, "seed": 3}
    shares = [
        [
            float((dataset(store, min_brain=least, **small)[n].image[0, 0] != 0).float().mean())
            for n in range(30)
        ]
        for least in (0.0, 0.9)
    ]
    assert min(shares[0]) < 0.5
    assert sum(share < 0.9 for share in shares[1]) <= 1
    assert sum(shares[1]) > sum(shares[0])


def test_of_crops_with_too_little_brain_the_best_of_ten_is_taken(store, monkeypatch):
    data = dataset(store, min_brain=1.0, patch_size_vox=(24, 24, 24), with_labels=False)
    drawn = []
    start = PatchDataset._start
    monkeypatch.setattr(PatchDataset, "_start", lambda *a: drawn.append(start(*a)) or drawn[-1])
    sample = data[0]
    case = next(case for case in store.cases if case.case == sample.cases[0])
    whole = torch.from_numpy(store.image(case)[:].astype(np.float32))
    padded = torch.nn.functional.pad(whole, (24,) * 6)
    brains = []
    for i, j, k in drawn:
        box = padded[0, i + 24 : i + 48, j + 24 : j + 48, k + 24 : k + 48]
        brains.append(float((box != 0).float().mean()))
    assert len(drawn) == 10
    assert float((sample.image[0, 0] != 0).float().mean()) == max(brains)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_parts_of_several_processes_are_the_batches_of_one(store, num_processes):
    data = dataset(store)
    options = {"first_batch": 0, "num_batches": 2, "num_workers": 0, "first_sample": 5}
    whole = batches(data, batch_size=2 * num_processes, **options)
    parts = [
        batches(data, batch_size=2, rank=rank, num_processes=num_processes, **options)
        for rank in range(num_processes)
    ]
    for joined, *made_of in zip(whole, *parts, strict=True):
        assert joined.numbers == tuple(number for part_of in made_of for number in part_of.numbers)
        assert torch.equal(joined.image, torch.cat([part_of.image for part_of in made_of]))
